"""The image store as a folder on a disk.

A blob is one file, written once: to a temporary name, fsync, rename, fsync of the folder. So a key either has all of
its bytes or none, whatever is killed or cut off when. The key ``uid/rest`` is the file ``uid/shard/rest`` with ``rest``
written in characters that are safe in a file name everywhere; 256 shards keep the folders of a large collection short.
"""

import asyncio
import errno
import hashlib
import os
import secrets
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar
from urllib.parse import quote, unquote

from clipseek_server.errors import ImageStoreUnavailable, StartupError
from clipseek_server.images.blobs import Blob
from clipseek_server.threads import thread_pool

RESERVED_BYTES = 128 * 1024 * 1024
"""The default: records on the same disk need some to be changed and deleted, and a picture whose record cannot be
written would only take what is left."""

STALE_SECONDS = 3600.0
"""Age at which a temporary file is the remains of a killed server; no write takes that long."""

_THREADS = 8
_INCOMING = ".incoming"
_MAX_NAME = 255
# One character for one, so that the longest key fits in the 255 bytes that a file name may have.
_TO_NAME = str.maketrans({"/": "=", ":": ","})
_FROM_NAME = str.maketrans({"=": "/", ",": ":"})

P = ParamSpec("P")
T = TypeVar("T")


class FolderStore:
    """An ``ImageStore`` in a folder. Disk work runs on threads of its own.

    Args:
        root: The folder; made if it is missing.
        reserved_bytes: Free space below which no picture is taken.

    Raises:
        StartupError: The folder cannot be made or written.
    """

    def __init__(self, root: Path, *, reserved_bytes: int = RESERVED_BYTES) -> None:
        self._root = root
        self._reserved_bytes = reserved_bytes
        self._incoming = root / _INCOMING
        self._threads = thread_pool("images", _THREADS)
        # Guards the making and removing of folders: none vanishes under a file that is about to enter it.
        self._folders = threading.Lock()
        self._durable: set[Path] = set()
        try:
            root.mkdir(parents=True, exist_ok=True)
            self._make_folder(self._incoming)
            self._remove_stale()
        except OSError as error:
            raise StartupError(f"the folder {root} cannot be used for pictures: {error}") from error

    async def put(self, key: str, data: bytes) -> None:
        """Store bytes under a new key; they are durable on return.

        Raises:
            FileExistsError: The key has bytes already; keys are written once.
            ImageStoreUnavailable: The disk is full, read-only or broken.
        """
        await self._on_thread(self._put, self._path(key), data)

    async def size(self, key: str) -> int | None:
        """How many bytes the key has; ``None`` when there are none."""
        return await self._on_thread(_size, self._path(key))

    async def get(self, key: str) -> bytes | None:
        """The bytes, or ``None`` when there are none."""
        return await self._on_thread(_read, self._path(key))

    async def chunks(self, key: str, size: int) -> AsyncIterator[bytes]:
        """The bytes in pieces of ``size``; raises ``ImageStoreUnavailable`` when there are none."""
        file = await self._on_thread(_open, self._path(key))
        if file is None:
            raise ImageStoreUnavailable("the image store lacks the bytes that the record names")
        try:
            while chunk := await self._on_thread(file.read, size):
                yield chunk
        finally:
            file.close()

    async def list(self, prefix: str = "") -> AsyncIterator[Blob]:
        """Everything below a prefix, in no particular order; blobs that come or go meanwhile may be missed."""
        for folder in await self._on_thread(self._shards, prefix):
            for blob in await self._on_thread(self._blobs, folder, prefix):
                yield blob

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete; keys without bytes do not matter. Folders that become empty go too."""
        await self._on_thread(self._delete, [self._path(key) for key in keys])

    async def close(self) -> None:
        """Wait for the disk work that was begun, and end the threads."""
        await asyncio.to_thread(self._threads.shutdown)

    async def _on_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        with _disk_errors():
            return await asyncio.get_running_loop().run_in_executor(self._threads, partial(work, *args, **kwargs))

    def _path(self, key: str) -> Path:
        uid, _, rest = key.partition("/")
        if not uid or not rest:
            raise ValueError("a blob's key is uid/rest")
        name = _to_name(rest)
        if len(name) > _MAX_NAME:
            raise ValueError("a blob's key is too long for a file name")
        return self._root / _to_name(uid) / hashlib.sha256(name.encode()).hexdigest()[:2] / name

    def _key(self, path: Path) -> str | None:
        """The key of a file; ``None`` for one that is not ours."""
        key = f"{_from_name(path.parent.parent.name)}/{_from_name(path.name)}"
        try:
            return key if self._path(key) == path else None
        except ValueError:
            return None

    def _put(self, path: Path, data: bytes) -> None:
        # A mark has no bytes, and what it marks makes room.
        if data and shutil.disk_usage(self._incoming).free < self._reserved_bytes + len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        temporary = self._incoming / secrets.token_hex(16)
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            with self._folders:
                self._make_folder(path.parent)
                if path.exists():
                    raise FileExistsError(errno.EEXIST, "the key has bytes already")
                temporary.rename(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)

    def _make_folder(self, folder: Path) -> None:
        """Make a folder below the root, and be sure that a power cut does not take it away."""
        if folder in self._durable and folder.is_dir():
            return
        if folder.parent != self._root:
            self._make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        # Also when it was there: whoever made it may have been killed before this.
        _sync_folder(folder.parent)
        self._durable.add(folder)

    def _delete(self, paths: Sequence[Path]) -> None:
        for path in paths:
            with suppress(NotADirectoryError):
                path.unlink(missing_ok=True)
        shards = {path.parent for path in paths}
        with self._folders:
            for folder in [*shards, *{shard.parent for shard in shards}]:
                with suppress(OSError):
                    folder.rmdir()
                    self._durable.discard(folder)

    def _shards(self, prefix: str) -> Sequence[Path]:
        uid, slash, _ = prefix.partition("/")
        folders = [
            folder
            for folder in self._root.iterdir()
            if not folder.name.startswith(".")
            and (_from_name(folder.name) == uid if slash else _from_name(folder.name).startswith(uid))
        ]
        shards: list[Path] = []
        for folder in folders:
            with suppress(FileNotFoundError, NotADirectoryError):
                shards.extend(folder.iterdir())
        return shards

    def _blobs(self, shard: Path, prefix: str) -> Sequence[Blob]:
        now = time.time()
        blobs = []
        with suppress(FileNotFoundError, NotADirectoryError):
            for path in shard.iterdir():
                key = self._key(path)
                if key is None or not key.startswith(prefix):
                    continue
                with suppress(FileNotFoundError):
                    status = path.stat()
                    blobs.append(Blob(key, status.st_size, max(0.0, now - status.st_mtime)))
        return blobs

    def _remove_stale(self) -> None:
        # Young ones may belong to another server that shares the folder.
        youngest = time.time() - STALE_SECONDS
        for path in self._incoming.iterdir():
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < youngest:
                    path.unlink()


def _to_name(part: str) -> str:
    """A part of a key as a file name; the dot of hidden files, ``.`` and ``..`` is escaped."""
    name = quote(part, safe="/:").translate(_TO_NAME)
    return "%2E" + name[1:] if name.startswith(".") else name


def _from_name(name: str) -> str:
    return unquote(name.translate(_FROM_NAME))


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _open(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        return None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ImageStoreUnavailable("the image store is full; free space on its disk") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise ImageStoreUnavailable("the image store may not be written or read; check its permissions") from error
        reason = os.strerror(error.errno) if error.errno else "unknown error"
        raise ImageStoreUnavailable(f"the image store does not work: {reason}") from error
