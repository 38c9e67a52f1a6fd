import io
import resource
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, features
from skimage import data as photographs
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from clipseek_server.config import DECODED_PIXEL_BYTES
from clipseek_server.encoding.bundle import PixelSpec
from clipseek_server.encoding.colors import to_rgb
from clipseek_server.encoding.pictures import (
    MAX_SIDE,
    SUPPORTED_MEDIA_TYPES,
    THUMBNAIL_SOURCE,
    decode_picture,
    preprocess,
)
from clipseek_server.errors import ImageTooLarge, InvalidImage
from clipseek_server.images.thumbnails import MAX_SIDE as THUMBNAIL_SIDE
from clipseek_server.images.thumbnails import make_thumbnail

# pytest undoes the filter that the module sets.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

MAX_PIXELS = 1_000_000


def pixel_spec(size=224, *, resize="shortest_edge", resize_to=None, interpolation="bicubic"):
    return PixelSpec(
        height=size,
        width=size,
        resize=resize,
        resize_to=resize_to or size,
        interpolation=interpolation,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )


SMALL = pixel_spec(8)


def decode(data, spec=SMALL, max_pixels=MAX_PIXELS, **options):
    return decode_picture(data, spec, max_pixels=max_pixels, **options)


def encoded(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def noise(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def center(pixels):
    return pixels[:, pixels.shape[1] // 2, pixels.shape[2] // 2]


# --- formats and modes -------------------------------------------------------------------------------------------

RED, HALF_RED_ON_WHITE = (200, 30, 40), (227, 142, 147)


def solid(mode, color, size=(16, 12)):
    return Image.new(mode, size, color)


def palette(transparency=None):
    image = solid("RGB", RED).convert("P", palette=Image.Palette.ADAPTIVE, colors=2)
    if transparency is not None:
        index = image.getpixel((0, 0))
        image.info["transparency"] = (
            index if transparency == "index" else bytes(128 if entry == index else 255 for entry in range(256))
        )
    return image


def png(bits, color_type, row, *, chunks=(), height=4, width=4):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            *(chunk(kind, body) for kind, body in chunks),
            chunk(b"IDAT", zlib.compress((b"\0" + row) * height)),
            chunk(b"IEND", b""),
        ]
    )


def tiff(row, *, bits, byte_order="<", sample_format=1, width=4):
    """A grey TIFF of as many rows as columns, which Pillow cannot write in every depth and byte order."""
    tags = {256: width, 257: width, 258: bits, 259: 1, 262: 1, 277: 1, 278: width, 279: len(row) * width}
    tags |= {339: sample_format, 273: 8 + 2 + 12 * (len(tags) + 2) + 4}
    directory = b"".join(struct.pack(f"{byte_order}HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    head = (b"II" if byte_order == "<" else b"MM") + struct.pack(f"{byte_order}HIH", 42, 8, len(tags))
    return head + directory + struct.pack(f"{byte_order}I", 0) + row * width


def bmp_with_alpha(color, width=4):
    """A 32-bit BMP whose header names an alpha mask; without one the fourth byte means nothing."""
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    red, green, blue, alpha = color
    body = bytes([blue, green, red, alpha]) * width * width
    info = struct.pack("<IiiHHIIiiII", 108, width, width, 1, 32, 3, len(body), 2835, 2835, 0, 0) + masks + bytes(52)
    return b"BM" + struct.pack("<IHHI", 14 + len(info) + len(body), 0, 0, 14 + len(info)) + info + body


WHITE, BLACK = (255, 255, 255), (0, 0, 0)
GREY_16 = struct.pack(">4H", *[0x8123] * 4)
RGB_16 = struct.pack(">12H", *[0x1234, 0x5678, 0x9ABC] * 4)
HALF_RED = solid("RGBA", (*RED, 128))


def of_two(format, **options):
    return encoded(solid("RGB", RED), format, save_all=True, append_images=[solid("RGB", BLACK)], **options)


def premultiplied_tiff(color):
    straight, premultiplied = (struct.pack("<HHII", 338, 3, 1, kind) for kind in (2, 1))
    data = encoded(solid("RGBA", color), "TIFF")
    assert straight in data
    return data.replace(straight, premultiplied)


# The first word of a name is the media type.
PICTURES = {
    "jpeg": (encoded(solid("RGB", RED), "JPEG", quality=95), RED),
    "jpeg progressive": (encoded(solid("RGB", RED), "JPEG", progressive=True), RED),
    "jpeg grey": (encoded(solid("L", 90), "JPEG"), (90, 90, 90)),
    "jpeg CMYK, inverted as Adobe does": (encoded(solid("CMYK", (0, 255, 255, 0)), "JPEG"), (255, 0, 0)),
    "jpeg of two pictures": (of_two("MPO"), RED),
    "png": (encoded(solid("RGB", RED), "PNG"), RED),
    "png RGBA": (encoded(HALF_RED, "PNG"), HALF_RED_ON_WHITE),
    "png RGBA transparent": (encoded(solid("RGBA", (0, 0, 0, 0)), "PNG"), WHITE),
    "png LA": (encoded(solid("LA", (0, 128)), "PNG"), (127, 127, 127)),
    "png L": (encoded(solid("L", 77), "PNG"), (77, 77, 77)),
    "png L with a transparent grey": (encoded(solid("L", 77), "PNG", transparency=77), WHITE),
    "png RGB with a transparent colour": (encoded(solid("RGB", RED), "PNG", transparency=RED), WHITE),
    "png 1": (encoded(solid("1", 1), "PNG"), WHITE),
    "png 1 with a transparent value": (encoded(solid("1", 0), "PNG", transparency=0), WHITE),
    "png 2 bits": (png(2, 0, bytes([0b01010101])), (85, 85, 85)),
    "png P": (encoded(palette(), "PNG"), RED),
    "png P with a transparent entry": (encoded(palette("index"), "PNG"), WHITE),
    "png P with half transparent entries": (encoded(palette("bytes"), "PNG"), HALF_RED_ON_WHITE),
    "png 16-bit grey": (png(16, 0, GREY_16), (0x81, 0x81, 0x81)),
    "png 16-bit grey with a transparent one": (png(16, 0, GREY_16, chunks=[(b"tRNS", GREY_16[:2])]), WHITE),
    "png 16-bit RGB": (png(16, 2, RGB_16), (0x12, 0x56, 0x9A)),
    "png 16-bit RGB with a transparent colour": (png(16, 2, RGB_16, chunks=[(b"tRNS", RGB_16[:6])]), WHITE),
    "png 16-bit LA": (png(16, 4, struct.pack(">8H", *[0, 0x8080] * 4)), (127, 127, 127)),
    "webp lossy": (encoded(solid("RGB", RED), "WEBP", quality=95), RED),
    "webp lossless": (encoded(solid("RGB", RED), "WEBP", lossless=True), RED),
    "webp RGBA": (encoded(HALF_RED, "WEBP", lossless=True), HALF_RED_ON_WHITE),
    "webp animated": (of_two("WEBP", lossless=True), RED),
    "gif": (encoded(palette(), "GIF"), RED),
    "gif with a transparent entry": (encoded(palette("index"), "GIF"), WHITE),
    "gif animated": (of_two("GIF"), RED),
    "bmp": (encoded(solid("RGB", RED), "BMP"), RED),
    "bmp 1": (encoded(solid("1", 0), "BMP"), BLACK),
    "bmp P": (encoded(palette(), "BMP"), RED),
    "bmp of 32 bits": (encoded(HALF_RED, "BMP"), RED),
    "bmp RGBA": (bmp_with_alpha((*RED, 128)), HALF_RED_ON_WHITE),
    "tiff": (encoded(solid("RGB", RED), "TIFF"), RED),
    "tiff lzw": (encoded(solid("RGB", RED), "TIFF", compression="tiff_lzw"), RED),
    "tiff jpeg": (encoded(solid("RGB", RED), "TIFF", compression="jpeg"), RED),
    "tiff group 4": (encoded(solid("1", 1), "TIFF", compression="group4"), WHITE),
    "tiff of two pages": (of_two("TIFF"), RED),
    "tiff RGBA": (encoded(HALF_RED, "TIFF"), HALF_RED_ON_WHITE),
    "tiff RGBa": (premultiplied_tiff((100, 15, 20, 128)), HALF_RED_ON_WHITE),
    "tiff RGBX": (encoded(solid("RGBX", (*RED, 7)), "TIFF"), RED),
    "tiff LA": (encoded(solid("LA", (0, 128)), "TIFF"), (127, 127, 127)),
    "tiff PA": (encoded(HALF_RED.convert("PA"), "TIFF"), HALF_RED_ON_WHITE),
    "tiff CMYK": (encoded(solid("CMYK", (0, 255, 255, 0)), "TIFF"), (255, 0, 0)),
    "tiff YCbCr": (encoded(solid("YCbCr", (128, 128, 128)), "TIFF", compression="jpeg"), (128, 128, 128)),
    "tiff LAB": (encoded(solid("LAB", (137, 128, 128)), "TIFF"), (128, 128, 128)),
    "tiff 16 bits": (tiff(struct.pack("<4H", *[0x8123] * 4), bits=16), (0x81, 0x81, 0x81)),
    "tiff 16 bits, big-endian": (tiff(GREY_16, bits=16, byte_order=">"), (0x81, 0x81, 0x81)),
    "tiff 12 bits": (tiff(bytes([0x81, 0x28, 0x12]) * 2, bits=12), (0x81, 0x81, 0x81)),
    "avif": (encoded(solid("RGB", RED), "AVIF", quality=95) if features.check("avif") else b"", RED),
    "avif RGBA": (encoded(HALF_RED, "AVIF", quality=95) if features.check("avif") else b"", HALF_RED_ON_WHITE),
}
LOSSY = ("jpeg", "avif", "webp lossy", "tiff jpeg", "tiff YCbCr", "tiff LAB")


@pytest.mark.parametrize("name", PICTURES)
def test_every_format_and_mode_becomes_rgb(name):
    data, color = PICTURES[name]
    if not data:
        pytest.skip("this Pillow has no AVIF")
    picture = decode(data)
    assert picture.media_type == f"image/{name.split()[0]}"
    assert picture.pixels.dtype == np.uint8
    assert picture.pixels.shape == (3, 8, 8)
    np.testing.assert_allclose(center(picture.pixels).astype(int), color, atol=5 if name.startswith(LOSSY) else 1)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"]
)
def test_every_mode_of_pillow_becomes_rgb(mode):
    # Some of these come out of no format that we read today; plug-ins and later versions may give them.
    base = solid("RGB", WHITE)
    image = base.convert({"La": "LA", "RGBa": "RGBA", "PA": "P"}.get(mode, mode))
    image = image.convert(mode)
    assert to_rgb(image).mode == "RGB"
    assert to_rgb(image).getpixel((3, 3)) == WHITE


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I;16N"])
def test_every_byte_order_of_16_bits_becomes_rgb(mode):
    order = {"I;16": "<", "I;16L": "<", "I;16B": ">", "I;16N": "="}[mode]
    image = Image.frombytes(mode, (3, 2), struct.pack(f"{order}6H", *[0xC0FF] * 6))
    assert to_rgb(image).getpixel((1, 1)) == (0xC0, 0xC0, 0xC0)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("32-bit integers", tiff(struct.pack("<4I", 0, 10**6, 2 * 10**6, 3 * 10**6), bits=32)),
        ("big-endian", tiff(struct.pack(">4i", -3, -1, 1, 3), bits=32, byte_order=">", sample_format=2)),
        ("signed 16 bits", tiff(struct.pack("<4h", -30_000, -10_000, 10_000, 30_000), bits=16, sample_format=2)),
        ("floats", tiff(struct.pack("<4f", 0.0, 1 / 3, 2 / 3, 1.0), bits=32, sample_format=3)),
        ("huge floats", tiff(struct.pack("<4f", -3e38, -1e38, 1e38, 3e38), bits=32, sample_format=3)),
        ("not a number", tiff(struct.pack("<4f", float("nan"), 1 / 3, 2 / 3, 1.0), bits=32, sample_format=3)),
    ],
)
def test_samples_without_a_natural_range_are_stretched(name, data):
    gray = decode(data, pixel_spec(4)).pixels[:, 0]
    if name == "not a number":
        gray = gray[:, 1:]
        np.testing.assert_array_equal(gray, [[0, 128, 255]] * 3)
    else:
        np.testing.assert_array_equal(gray, [[0, 85, 170, 255]] * 3)


