"""Pictures for tests: small, different from each other, and real files."""

import io

import numpy as np
from PIL import Image

ANSWERS = {
    "a cat": {"chelsea.png"},
    "a cup of coffee": {"coffee.png"},
    "a rocket launch": {"rocket.jpg"},
    "a motorcycle": {"motorcycle_left.png", "motorcycle_right.png"},
    "a photographer with a camera": {"camera.png"},
}
"""Sentences, and those of scikit-image's pictures of which one must come first."""


def picture(seed: int, *, size: tuple[int, int] = (48, 40), format: str = "PNG", **options: object) -> bytes:
    """A file of coloured noise in broad strokes; other seeds look different."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(file, format, **options)
    return file.getvalue()


def large_picture(minimum_bytes: int) -> bytes:
    """A PNG of pure noise, at least as large."""
    side = int((minimum_bytes / 3) ** 0.5) + 8
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG", compress_level=0)
    return file.getvalue()
