"""From a picture's bytes to the pixels that a vision tower takes.

What a picture means is decided here, and is part of a model's space: the orientation of its EXIF data is applied,
transparency lies on white, everything becomes 8-bit RGB. ICC profiles are ignored, as every CLIP was trained to.
Animations and books of pages give their first picture.
"""

import io
import logging
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, features

from clipseek_server.config import MIB
from clipseek_server.encoding.bundle import PixelSpec
from clipseek_server.encoding.colors import to_rgb
from clipseek_server.errors import ImageTooLarge, InvalidImage

# Our own limit is exact and a setting; Pillow's is a global that warns. Set once: toggling a global is not thread-safe.
Image.MAX_IMAGE_PIXELS = None
# Pillow's blocks of memory (its PILLOW_BLOCK_SIZE). Those above 32 MB glibc gives back at once. Blocks of 16 MB,
# Pillow's default, it kept: up to 12 bytes a pixel in each decode thread, beside its next picture.
Image.core.set_block_size(64 * MIB)  # type: ignore[attr-defined]
# Pillow warns of oddities in pictures, and logs some; that is nothing an operator can act on.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)
# Registers the plug-ins, once and before there are threads.
Image.init()

_MEDIA_TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
    "AVIF": "image/avif",
    "HEIF": "image/heic",
}

# Only these are ever tried: the rest of Pillow's formats are rare, and some start other programs (EPS).
_FORMATS = tuple(
    name
    for name in _MEDIA_TYPES
    if name in Image.OPEN and (name not in features.modules or features.check(name.lower()))
)

SUPPORTED_MEDIA_TYPES = tuple(_MEDIA_TYPES[name] for name in _FORMATS)
"""What this server can decode."""

MAX_SIDE = 65_535
"""Longest side in pixels, JPEG's own limit. Pillow keeps a pointer for each row, so rows can cost more than pixels."""

THUMBNAIL_SOURCE = 512
"""Longer side in pixels, at least, of what a thumbnail is made from, unless the original is smaller."""

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels; pixels may be cut."""

_PNG_END = b"IEND\xaeB`\x82"
"""The last chunk's type and checksum; it is always empty."""

_ORIENTATION_TAG = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Orientations that bring an edge which is stored on the right or at the bottom to the left, or to the top.
_FROM_LEFT = {2, 3, 6, 7}
_FROM_TOP = {3, 4, 7, 8}
_SIDEWAYS = {5, 6, 7, 8}
_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True, slots=True, eq=False)
class DecodedPicture:
    """A decoded picture, small whatever the size of the original.

    Attributes:
        pixels: uint8 ``[3, height, width]`` as the vision tower takes them.
        width: Pixels of the original, after EXIF orientation.
        height: Pixels of the original, after EXIF orientation.
        media_type: What its bytes are, e.g. ``image/jpeg``.
        thumbnail: A small JPEG; empty when none was asked for.
    """

    pixels: npt.NDArray[np.uint8]
    width: int
    height: int
    media_type: str
    thumbnail: bytes = b""


def decode_picture(
    data: bytes,
    spec: PixelSpec,
    *,
    max_pixels: int,
    jpeg_scale: float | None = None,
    thumbnail: Callable[[Image.Image], bytes] | None = None,
) -> DecodedPicture:
    """Decode a picture. While it works it takes 4 to 16 bytes a pixel of the original, less of a reduced JPEG.

    Args:
        data: The picture's bytes, as uploaded.
        spec: The vision tower's input.
        max_pixels: Width times height at most.
        jpeg_scale: The decoder may reduce a JPEG to a half, a quarter or an eighth while its shorter side stays this
            many times ``spec.resize_to`` or longer, which costs a fraction; ``None``: decode all of them in full.
        thumbnail: Makes a thumbnail of the upright RGB picture, which may be reduced too, but not its longer side to
            less than ``THUMBNAIL_SOURCE``.

    Raises:
        InvalidImage: Not a whole picture of a supported format.
        ImageTooLarge: Too many pixels, by its header.
    """
    image = _open(data)
    _check_size(image.size, max_pixels)
    media_type = _MEDIA_TYPES["JPEG" if image.format == "MPO" else image.format or ""]
    try:
        size = image.size
        reduction = 1 if jpeg_scale is None else _reduce(image, math.ceil(jpeg_scale * spec.resize_to), thumbnail)
        image.load()
        if image.format == "PNG" and _PNG_END not in data:
            # Pillow is content with the pixels.
            raise ValueError("the file is cut off")
        if reduction == 1:
            # A frame may reach beyond the canvas that the header named.
            size = image.size
            _check_size(size, max_pixels)
        orientation = _orientation(image)
        # One name for all of them: each is let go of when the next one is there.
        if orientation in _TRANSPOSE:
            image = image.transpose(_TRANSPOSE[orientation])
        image = to_rgb(image)
    except ImageTooLarge:
        raise
    except Exception as error:
        raise InvalidImage(f"the picture ({media_type}) cannot be decoded: {_explain(error)}") from error
    width, height = reversed(size) if orientation in _SIDEWAYS else size
    whole = _within(image.size, width / reduction, height / reduction, orientation)
    return DecodedPicture(
        pixels=preprocess(image, spec, whole),
        width=width,
        height=height,
        media_type=media_type,
        thumbnail=thumbnail(image) if thumbnail is not None else b"",
    )