def test_a_picture_of_one_float_is_black():
    assert decode(tiff(struct.pack("<4f", *[5.0] * 4), bits=32, sample_format=3)).pixels.max() == 0


# --- orientation --------------------------------------------------------------------------------------------------

ASYMMETRICAL = Image.fromarray(noise(30, 50))
TO_STORED = {
    1: lambda image: image,
    2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
    4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
    6: lambda image: image.transpose(Image.Transpose.ROTATE_90),
    7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
    8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
}


def with_orientation(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("orientation", TO_STORED)
@pytest.mark.parametrize(("format", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})])
def test_orientation_is_applied(format, options, orientation):
    stored = TO_STORED[orientation](ASYMMETRICAL)
    picture = decode(encoded(stored, format, exif=with_orientation(orientation), **options))
    assert (picture.width, picture.height) == (50, 30)
    np.testing.assert_array_equal(picture.pixels, decode(encoded(ASYMMETRICAL, "PNG")).pixels)


@pytest.mark.parametrize("orientation", TO_STORED)
@pytest.mark.parametrize("format", ["JPEG", "AVIF"])
def test_orientation_is_applied_to_lossy_formats(format, orientation):
    smooth = Image.fromarray(photographs.astronaut()[:300, :500])
    stored = TO_STORED[orientation](smooth)
    picture = decode(encoded(stored, format, quality=95, exif=with_orientation(orientation)))
    assert (picture.width, picture.height) == (500, 300)
    expected = decode(encoded(smooth, "PNG")).pixels
    np.testing.assert_allclose(picture.pixels.astype(int), expected.astype(int), atol=6)


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\xff\xff\0\x06\0\0",
        b"Exif\0\0" + bytes(range(200)),
        b"nonsense",
    ],
)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_does_not_spoil_a_good_picture(format, exif):
    picture = decode(encoded(ASYMMETRICAL, format, exif=exif))
    assert (picture.width, picture.height) == (50, 30)


