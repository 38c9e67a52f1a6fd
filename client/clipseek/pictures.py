"""Pictures as callers have them: bytes, a path or a PIL image. Pillow is used only if the caller does."""

import base64
import io
import os
from pathlib import Path
from typing import IO, Any, Protocol, TypeAlias

from clipseek.errors import InvalidArgumentError

# What a format can hold without loss, by PIL mode.
_PNG_MODES = frozenset({"1", "L", "LA", "I;16", "P", "RGB", "RGBA"})
_TIFF_MODES = frozenset({"I", "F", "CMYK", "LAB"})


class PilImage(Protocol):
    """What is used of a ``PIL.Image.Image``."""

    @property
    def mode(self) -> str:
        """The pixels' layout, e.g. ``RGB``."""

    def save(self, fp: IO[bytes], format: str | None = None, **params: Any) -> None:
        """Encode into a file."""

    def convert(self, mode: str) -> "PilImage":
        """Change the pixels' layout."""

    def getexif(self) -> Any:
        """The EXIF block; a mapping."""


SHOWN_BY_BROWSERS = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp", "image/bmp", "image/avif"})
"""The media types that browsers show."""

Picture: TypeAlias = bytes | bytearray | memoryview | str | os.PathLike[str] | PilImage


def picture_bytes(picture: Picture) -> bytes:
    """The bytes of a picture's file.

    Bytes are taken as they are, a string or path is read, and a PIL image is encoded as PNG, or as TIFF where PNG would
    lose something; its EXIF orientation goes along. Only YCbCr, HSV and rare kinds of alpha are converted. What is a
    file already is best given as its path: the server then stores the original.

    Raises:
        OSError: The file cannot be read.
        TypeError: It is none of these.
    """
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, bytearray | memoryview):
        return bytes(picture)
    if isinstance(picture, str | os.PathLike):
        return Path(picture).read_bytes()
    if hasattr(picture, "save") and hasattr(picture, "getexif"):
        return _encode(picture)
    raise TypeError(f"a picture is bytes, a path or a PIL image, not {type(picture).__name__}")


def memory_bytes(picture: Picture) -> int:
    """What the caller's picture takes in memory, about; nothing for a path."""
    if isinstance(picture, bytes | bytearray | memoryview):
        return memoryview(picture).nbytes
    match getattr(picture, "size", None), getattr(picture, "mode", None):
        case (int(width), int(height)), str(mode):
            return width * height * len(mode)
    return 0


def picture_bytes_or_refuse(picture: Picture) -> bytes:
    """The same for one of many pictures: what cannot be read is an error of that picture alone."""
    try:
        return picture_bytes(picture)
    except (OSError, TypeError, ValueError) as error:
        raise InvalidArgumentError(
            f"the picture cannot be read: {error}", reason="INVALID_IMAGE", field="image_data"
        ) from error


def check_size(picture: bytes, max_bytes: int) -> None:
    """Refuse a picture of which there are too many bytes, in the server's place: a message may not hold it.

    Raises:
        InvalidArgumentError: It has more than ``max_bytes`` (the server's ``limits.max_image_bytes``).
    """
    if len(picture) > max_bytes:
        raise InvalidArgumentError(
            f"the picture has {len(picture):,} bytes, and the server takes {max_bytes:,}",
            reason="IMAGE_TOO_LARGE",
            field="image_data",
        )


def sniff(start: bytes) -> str | None:
    """The media type of a picture file by its first 32 bytes, or ``None`` when it looks like no picture."""
    for magic, media_type in _MAGIC:
        if start.startswith(magic):
            return media_type
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "image/webp"
    if start[4:8] == b"ftyp":
        return _FTYP.get(start[8:12])
    return None


def data_uri(picture: bytes) -> str:
    """The bytes of a picture's file as an address that holds them."""
    return f"data:{sniff(picture[:32])};base64,{base64.b64encode(picture).decode('ascii')}"


_MAGIC = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
)
_FTYP = {
    b"avif": "image/avif",
    b"avis": "image/avif",
    b"heic": "image/heic",
    b"heix": "image/heic",
    b"mif1": "image/heif",
    b"msf1": "image/heif",
}


def _encode(image: PilImage) -> bytes:
    exif = image.getexif()
    options = {"exif": exif} if exif else {}
    buffer = io.BytesIO()
    if image.mode in _TIFF_MODES:
        image.save(buffer, "TIFF", **options)
        return buffer.getvalue()
    if image.mode not in _PNG_MODES:
        image = image.convert("RGBA" if image.mode in {"PA", "La", "RGBa"} else "RGB")
    # compress_level 1: a third of the time for a tenth more bytes.
    image.save(buffer, "PNG", compress_level=1, **options)
    return buffer.getvalue()