def preprocess(image: Image.Image, spec: PixelSpec, whole: Box | None = None) -> npt.NDArray[np.uint8]:
    """Scale and crop an RGB picture to uint8 ``[3, spec.height, spec.width]``.

    It gives what scaling the whole picture and cropping its centre would, but scales only what the crop keeps: the
    shorter side of a 1 x 50,000 picture at 224 would make 11 million rows.

    Args:
        image: The picture.
        spec: The vision tower's input.
        whole: Where in ``image`` the picture lies, if that is not all of it.
    """
    whole = whole or (0.0, 0.0, float(image.width), float(image.height))
    box = whole
    if spec.resize == "shortest_edge":
        width, height = whole[2] - whole[0], whole[3] - whole[1]
        shorter = min(width, height)
        scaled_width, scaled_height = (int(spec.resize_to * side / shorter) for side in (width, height))
        left, top = (scaled_width - spec.width) // 2, (scaled_height - spec.height) // 2
        across, down = width / scaled_width, height / scaled_height
        box = (
            whole[0] + left * across,
            whole[1] + top * down,
            min(whole[2], whole[0] + (left + spec.width) * across),
            min(whole[3], whole[1] + (top + spec.height) * down),
        )
    scaled = image.resize((spec.width, spec.height), _RESAMPLING[spec.interpolation], box)
    return np.ascontiguousarray(np.asarray(scaled).transpose(2, 0, 1))


def _open(data: bytes) -> Image.Image:
    if not data:
        raise InvalidImage("the picture is empty")
    try:
        return Image.open(io.BytesIO(data), formats=_FORMATS)
    except Exception as error:
        for name in _FORMATS:
            accepts = Image.OPEN[name][1]
            if accepts is not None and accepts(data[:16]) is True:
                message = f"the picture ({_MEDIA_TYPES[name]}) has a header that is damaged, cut off or of a rare kind"
                raise InvalidImage(message) from error
        raise InvalidImage(f"not a picture of a supported format ({', '.join(SUPPORTED_MEDIA_TYPES)})") from error


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageTooLarge(
            f"the picture has {width} x {height} = {width * height} pixels, more than the limit of {max_pixels}; "
            "scale it down",
            width=str(width),
            height=str(height),
            max_pixels=str(max_pixels),
        )
    if max(size) > MAX_SIDE:
        raise ImageTooLarge(
            f"the picture is {width} x {height} pixels; no side may be longer than {MAX_SIDE}; scale it down or cut it",
            width=str(width),
            height=str(height),
            max_side=str(MAX_SIDE),
        )


def _reduce(image: Image.Image, shorter: int, thumbnail: object) -> float:
    """Let a JPEG's decoder reduce it, at most until its sides are as short as they may be; returns by how much."""
    longer = shorter if thumbnail is None else max(shorter, THUMBNAIL_SOURCE)
    width = image.width
    drafted = image.draft(None, (longer, shorter) if width >= image.height else (shorter, longer))
    return 1 if drafted is None else width / drafted[1][2]


def _within(size: tuple[int, int], width: float, height: float, orientation: int) -> Box:
    """Where in an upright picture the original is.

    The last column and row that are stored of a reduced one may stand for fewer pixels than the others do.
    """
    left = size[0] - width if orientation in _FROM_LEFT else 0.0
    top = size[1] - height if orientation in _FROM_TOP else 0.0
    return left, top, left + width, top + height


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except Exception:
        # Broken EXIF data do not make a bad picture: it is shown as it lies, as browsers do.
        return 1
    return orientation if isinstance(orientation, int) else 1


def _explain(error: Exception) -> str:
    text = str(error)
    # Pillow's messages are meant for programmers: some hold an object's address or a path, some only a number.
    readable = text.isprintable() and not set(text) & set("<>/\\'\"") and not text.startswith("decoder error")
    return text[:200] if readable and isinstance(error, OSError | SyntaxError | ValueError) else "its data are damaged"
