"""Putting a downloaded picture together and checking that it is whole."""

import hashlib
import os
import stat
from pathlib import Path

from clipseek import responses
from clipseek.errors import InternalError
from clipseek.results import Image
from clipseek.v1 import search_service_pb2


def destination(path: str | os.PathLike[str]) -> Path:
    """Where a download to a path goes: to what a link leads to, there or not.

    Raises:
        ValueError: A device, a pipe or a socket is there, which the file would take the place of.
        OSError: A folder is there, or the path cannot be followed.
    """
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{os.fspath(path)} is a folder; name a file in it")
    if not stat.S_ISREG(mode):
        raise ValueError(f"{os.fspath(path)} is a device, a pipe or a socket; name a regular file")
    return Path(path).resolve()


class Download:
    """Takes the messages of one DownloadImage call in order."""

    def __init__(self, *, request_id: str) -> None:
        self._request_id = request_id
        self._image: Image | None = None
        self._size = 0
        self._hash = hashlib.sha256()

    def feed(self, message: search_service_pb2.DownloadImageResponse) -> bytes:
        """The bytes that a message brings; none for the header."""
        if message.HasField("header"):
            self._image = responses.image(message.header.image)
            return b""
        self._size += len(message.chunk)
        self._hash.update(message.chunk)
        return message.chunk

    def finish(self) -> Image:
        """The record; raises ``InternalError`` when the bytes are not those that it names."""
        image = self._image
        if image is None:
            raise self._damaged("the server sent no header")
        if self._size != image.size_bytes:
            raise self._damaged(f"{self._size:,} bytes of {image.image_id} came instead of {image.size_bytes:,}")
        if self._hash.hexdigest() != image.content_sha256:
            raise self._damaged(f"the bytes of {image.image_id} do not have the hash that its record names")
        return image

    def _damaged(self, message: str) -> InternalError:
        return InternalError(f"damaged download: {message}", request_id=self._request_id)
