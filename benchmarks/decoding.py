"""Measure what decoding a picture costs, from its bytes to the vision tower's input.

The pictures are photographs of scikit-image's wheel side by side. Time is that of the thread, in core-milliseconds,
medians of turns in which all ways follow each other; other load moves the numbers, so read the ratios. ``reduced``
lets the decoder reduce a JPEG to a half, a quarter or an eighth, down to ``--scale`` times the input: what a bundle
says under ``decoding``, as its model allows::

    python benchmarks/decoding.py --scale 2 --output decoding.json
"""

import argparse
import io
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, features

from clipseek_server.encoding.bundle import PixelSpec
from clipseek_server.encoding.pictures import decode_picture
from clipseek_server.images.thumbnails import make_thumbnail

PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "motorcycle_left.png",
    "retina.jpg",
)
TILE = 512


@dataclass(frozen=True)
class File:
    """A picture to decode."""

    name: str
    data: bytes


@dataclass(frozen=True)
class Row:
    """What one way of decoding one picture costs."""

    picture: str
    kilobytes: int
    reduced: bool
    thumbnail: bool
    milliseconds: float
    ratio: float
    """To the same picture decoded in full without a thumbnail."""


def main() -> None:
    """Print the table, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=2.0, help="jpeg_scale of a bundle (default: 2)")
    parser.add_argument("--side", type=int, default=224, help="of the vision tower's input, in pixels (default: 224)")
    parser.add_argument("--turns", type=int, default=9, help="(default: 9)")
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    spec = PixelSpec(
        height=options.side,
        width=options.side,
        resize="shortest_edge",
        resize_to=options.side,
        interpolation="bicubic",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    rows = [row for file in _files() for row in _measure(file, spec, options.scale, options.turns)]
    print(f"input {options.side}, scale {options.scale:g}; core-milliseconds, median of {options.turns}\n")
    print(f"{'picture':22} {'KB':>6}  {'':8} {'':10} {'ms':>7}  ratio")
    for row in rows:
        how = f"{'reduced' if row.reduced else 'full':8} {'thumbnail' if row.thumbnail else '':10}"
        print(f"{row.picture:22} {row.kilobytes:6}  {how} {row.milliseconds:7.1f}  {row.ratio:.2f}")
    if options.output:
        result = {
            "side": options.side,
            "scale": options.scale,
            "turns": options.turns,
            "pillow": PIL.__version__,
            "libjpeg_turbo": features.version("libjpeg_turbo"),
            "machine": platform.machine(),
            "rows": [asdict(row) for row in rows],
        }
        options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _measure(file: File, spec: PixelSpec, scale: float, turns: int) -> list[Row]:
    ways = [(reduced, small) for reduced in (False, True) for small in (False, True)]

    def way(reduced: bool, small: bool) -> Callable[[], object]:
        thumbnail = make_thumbnail if small else None
        jpeg_scale = scale if reduced else None
        return lambda: decode_picture(
            file.data, spec, max_pixels=100_000_000, jpeg_scale=jpeg_scale, thumbnail=thumbnail
        )

    # The first turn only warms up.
    times = [[_seconds(way(*each)) for each in ways] for _ in range(turns + 1)][1:]
    medians = [statistics.median(turn[number] for turn in times) for number in range(len(ways))]
    return [
        Row(file.name, len(file.data) // 1000, reduced, small, median * 1000, median / medians[0])
        for (reduced, small), median in zip(ways, medians, strict=True)
    ]


def _seconds(decode: Callable[[], object]) -> float:
    start = time.thread_time()
    decode()
    return time.thread_time() - start


def _files() -> list[File]:
    small, large = _sheet(1920, 1080), _sheet(4000, 3000)
    return [
        File("JPEG 1920 x 1080", _encoded(small, "JPEG", quality=90)),
        File("JPEG 4000 x 3000", _encoded(large, "JPEG", quality=90)),
        File("JPEG 3000 x 4000 lying", _encoded(large, "JPEG", quality=90, exif=_lying())),
        File("PNG 1920 x 1080", _encoded(small, "PNG")),
        File("PNG 4000 x 3000", _encoded(large, "PNG")),
    ]


def _sheet(width: int, height: int) -> Image.Image:
    paths = [files("skimage") / "data" / name for name in PHOTOGRAPHS]
    tiles = [np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert("RGB"))[:TILE, :TILE] for path in paths]
    tiles = [
        np.pad(tile, [(0, TILE - tile.shape[0]), (0, TILE - tile.shape[1]), (0, 0)], "symmetric") for tile in tiles
    ]
    columns, rows = math.ceil(width / TILE), math.ceil(height / TILE)
    grid = [[tiles[(row * 5 + column) % len(tiles)] for column in range(columns)] for row in range(rows)]
    return Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in grid])[:height, :width])


def _encoded(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def _lying() -> Image.Exif:
    """As phones write it that are held upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


if __name__ == "__main__":
    main()
