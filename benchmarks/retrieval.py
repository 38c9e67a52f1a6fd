"""Measure what int8 costs in retrieval, by captioned pictures: ``python -m benchmarks.retrieval STAMPS``.

The pictures are those that Debian's ``tuxpaint-stamps-default`` brings, as for ``benchmarks/starter_joining.py``. Each
picture's caption is a query; one that several pictures share may find any of them. Bundles are exported at fp32 and at
int8, and run by the server's own code in batches of 1 to 16, texts of like length together; int8 also one by one,
because it scales what flows through a graph by the largest value in the batch.

Two models: the starter, which is trained and so has something to find, and CLIP ViT-B/32 with random weights, of which
only the vectors can be compared.
"""

import argparse
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle, groupby, islice
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
import onnx

from benchmarks.machine import cores, facts
from benchmarks.starter_joining import captioned, recall
from benchmarks.tables import tables
from benchmarks.workspace import Workspace
from clipseek_export.measure import Tower, overlap_at_10, similarity
from clipseek_server.encoding.bundle import TEXT_FILE, TOKENIZER_FILE, VISION_FILE, read_manifest, verify_files
from clipseek_server.encoding.pictures import decode_picture
from clipseek_server.encoding.sessions import GraphSession
from clipseek_server.encoding.tokenizing import TextTokenizer

Matrix = npt.NDArray[np.float32]
Item = TypeVar("Item")

BATCHES: Final = range(1, 17)
ALONE: Final = (1,)
MAX_PIXELS: Final = 50_000_000
_MULTIPLYING: Final = frozenset({"MatMul", "Gemm", "Conv"})


class Bundle:
    """An exported bundle, run as the server runs it.

    Args:
        folder: Where it is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        verify_files(folder, self.manifest)

    def pictures(self, paths: Iterable[Path], sizes: Sequence[int] = BATCHES) -> Matrix:
        """float32 ``[count, dimension]``, from batches of these sizes in turn."""
        session = self._session(VISION_FILE)
        manifest = self.manifest
        pixels = (
            decode_picture(
                path.read_bytes(), manifest.space.pixels, max_pixels=MAX_PIXELS, jpeg_scale=manifest.jpeg_scale
            ).pixels
            for path in paths
        )
        return np.concatenate([session.run(pixels=np.stack(batch)) for batch in _batches(pixels, sizes)])

    def texts(self, texts: list[str], sizes: Sequence[int] = BATCHES) -> Matrix:
        """float32 ``[count, dimension]``, from batches of these sizes in turn."""
        session = self._session(TEXT_FILE)
        tokenizer = TextTokenizer(self.folder / TOKENIZER_FILE, self.manifest.text)
        tokens = [tokenizer.tokenize(text) for text in texts]

        def length(row: int) -> int:
            return tokens[row].like_length

        found = np.empty((len(texts), self.manifest.dimension), np.float32)
        for _, rows in groupby(sorted(range(len(texts)), key=length), length):
            for batch in _batches(rows, sizes):
                input_ids, attention_mask = tokenizer.pad([tokens[row] for row in batch])
                found[batch] = session.run(input_ids=input_ids, attention_mask=attention_mask)
        return found

    def _session(self, file: str) -> GraphSession:
        return GraphSession(self.folder / file, ["CPUExecutionProvider"], cores())


class Pair:
    """What a model makes of pictures and their captions at fp32 and at int8.

    Args:
        fp32: The model's bundle.
        int8: The same at int8.
        paths: The pictures.
        captions: What each is called.
    """

    def __init__(self, fp32: Bundle, int8: Bundle, paths: list[Path], captions: list[str]) -> None:
        if fp32.manifest.space_id != int8.manifest.space_id:
            raise SystemExit(f"{fp32.folder} and {int8.folder} are not of one model; remove them to make them anew")
        self._bundles = fp32, int8
        self._captions = captions
        self._pictures = {
            "fp32": fp32.pictures(paths),
            "int8": int8.pictures(paths),
            "int8 alone": int8.pictures(paths, ALONE),
        }
        self._texts = {
            "fp32": fp32.texts(captions),
            "int8": int8.texts(captions),
            "int8 alone": int8.texts(captions, ALONE),
        }

    def towers(self) -> dict[str, Any]:
        """How near each tower's vectors are, and how much of it the recipe touched."""
        fp32, int8 = self._bundles
        found: dict[str, Any] = {}
        towers: tuple[tuple[Tower, str, dict[str, Matrix]], ...] = (
            ("vision", VISION_FILE, self._pictures),
            ("text", TEXT_FILE, self._texts),
        )
        for tower, file, vectors in towers:
            near = {name: similarity(vectors[name], vectors["fp32"]) for name in ("int8", "int8 alone")}
            found[tower] = {
                "cosine_min": {name: each.cosine_min for name, each in near.items()},
                "cosine_mean": {name: each.cosine_mean for name, each in near.items()},
                "weight_share": int8.manifest.agreement[tower].weight_share,
                "multiplied_share": _multiplied_share(fp32.folder / file, int8.folder / file),
            }
        return found

    def hits(self) -> list[dict[str, Any]]:
        """What searches find, at fp32 and with one tower after the other at int8."""
        labels = np.array(self._captions)
        # Captions that are the same would be each other's nearest at any precision.
        _, different = np.unique(labels, return_index=True)
        pictures_fp32, texts_fp32 = self._pictures["fp32"], self._texts["fp32"]
        other = texts_fp32[different]
        found = []
        for vision, text in (("fp32", "fp32"), ("fp32", "int8"), ("int8", "int8"), ("int8 alone", "int8 alone")):
            pictures, texts = self._pictures[vision], self._texts[text]
            one = texts[different]
            found.append(
                {
                    "vision": vision,
                    "text": text,
                    "recall": dict(zip(("1", "5", "10"), recall(texts, pictures, labels), strict=True)),
                    "pictures by caption": overlap_at_10((texts, pictures), (texts_fp32, pictures_fp32)),
                    "pictures by picture": overlap_at_10((pictures, pictures), (pictures_fp32, pictures_fp32)),
                    "captions by caption": overlap_at_10((one, one), (other, other)),
                }
            )
        return found