def test_unknown_orientations_are_ignored():
    for orientation in (0, 9, 65535):
        picture = decode(encoded(ASYMMETRICAL, "PNG", exif=with_orientation(orientation)))
        assert (picture.width, picture.height) == (50, 30)


# --- geometry -----------------------------------------------------------------------------------------------------


def reference(image, size=224):
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}, do_rescale=False, do_normalize=False
    )
    return processor(image, return_tensors="np")["pixel_values"][0]


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "rocket"])
@pytest.mark.parametrize("size", [(1920, 1080), (333, 517), (224, 224), (100, 60)])
def test_photographs_come_out_as_from_transformers(name, size):
    image = Image.fromarray(getattr(photographs, name)()).resize(size)
    difference = np.abs(preprocess(image, pixel_spec()).astype(int) - reference(image))
    assert difference.max() <= 1
    assert np.count_nonzero(difference) / difference.size < 0.001


@settings(max_examples=60)
@given(width=st.integers(1, 700), height=st.integers(1, 700), seed=st.integers(0, 9))
def test_noise_comes_out_as_from_transformers(width, height, seed):
    if max(width, height) > 100 * min(width, height):
        width = height
    image = Image.fromarray(noise(height, width, seed=seed))
    difference = np.abs(preprocess(image, pixel_spec(32)).astype(int) - reference(image, 32))
    # Pillow keeps a box's corners as float32: a noisy pixel may round to its neighbours, and twice.
    assert difference.max() <= 2
    assert np.mean(difference) < 0.02


