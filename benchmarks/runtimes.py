"""Measure other ways to run a bundle's towers: int8 with fixed scales (QDQ), and OpenVINO.

    python -m benchmarks.runtimes
    pip install --target build/openvino --no-deps onnxruntime-openvino
    PYTHONPATH=build/openvino python -m benchmarks.runtimes

Turn about, on all cores, beside what the server does unless told otherwise: ONNX Runtime's CPU provider with fp32 and
with dynamic int8. The scales are calibrated on scikit-image's photographs. The cosine is to fp32, over the same
photographs. OpenVINO comes with an ONNX Runtime of its own, whose CPU provider is measured beside it.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from benchmarks.machine import cores, facts
from benchmarks.sections.limit import repeat
from benchmarks.workspace import Workspace
from clipseek_export.measure import similarity
from clipseek_export.samples import photographs
from clipseek_server.config import OpenVinoPrecision
from clipseek_server.encoding.bundle import TEXT_FILE, VISION_FILE, read_manifest
from clipseek_server.encoding.sessions import OPENVINO, GraphSession

Pixels = npt.NDArray[np.uint8]
Run = Callable[[dict[str, Any]], npt.NDArray[np.float32]]

CPU = "CPUExecutionProvider"
CPU_RUNTIME = f"ONNX Runtime {ort.__version__}"
BATCHES = (1, 8)
TOKENS = 12
"""Of a sentence with ten words."""


def main() -> None:
    """Print a table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/bench"), help="for bundles (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=3, help="medians are taken over so many (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.5, help="of each measurement (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, help="the JSON file (default: FOLDER/runtimes.json); kept in it: other runtimes"
    )
    options = parser.parse_args()
    workspace = Workspace(options.folder)
    pictures = photographs(read_manifest(workspace.bundle("fp32")).space.pixels)
    ways = dict(_picture_ways(workspace, pictures))
    reference = next(iter(ways.values()))
    sentence = {
        "input_ids": np.arange(1, TOKENS + 1, dtype=np.int64)[None],
        "attention_mask": np.ones((1, TOKENS), np.int64),
    }
    loads = {f"pictures/s, batch {batch}": {"pixels": pictures[:batch]} for batch in BATCHES}
    found: dict[str, dict[str, float]] = {
        name: {"cosine": _cosine(run, reference, pictures)} for name, run in ways.items()
    }
    for name, load in loads.items():
        batch = len(load["pixels"])
        for way, seconds in _medians(ways, load, options.turns, options.seconds).items():
            found[way][name] = batch / seconds
    for way, seconds in _medians(dict(_ways(workspace, TEXT_FILE)), sentence, options.turns, options.seconds).items():
        found[way][f"one text of {TOKENS} tokens, ms"] = seconds * 1000
    for way, row in found.items():
        print(f"{way:28}" + "".join(f"  {name} {value:.5g}" for name, value in row.items()))
    output: Path = options.output or options.folder / "runtimes.json"
    kept = json.loads(output.read_text())["runtimes"]["ways"] if output.exists() else {}
    results = {"runtimes": {"machine": facts(options.folder), "ways": kept | found}}
    output.write_text(json.dumps(results, indent=1) + "\n")


def _picture_ways(workspace: Workspace, pictures: Pixels) -> Iterator[tuple[str, Run]]:
    fixed = workspace.folder / "vision-static-int8.onnx"
    if not fixed.exists():
        _quantise(workspace.bundle("fp32") / VISION_FILE, fixed, pictures)
    yield from _ways(workspace, VISION_FILE)
    yield f"{CPU_RUNTIME} int8, fixed", _run(fixed, CPU)
    if OPENVINO in ort.get_available_providers():
        yield "OpenVINO int8, fixed", _run(fixed, OPENVINO)


def _ways(workspace: Workspace, file: str) -> Iterator[tuple[str, Run]]:
    fp32, int8 = workspace.bundle("fp32") / file, workspace.bundle("int8") / file
    yield f"{CPU_RUNTIME} fp32", _run(fp32, CPU)
    yield f"{CPU_RUNTIME} int8", _run(int8, CPU)
    if OPENVINO in ort.get_available_providers():
        yield "OpenVINO f32", _run(fp32, OPENVINO)
        yield "OpenVINO bf16", _run(fp32, OPENVINO, "bf16")
        yield "OpenVINO int8", _run(int8, OPENVINO)


def _run(graph: Path, provider: str, openvino_precision: OpenVinoPrecision = "f32") -> Run:
    session = GraphSession(graph, [provider], cores(), openvino_precision=openvino_precision)
    return lambda inputs: session.run(**inputs)


class _Calibration(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime.quantization is untyped
    def __init__(self, pictures: Pixels) -> None:
        self._left = iter(pictures)

    def get_next(self) -> dict[str, Pixels] | None:
        pixels = next(self._left, None)
        return None if pixels is None else {"pixels": pixels[None]}


def _quantise(graph: Path, quantised: Path, pictures: Pixels) -> None:
    quantize_static(
        str(graph),
        str(quantised),
        _Calibration(pictures),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def _cosine(run: Run, reference: Run, pictures: Pixels) -> float:
    """The mean cosine to the reference's embeddings."""
    right, found = (
        np.concatenate([each({"pixels": pixels[None]}) for pixels in pictures]) for each in (reference, run)
    )
    return similarity(found, right).cosine_mean


def _medians(ways: dict[str, Run], load: dict[str, Any], turns: int, seconds: float) -> dict[str, float]:
    """Seconds of one run, by way."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, run in ways.items():
            taken[name].append(repeat(partial(run, load), seconds)[0])
    return {name: statistics.median(each) for name, each in taken.items()}


if __name__ == "__main__":
    main()
