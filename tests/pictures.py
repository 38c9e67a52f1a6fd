"""Pictures for tests: small, different from each other, and real files."""

import io
import os
from pathlib import Path

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


def out_of_reach(folder: Path) -> tuple[Path, Path]:
    """A picture and a folder below it that not even root can open by their paths: they are too long."""
    name, path = "x" * 200, folder
    here = os.open(path, os.O_RDONLY)
    while True:
        os.mkdir(name, dir_fd=here)
        if len(os.fsencode(path / name)) >= os.pathconf(folder, "PC_PATH_MAX"):
            break
        path /= name
        outer, here = here, os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(outer)
    with open(f"{name}.png", "xb", opener=lambda file, flags: os.open(file, flags, dir_fd=here)) as file:
        file.write(picture(0))
    os.close(here)
    return path / f"{name}.png", path / name