def test_exact_resizing_keeps_the_whole_picture():
    image = Image.fromarray(noise(40, 70))
    expected = np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    np.testing.assert_array_equal(preprocess(image, pixel_spec(16, resize="exact", interpolation="bilinear")), expected)


def test_a_crop_smaller_than_the_scaled_picture_takes_its_centre():
    image = Image.fromarray(photographs.chelsea())
    scaled = image.resize((int(260 * 451 / 300), 260), Image.Resampling.BICUBIC)
    left, top = (scaled.width - 224) // 2, (260 - 224) // 2
    expected = np.asarray(scaled.crop((left, top, left + 224, top + 224))).transpose(2, 0, 1)
    difference = np.abs(preprocess(image, pixel_spec(224, resize_to=260)).astype(int) - expected)
    assert difference.max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (50_000, 1), (1, MAX_SIDE), (MAX_SIDE, 1), (3, 60_000)])
def test_extreme_shapes_take_little_memory(size):
    data = encoded(Image.new("RGB", size, RED), "PNG")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    picture = decode(data, pixel_spec())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
    assert (picture.width, picture.height) == size
    assert picture.pixels.shape == (3, 224, 224)
    np.testing.assert_array_equal(np.unique(picture.pixels.reshape(3, -1), axis=1).T, [RED])


