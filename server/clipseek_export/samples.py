"""What exports are measured on: the photographs of scikit-image's wheel, and sentences about such pictures."""

import io
from importlib.resources import files
from typing import Final

import numpy as np
from PIL import Image

from clipseek_export.source import Pixels
from clipseek_server.encoding.bundle import PixelSpec
from clipseek_server.encoding.pictures import decode_picture, preprocess

# Only what lies in the wheel: skimage.data's other pictures are downloaded.
PHOTOGRAPHS: Final = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "cell.png",
    "chelsea.png",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "color.png",
    "grass.png",
    "gravel.png",
    "horse.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "microaneurysms.png",
    "moon.png",
    "motorcycle_left.png",
    "page.png",
    "retina.jpg",
    "rocket.jpg",
    "text.png",
)

SENTENCES: Final = (
    "a cat",
    "a cup of coffee",
    "a rocket launch at night",
    "a motorcycle in a garage",
    "a photographer with a camera",
    "a woman in an orange space suit, smiling",
    "a wall of red bricks",
    "galaxies in deep space",
    "the moon",
    "old coins on a table",
    "a page of printed text",
    "grass",
    "gravel on the ground",
    "the black shape of a horse",
    "a clock, blurred by motion",
    "the retina of an eye",
    "cells under a microscope",
    "Two dogs are running along the beach.",
    "a plate of spaghetti with tomato sauce",
    "snow-covered mountains under a blue sky",
    "people waiting for a train in the rain",
    "a child's drawing of a house",
    "an aerial photo of a harbour with many small boats",
    "three men playing chess in a park",
    "a close-up of a bee on a yellow flower",
    "The quick brown fox jumps over the lazy dog, and then it lies down in the shade of an old oak tree to rest until "
    "the evening, when the farmer comes home from the fields with his cart full of hay.",
)

# How many cut-outs each side is divided into, so that ten nearest pictures are a small part of all.
_CUTS: Final = 2
_MAX_PIXELS: Final = 10_000_000


def photographs(spec: PixelSpec) -> Pixels:
    """The photographs as a vision tower takes them: uint8 ``[21, 3, height, width]``."""
    return np.stack([decode_picture(_read(name), spec, max_pixels=_MAX_PIXELS).pixels for name in PHOTOGRAPHS])


def photographs_and_details(spec: PixelSpec) -> Pixels:
    """The photographs, then the four quarters of each: uint8 ``[105, 3, height, width]``."""
    details: list[Pixels] = []
    for name in PHOTOGRAPHS:
        image = Image.open(io.BytesIO(_read(name))).convert("RGB")
        width, height = image.width // _CUTS, image.height // _CUTS
        corners = [(left * width, top * height) for left in range(_CUTS) for top in range(_CUTS)]
        details += [preprocess(image.crop((x, y, x + width, y + height)), spec) for x, y in corners]
    return np.concatenate([photographs(spec), np.stack(details)])


def _read(name: str) -> bytes:
    return (files("skimage") / "data" / name).read_bytes()
