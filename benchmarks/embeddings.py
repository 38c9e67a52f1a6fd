"""Embed real pictures and captions with the starter, for ``benchmarks.resident`` and ``benchmarks.milvus_index``.

    apt-get download tuxpaint-stamps-default openclipart-png
    for package in tuxpaint-stamps-default openclipart-png; do dpkg -x ${package}_*.deb pictures; done
    python -m benchmarks.embeddings pictures --output build/bench/real.npz

8,901 pictures of Debian's packages, and the 674 different captions of those that have one.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import track

from benchmarks.retrieval import MAX_PIXELS, Bundle
from benchmarks.starter_joining import captioned
from benchmarks.workspace import Workspace


def main() -> None:
    """Write them as an ``.npz``."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.embeddings",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("pictures", type=Path, help="folder with PNGs, some with captions (.txt beside each)")
    parser.add_argument(
        "--folder", type=Path, default=Path("build/bench"), help="for the starter (default: %(default)s)"
    )
    parser.add_argument("--output", type=Path, default=Path("build/bench/real.npz"), help="default: %(default)s")
    options = parser.parse_args()
    bundle = Bundle(Workspace(options.folder).starter("fp32"))
    paths = sorted(path for path in options.pictures.rglob("*.png") if _fits(path))
    captions = sorted({caption for _, caption in captioned(options.pictures)})
    pictures = bundle.pictures(track(paths, "embedding pictures"))
    texts = bundle.texts(captions)
    np.savez(options.output, pictures=pictures, texts=texts)
    print(f"{options.output}: {len(pictures):,} pictures, {len(texts):,} captions")


def _fits(path: Path) -> bool:
    with Image.open(path) as image:
        return image.width * image.height <= MAX_PIXELS


if __name__ == "__main__":
    main()