DECODE_AND_SAY_THE_MEMORY = """
import sys
from pathlib import Path
from clipseek_server.encoding.bundle import PixelSpec
from clipseek_server.encoding.pictures import decode_picture
from clipseek_server.images.thumbnails import make_thumbnail
from clipseek_server.threads import thread_pool

def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))

def decode(file):
    return decode_picture(Path(file).read_bytes(), spec, max_pixels=10**9, thumbnail=make_thumbnail)

spec = PixelSpec.model_validate_json(sys.argv[1])
pool, small, large = thread_pool("decode"), *sys.argv[2:]
pool.submit(decode, small).result()
before = memory("VmRSS")
pool.submit(decode, large).result()
print(memory("VmHWM") - before, memory("VmRSS") - before)
"""


def memory_of_decoding(folder, picture):
    """Bytes at most, and bytes kept afterwards, of a process of its own that decodes a picture."""
    files = [folder / "small", folder / "large"]
    for file, data in zip(files, [encoded(Image.new("RGB", (300, 300)), "PNG"), picture], strict=True):
        file.write_bytes(data)
    command = [sys.executable, "-c", DECODE_AND_SAY_THE_MEMORY, pixel_spec().model_dump_json()]
    run = subprocess.run([*command, *files], capture_output=True, check=True)
    return [int(word) for word in run.stdout.split()]


@pytest.mark.parametrize("kind", ["floats", "transparent WebP"])
def test_no_pixel_takes_more_memory_than_plans_count_on(kind, tmp_path):
    # The two that take most.
    side = 3000
    if kind == "floats":
        stripes = np.arange(side * side, dtype=np.float32).reshape(side, side) % 2
        data = encoded(Image.fromarray(stripes), "TIFF", compression="tiff_lzw")
    else:
        data = encoded(Image.new("RGBA", (side, side), (*RED, 7)), "WEBP", lossless=True, method=0)
    at_most, _ = memory_of_decoding(tmp_path, data)
    assert 8 < at_most / side**2 < DECODED_PIXEL_BYTES + 0.5


def test_nothing_is_kept_of_a_large_picture(tmp_path):
    side = 4200
    picture = Image.new("LA", (side, side), (9, 7))
    data = encoded(picture, "PNG", exif=with_orientation(6), compress_level=1)
    at_most, kept = memory_of_decoding(tmp_path, data)
    assert at_most / side**2 > 8
    assert kept / side**2 < 1


# --- reduced JPEGs --------------------------------------------------------------------------------------------------


def seen_by_thumbnails(data, **options):
    """The picture that a thumbnail is made from."""
    seen = []
    decode(data, thumbnail=lambda image: seen.append(image) or b"", **options)
    return seen[0]


