"""Measure other ways to run a bundle's towers: int8 with fixed scales (QDQ), and OpenVINO.

    pip install --target build/openvino openvino
    PYTHONPATH=build/openvino python -m benchmarks.runtimes

Turn about, on all cores, beside what the server does: ONNX Runtime with fp32 and with dynamic int8. The scales are
calibrated on scikit-image's photographs. The cosine is to fp32, over the same photographs.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from benchmarks.machine import cores, facts
from benchmarks.sections.limit import repeat
from benchmarks.workspace import Workspace
from clipseek_export.measure import similarity
from clipseek_export.samples import photographs
from clipseek_server.encoding.bundle import TEXT_FILE, VISION_FILE, read_manifest
from clipseek_server.encoding.sessions import GraphSession

Pixels = npt.NDArray[np.uint8]
Run = Callable[[dict[str, Any]], npt.NDArray[np.float32]]

BATCHES = (1, 8)
TOKENS = 12
"""Of a sentence with ten words."""


def main() -> None:
    """Print a table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/bench"), help="for bundles (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=3, help="medians are taken over so many (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.5, help="of each measurement (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="the JSON file (default: FOLDER/runtimes.json)")
    options = parser.parse_args()
    workspace = Workspace(options.folder)
    pictures = photographs(read_manifest(workspace.bundle("fp32")).space.pixels)
    ways = dict(_picture_ways(workspace, pictures))
    sentence = {
        "input_ids": np.arange(1, TOKENS + 1, dtype=np.int64)[None],
        "attention_mask": np.ones((1, TOKENS), np.int64),
    }
    loads = {f"pictures/s, batch {batch}": {"pixels": pictures[:batch]} for batch in BATCHES}
    found: dict[str, dict[str, float]] = {name: {"cosine": _cosine(ways, name, pictures)} for name in ways}
    for name, load in loads.items():
        batch = len(load["pixels"])
        for way, seconds in _medians(ways, load, options.turns, options.seconds).items():
            found[way][name] = batch / seconds
    for way, seconds in _medians(dict(_text_ways(workspace)), sentence, options.turns, options.seconds).items():
        found[way][f"one text of {TOKENS} tokens, ms"] = seconds * 1000
    for way, row in found.items():
        print(f"{way:28}" + "".join(f"  {name} {value:.5g}" for name, value in row.items()))
    output: Path = options.output or options.folder / "runtimes.json"
    output.write_text(json.dumps({"runtimes": {"machine": facts(options.folder), "ways": found}}, indent=1) + "\n")


def _picture_ways(workspace: Workspace, pictures: Pixels) -> Iterator[tuple[str, Run]]:
    fp32 = workspace.bundle("fp32") / VISION_FILE
    fixed = workspace.folder / "vision-static-int8.onnx"
    if not fixed.exists():
        _quantise(fp32, fixed, pictures)
    yield "ONNX Runtime fp32", _onnx_runtime(fp32)
    yield "ONNX Runtime int8", _onnx_runtime(workspace.bundle("int8") / VISION_FILE)
    yield "ONNX Runtime int8, fixed", _onnx_runtime(fixed)
    yield from _openvino({"OpenVINO fp32": (fp32, "f32"), "OpenVINO bf16": (fp32, "bf16")})
    yield from _openvino({"OpenVINO int8, fixed": (fixed, "f32")})


def _text_ways(workspace: Workspace) -> Iterator[tuple[str, Run]]:
    fp32 = workspace.bundle("fp32") / TEXT_FILE
    yield "ONNX Runtime fp32", _onnx_runtime(fp32)
    yield "ONNX Runtime int8", _onnx_runtime(workspace.bundle("int8") / TEXT_FILE)
    yield from _openvino({"OpenVINO fp32": (fp32, "f32"), "OpenVINO bf16": (fp32, "bf16")})


def _onnx_runtime(graph: Path) -> Run:
    session = GraphSession(graph, ["CPUExecutionProvider"], cores())
    return lambda inputs: session.run(**inputs)


def _openvino(graphs: dict[str, tuple[Path, str]]) -> Iterator[tuple[str, Run]]:
    try:
        import openvino  # type: ignore[import-not-found]  # it is no dependency
    except ImportError:
        print("OpenVINO is not installed", file=sys.stderr)
        return
    core: Any = openvino.Core()
    for name, (graph, precision) in graphs.items():
        settings = {
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": cores(),
        }
        model = core.compile_model(str(graph), "CPU", settings)
        yield name, partial(_first, model)


def _first(model: Any, inputs: dict[str, Any]) -> npt.NDArray[np.float32]:
    found: npt.NDArray[np.float32] = model(inputs)[0]
    return found


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


def _cosine(ways: dict[str, Run], name: str, pictures: Pixels) -> float:
    """The mean cosine to fp32's embeddings."""
    right, found = (
        np.concatenate([ways[way]({"pixels": pixels[None]}) for pixels in pictures])
        for way in ("ONNX Runtime fp32", name)
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
