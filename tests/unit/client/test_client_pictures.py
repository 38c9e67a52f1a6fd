"""What counts as a picture, and what becomes of a PIL image on its way."""

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from clipseek.pictures import memory_bytes, picture_bytes, sniff


@pytest.mark.parametrize(
    ("format_", "media_type"),
    [
        ("JPEG", "image/jpeg"),
        ("PNG", "image/png"),
        ("GIF", "image/gif"),
        ("WEBP", "image/webp"),
        ("BMP", "image/bmp"),
        ("TIFF", "image/tiff"),
        ("AVIF", "image/avif"),
    ],
)
def test_pictures_are_known_by_their_first_bytes(format_: str, media_type: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, format_)
    assert sniff(buffer.getvalue()[:32]) == media_type


def test_what_a_picture_takes_in_memory() -> None:
    assert [memory_bytes(kind(b"12345")) for kind in (bytes, bytearray, memoryview)] == [5, 5, 5]
    assert memory_bytes(Image.new("RGB", (5, 3))) == 45
    assert memory_bytes("a/path.jpg") == memory_bytes(Path("path.jpg")) == 0


@given(st.binary(max_size=32))
def test_anything_can_be_sniffed(data: bytes) -> None:
    assert sniff(data) is None or data[:1] in b"\xff\x89GBIMR" or data[4:8] == b"ftyp"


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "I;16", "I", "F", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"]
)
def test_every_mode_of_pil_becomes_a_file(mode: str) -> None:
    image = Image.new(mode, (5, 3))
    if mode in {"I", "F"}:
        image.putdata([number * 4_000 for number in range(15)])
    again = Image.open(io.BytesIO(picture_bytes(image)))
    assert again.size == (5, 3)
    if mode not in {"PA", "RGBX", "YCbCr", "HSV"}:
        assert again.mode == mode
        assert again.tobytes() == image.tobytes()


def test_the_orientation_of_a_pil_image_goes_along() -> None:
    image = Image.new("RGB", (4, 2))
    image.getexif()[0x0112] = 6
    again = Image.open(io.BytesIO(picture_bytes(image)))
    assert ImageOps.exif_transpose(again).size == (2, 4)