def reduced_by(data, reduction):
    image = Image.open(io.BytesIO(data))
    image.draft(None, (image.width // reduction, image.height // reduction))
    return image.convert("RGB")


@pytest.mark.parametrize(
    ("size", "scale", "reduction"),
    [
        ((256, 320), 1, 8),
        ((248, 320), 1, 4),
        ((320, 256), 2, 4),
        ((320, 256), 2.5, 2),
        ((320, 256), 4, 2),
        ((320, 256), 4.1, 1),
        ((2000, 32), 1, 1),
        ((32, 2000), 1, 1),
        ((64, 64), 1, 2),
    ],
)
def test_a_jpeg_is_reduced_as_far_as_its_shorter_side_may_be(size, scale, reduction):
    data = encoded(Image.fromarray(noise(*size[::-1])), "JPEG")
    picture = decode(data, pixel_spec(32), jpeg_scale=scale)
    assert (picture.width, picture.height) == size
    np.testing.assert_array_equal(picture.pixels, preprocess(reduced_by(data, reduction), pixel_spec(32)))


def test_without_a_scale_a_jpeg_is_decoded_in_full():
    image = Image.fromarray(noise(256, 256))
    data = encoded(image, "JPEG")
    np.testing.assert_array_equal(decode(data).pixels, preprocess(reduced_by(data, 1), SMALL))


@pytest.mark.parametrize("format", ["PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_other_formats_are_not_reduced(format):
    data = encoded(Image.fromarray(noise(256, 256)), format)
    np.testing.assert_array_equal(decode(data, jpeg_scale=1).pixels, decode(data).pixels)


def smooth(width, height):
    """A picture whose every pixel tells where it is; few slopes can hide a shift."""
    columns, rows = np.arange(width) / width, np.arange(height)[:, None] / height
    channels = [columns + 0 * rows, rows + 0 * columns, (columns + rows) / 2]
    return Image.fromarray((np.stack(channels, axis=-1) * 255).round().astype(np.uint8))


@settings(max_examples=200)
@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    scale=st.floats(1, 4),
    orientation=st.sampled_from(sorted(TO_STORED)),
    subsampling=st.sampled_from(["4:2:0", "4:4:4"]),
)
def test_reduced_and_whole_jpegs_agree(width, height, scale, orientation, subsampling):
    stored = TO_STORED[orientation](smooth(width, height))
    data = encoded(stored, "JPEG", quality=98, subsampling=subsampling, exif=with_orientation(orientation))
    reduced, whole = decode(data, jpeg_scale=scale), decode(data)
    assert (reduced.width, reduced.height) == (whole.width, whole.height) == (width, height)
    # A pixel of the smallest picture is a step of 16.
    np.testing.assert_allclose(reduced.pixels.astype(int), whole.pixels.astype(int), atol=8)


@pytest.mark.parametrize("orientation", TO_STORED)
def test_no_part_of_a_pixel_is_lost_by_reducing(orientation):
    # The ninth column and row of the reduced picture stand for one pixel, not for eight.
    stored = TO_STORED[orientation](smooth(65, 65))
    data = encoded(stored, "JPEG", quality=98, subsampling="4:4:4", exif=with_orientation(orientation))
    reduced, whole = decode(data, jpeg_scale=1).pixels.astype(int), decode(data).pixels.astype(int)
    assert abs((reduced - whole)[:, 2:-2, 2:-2].mean()) < 0.5
    np.testing.assert_allclose(reduced, whole, atol=5)


def ycck():
    """CMYK that is stored as brightness, two colours and black; Pillow writes it plain."""
    data = encoded(smooth(300, 260).convert("CMYK"), "JPEG", quality=95)
    at = data.index(b"Adobe") + len(b"Adobe") + 6
    assert data[at] == 0
    return data[:at] + b"\2" + data[at + 1 :]


JPEGS = {
    "RGB": encoded(smooth(300, 260), "JPEG", quality=95),
    "progressive": encoded(smooth(300, 260), "JPEG", quality=95, progressive=True),
    "L": encoded(smooth(300, 260).convert("L"), "JPEG", quality=95),
    "CMYK": encoded(smooth(300, 260).convert("CMYK"), "JPEG", quality=95),
    "YCCK": ycck(),
    "RGB as stored": encoded(smooth(300, 260), "JPEG", quality=95, keep_rgb=True),
    "MPO": encoded(smooth(300, 260), "MPO", quality=95, save_all=True, append_images=[solid("RGB", BLACK)]),
}


@pytest.mark.parametrize("name", JPEGS)
@pytest.mark.parametrize("scale", [1, 2, 4])
def test_every_kind_of_jpeg_can_be_reduced(name, scale):
    reduced, whole = decode(JPEGS[name], jpeg_scale=scale), decode(JPEGS[name])
    assert (reduced.width, reduced.height, reduced.media_type) == (300, 260, "image/jpeg")
    assert not np.array_equal(reduced.pixels, whole.pixels)
    np.testing.assert_allclose(reduced.pixels.astype(int), whole.pixels.astype(int), atol=4)


@pytest.mark.parametrize("name", JPEGS)
def test_a_truncated_jpeg_is_refused_however_far_it_is_reduced(name):
    for share in (0.3, 0.6, 0.9):
        with pytest.raises(InvalidImage):
            decode(JPEGS[name][: int(len(JPEGS[name]) * share)], jpeg_scale=1)


def test_the_limit_of_pixels_is_for_the_original():
    data = encoded(smooth(400, 300), "JPEG")
    assert decode(data, max_pixels=120_000, jpeg_scale=1).width == 400
    with pytest.raises(ImageTooLarge, match="400 x 300"):
        decode(data, max_pixels=119_999, jpeg_scale=1)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((4096, 2048), (512, 256)), ((4088, 2048), (1022, 512)), ((600, 1030), (300, 515)), ((500, 400), (500, 400))],
)
def test_a_thumbnail_is_made_from_enough(size, expected):
    data = encoded(Image.new("RGB", size, RED), "JPEG")
    assert seen_by_thumbnails(data, jpeg_scale=1, max_pixels=10**7).size == expected
    assert THUMBNAIL_SOURCE >= 2 * THUMBNAIL_SIDE


@pytest.mark.parametrize("orientation", TO_STORED)
def test_a_thumbnail_is_as_good_as_before(orientation):
    image = Image.fromarray(photographs.astronaut()).crop((0, 0, 512, 400)).resize((2048, 1600))
    data = encoded(TO_STORED[orientation](image), "JPEG", exif=with_orientation(orientation))
    reduced, whole = (
        Image.open(io.BytesIO(decode(data, max_pixels=10**7, jpeg_scale=scale, thumbnail=make_thumbnail).thumbnail))
        for scale in (1, None)
    )
    assert reduced.size == whole.size == (256, 200)
    assert np.abs(np.asarray(reduced).astype(int) - np.asarray(whole)).mean() < 1


# --- what is refused ----------------------------------------------------------------------------------------------


def test_a_bomb_is_refused_by_its_header():
    bomb = png(8, 2, b"", width=60_000, height=60_000)
    with pytest.raises(ImageTooLarge, match=r"60000 x 60000 = 3600000000 pixels, more than the limit of 1000000"):
        decode(bomb)


def test_the_limit_itself_is_accepted():
    data = encoded(Image.new("RGB", (20, 10)), "PNG")
    assert decode(data, max_pixels=200).width == 20
    with pytest.raises(ImageTooLarge) as caught:
        decode(data, max_pixels=199)
    assert caught.value.metadata == {"width": "20", "height": "10", "max_pixels": "199"}


def test_a_side_that_is_too_long_is_refused():
    with pytest.raises(ImageTooLarge, match="no side may be longer than 65535"):
        decode(encoded(Image.new("1", (MAX_SIDE + 1, 1)), "PNG"))


def test_a_gif_frame_beyond_its_canvas_is_refused_too():
    data = bytearray(encoded(Image.new("L", (10, 10)), "GIF"))
    data[6:10] = struct.pack("<HH", 2, 2)
    with pytest.raises(ImageTooLarge, match="10 x 10"):
        decode(bytes(data), max_pixels=50)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"<html><body>404</body></html>",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7 ...",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"P6 2 2 255 " + bytes(12),
        b"8BPS" + bytes(100),
        b"RIFF\0\0\0\0WAVE" + bytes(30),
        bytes(1000),
    ],
)
def test_what_is_no_picture_says_so(data):
    with pytest.raises(InvalidImage, match=r"the picture is empty|not a picture of a supported format \(image/jpeg, "):
        decode(data)


