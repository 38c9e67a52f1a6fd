import io

import numpy as np
import pytest
from PIL import Image
from skimage import data as photographs

from clipseek_server.images.thumbnails import MAX_BYTES, make_thumbnail


def read(jpeg):
    image = Image.open(io.BytesIO(jpeg))
    image.load()
    return image


def noise(height, width):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1000, 500), (256, 128)),
        ((300, 600), (128, 256)),
        ((257, 257), (256, 256)),
        ((200, 100), (200, 100)),
        ((1, 1), (1, 1)),
        ((1, 5000), (1, 256)),
        ((50_000, 1), (256, 1)),
    ],
)
def test_it_fits_and_keeps_its_proportions(size, expected):
    thumbnail = read(make_thumbnail(Image.new("RGB", size, (10, 200, 30))))
    assert (thumbnail.format, thumbnail.mode, thumbnail.size) == ("JPEG", "RGB", expected)
    np.testing.assert_allclose(thumbnail.getpixel((0, 0)), (10, 200, 30), atol=3)


def test_even_noise_stays_below_the_limit():
    assert len(make_thumbnail(noise(1000, 1000))) <= MAX_BYTES


def test_it_looks_like_the_picture():
    image = Image.fromarray(photographs.astronaut())
    small = np.asarray(image.resize((256, 256), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(np.asarray(read(make_thumbnail(image))).astype(int) - small).mean() < 4


def test_nothing_of_the_original_but_its_pixels_is_in_it():
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x010E] = "a secret"
    noise(50, 50).save(file, "JPEG", comment=b"a secret", exif=exif, icc_profile=b"a secret")
    assert b"secret" not in make_thumbnail(Image.open(file))


def test_the_original_is_left_as_it_is():
    image = noise(600, 600)
    image.info["comment"] = b"kept"
    before = image.tobytes()
    make_thumbnail(image)
    assert (image.size, image.tobytes(), image.info) == ((600, 600), before, {"comment": b"kept"})
