"""The pictures that all are measured with: photographs of scikit-image's wheel as JPEGs of a camera's kind."""

import io
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

SIZE = (1920, 1080)
BYTES = 500_000
QUALITY = 90
_NAMES = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "color.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "retina.jpg",
    "rocket.jpg",
)
_STEPS = 8


def make_pictures(folder: Path) -> None:
    """Save each photograph at 1920x1080 in about 500 KB.

    They are smaller, and so smooth when enlarged: noise, as a sensor has it, is added until quality 90 gives that size.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in _NAMES:
        with Image.open(str(files("skimage") / "data" / name)) as photograph:
            image = ImageOps.fit(photograph.convert("RGB"), SIZE, Image.Resampling.BICUBIC)
        (folder / name).with_suffix(".jpg").write_bytes(_of_size(np.asarray(image, np.float32)))


def _of_size(pixels: "np.typing.NDArray[np.float32]") -> bytes:
    noise = np.random.default_rng(0).normal(size=pixels.shape).astype(np.float32)
    least, most = 0.0, 32.0
    for _ in range(_STEPS):
        strength = (least + most) / 2
        file = io.BytesIO()
        Image.fromarray((pixels + strength * noise).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=QUALITY)
        least, most = (least, strength) if file.tell() > BYTES else (strength, most)
    return file.getvalue()
