"""What exports are measured on: the photographs of scikit-image's wheel, and sentences about such pictures."""

import io
import itertools
import math
from collections.abc import Iterator
from functools import cache
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

# By how much a decoder is to reduce each sheet of photographs.
_SHEETS: Final = (2, 2, 2, 4, 4, 8)
_TILE: Final = 512
_QUALITIES: Final = ((90, "4:2:0"), (75, "4:2:0"), (95, "4:4:4"))

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
        image = _rgb(name)
        width, height = image.width // _CUTS, image.height // _CUTS
        corners = [(left * width, top * height) for left in range(_CUTS) for top in range(_CUTS)]
        details += [preprocess(image.crop((x, y, x + width, y + height)), spec) for x, y in corners]
    return np.concatenate([photographs(spec), np.stack(details)])


def jpegs(shorter: int) -> Iterator[bytes]:
    """27 JPEGs for a decoder that may reduce their shorter sides to ``shorter`` pixels, and does so exactly.

    Few of the photographs are large enough, so there are two kinds: each of them enlarged, which has the detail that a
    small picture made of it shows; and sheets of them at their own size, which have detail down to the pixel.
    """
    pictures = (_enlarged(name, 2 * shorter) for name in PHOTOGRAPHS)
    sheets = (_sheet(reduction * shorter, first) for first, reduction in enumerate(_SHEETS))
    for number, image in enumerate(itertools.chain(pictures, sheets)):
        quality, subsampling = _QUALITIES[number % len(_QUALITIES)]
        jpeg = io.BytesIO()
        image.save(jpeg, "JPEG", quality=quality, subsampling=subsampling)
        yield jpeg.getvalue()


def _enlarged(name: str, shorter: int) -> Image.Image:
    image = _rgb(name)
    scale = shorter / min(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)


def _sheet(side: int, first: int) -> Image.Image:
    """A square of photographs, each cut to a tile or mirrored at its edges to fill it."""
    tiles = [np.asarray(_rgb(name))[:_TILE, :_TILE] for name in PHOTOGRAPHS]
    tiles = [
        np.pad(tile, [(0, _TILE - tile.shape[0]), (0, _TILE - tile.shape[1]), (0, 0)], "symmetric") for tile in tiles
    ]
    count = math.ceil(side / _TILE)
    rows = [
        np.concatenate([tiles[(first * 5 + row * count + column) % len(tiles)] for column in range(count)], axis=1)
        for row in range(count)
    ]
    return Image.fromarray(np.concatenate(rows)[:side, :side])


@cache
def _rgb(name: str) -> Image.Image:
    return Image.open(io.BytesIO(_read(name))).convert("RGB")


def _read(name: str) -> bytes:
    return (files("skimage") / "data" / name).read_bytes()