def main() -> None:
    """Write the results and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retrieval", description=__doc__)
    parser.add_argument("stamps", type=Path, help="folder with PNGs and their captions (.txt beside each)")
    parser.add_argument("--bench-folder", type=Path, default=Path("build/bench"), help="for the bundles, kept there")
    parser.add_argument("--output", type=Path, default=Path("build/bench/retrieval.json"), help="the JSON file")
    options = parser.parse_args()
    workspace = Workspace(options.bench_folder)
    paths, captions = (list(column) for column in zip(*captioned(options.stamps), strict=True))

    starter = Pair(Bundle(workspace.starter("fp32")), Bundle(workspace.starter("int8")), paths, captions)
    random = Pair(Bundle(workspace.bundle("fp32")), Bundle(workspace.bundle("int8")), paths, captions)
    results = {
        "retrieval": {
            "measured": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
            "machine": facts(options.bench_folder),
            "pictures": len(paths),
            "different_captions": len(set(captions)),
            "starter": {"towers": starter.towers(), "hits": starter.hits()},
            "random": {"towers": random.towers()},
        }
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=1) + "\n")
    for table in tables(results).values():
        print(table)
    print(f"{options.output} is ready")


def _batches(items: Iterable[Item], sizes: Sequence[int]) -> Iterator[list[Item]]:
    rest = iter(items)
    for size in cycle(sizes):
        batch = list(islice(rest, size))
        if not batch:
            return
        yield batch


def _multiplied_share(fp32: Path, int8: Path) -> float:
    """Share of what the fp32 graph multiplies by, convolutions too, that int8 replaced.

    It leaves out what is only looked up: token embeddings.
    """
    graph = onnx.load(fp32).graph
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in graph.initializer}
    factors = {name for node in graph.node if node.op_type in _MULTIPLYING for name in node.input[:2] if name in sizes}
    kept = {tensor.name for tensor in onnx.load(int8).graph.initializer}
    return sum(sizes[name] for name in factors - kept) / sum(sizes[name] for name in factors)


if __name__ == "__main__":
    main()