SAMPLES = {
    name: encoded(Image.fromarray(noise(24, 40)), name)
    for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
    if f"image/{name.lower()}" in SUPPORTED_MEDIA_TYPES
} | {
    "TIFF deflate": encoded(Image.fromarray(noise(24, 40)), "TIFF", compression="tiff_deflate"),
    "GIF animated": encoded(Image.new("L", (9, 9)), "GIF", save_all=True, append_images=[Image.new("L", (9, 9), 9)]),
    "PNG with EXIF": encoded(palette("bytes"), "PNG", exif=with_orientation(6)),
    "JPEG with EXIF": encoded(solid("CMYK", (1, 2, 3, 4)), "JPEG", exif=with_orientation(8), progressive=True),
}


@pytest.mark.parametrize("missing", [1, 4, 8, 12, 20])
def test_a_png_that_lacks_only_its_end_is_truncated_too(missing):
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(file, "PNG")
    assert decode(file.getvalue() + b"and more behind it").width == 64
    with pytest.raises(InvalidImage, match=r"cut off|truncated"):
        decode(file.getvalue()[:-missing])


@pytest.mark.parametrize("name", SAMPLES)
def test_a_truncated_picture_says_so(name):
    data = SAMPLES[name]
    for length in (20, len(data) // 3, len(data) // 2):
        with pytest.raises(InvalidImage, match=r"damaged|cannot be decoded") as caught:
            decode(data[:length])
        assert "0x" not in caught.value.message
        assert "BytesIO" not in caught.value.message


def assert_decodes_or_refuses(data):
    for scale in (None, 1):
        assert_decodes_or_refuses_at(data, scale)


def assert_decodes_or_refuses_at(data, scale):
    try:
        picture = decode(data, jpeg_scale=scale)
    except (InvalidImage, ImageTooLarge) as error:
        assert " at 0x" not in error.message
        assert error.message.isprintable()
        assert len(error.message) < 400
    else:
        assert picture.pixels.shape == (3, 8, 8)


@settings(max_examples=300)
@given(data=st.binary(max_size=300), magic=st.sampled_from([b"", *(sample[:16] for sample in SAMPLES.values())]))
def test_arbitrary_bytes_are_refused_properly(data, magic):
    assert_decodes_or_refuses(magic + data)


@settings(max_examples=600, suppress_health_check=[HealthCheck.too_slow])
@given(name=st.sampled_from(sorted(SAMPLES)), draw=st.data())
def test_mutated_pictures_are_decoded_or_refused_properly(name, draw):
    data = bytearray(SAMPLES[name])
    for _ in range(draw.draw(st.integers(1, 4))):
        # Headers are where it hurts.
        position = draw.draw(st.integers(0, min(len(data) - 1, 200)) | st.integers(0, len(data) - 1))
        chunk = draw.draw(st.binary(min_size=1, max_size=4) | st.sampled_from([b"\xff\xff\xff\xff", b"\0\0\0\0"]))
        data[position : position + len(chunk)] = chunk
    end = draw.draw(st.just(len(data)) | st.integers(0, len(data)))
    assert_decodes_or_refuses(bytes(data[:end]))


def test_oddities_are_not_warned_of():
    # In a process of its own: pytest sets filters of its own.
    odd = SAMPLES["TIFF"][:40] + b"\xff" * 60 + SAMPLES["TIFF"][100:]
    program = (
        "import io, sys; from PIL import Image; import clipseek_server.encoding.pictures\n"
        "try: Image.open(io.BytesIO(sys.stdin.buffer.read())).load()\n"
        "except Exception: pass"
    )
    run = subprocess.run([sys.executable, "-W", "always", "-c", program], input=odd, capture_output=True, check=True)
    assert run.stderr == b""
