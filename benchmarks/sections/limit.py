"""The limit: what ONNX Runtime does with the bundle and nothing around it, and what decoding costs."""

import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from benchmarks.bench import Bench, medians
from benchmarks.machine import cores
from clipseek.bench.sentences import sentence
from clipseek_server.config import Settings
from clipseek_server.encoding.bundle import Manifest, Precision, golden_pixels, read_manifest
from clipseek_server.encoding.pictures import decode_picture
from clipseek_server.encoding.sessions import GraphSession
from clipseek_server.encoding.tokenizing import TextTokenizer
from clipseek_server.images.thumbnails import make_thumbnail

BATCHES = (1, 2, 4, 8, 16, 32)
SPINNING_BATCHES = TORCH_BATCHES = (1, 8, 32)
TOKENS = (8, 16, 32, 77)

_CPU = "CPUExecutionProvider"
_OF_A_CPU = ("fp32", "int8")
"""Precisions in which ONNX Runtime multiplies matrices on a CPU."""

_MATRIX = 2048
_MAX_PIXELS = 100_000_000


class Alone:
    """A bundle's towers and its decoding, called by one thread and nothing else.

    Args:
        bundle: The bundle.
        spinning: Let ONNX Runtime's threads spin, which it does unless told otherwise and a server cannot afford.
    """

    def __init__(self, bundle: Path, *, spinning: bool = False) -> None:
        self.manifest: Manifest = read_manifest(bundle)
        self._vision = _session(bundle / "vision.onnx", spinning=spinning)
        self._text = _session(bundle / "text.onnx", spinning=spinning)
        self._tokenizer = TextTokenizer(bundle / "tokenizer.json", self.manifest.text)

    def pictures(self, batch: int, seconds: float) -> dict[str, float]:
        """Pictures a second in batches of that size, and the CPU milliseconds of each."""
        pixels = np.stack([golden_pixels(seed, self.manifest.space.pixels) for seed in range(batch)])
        each, cpu = repeat(lambda: self._vision(pixels=pixels), seconds)
        return {"rate": batch / each, "ms": each / batch * 1000, "cpu_ms": cpu / batch * 1000}

    def tokens(self, count: int, seconds: float) -> float:
        """Milliseconds of one text of so many tokens."""
        ids = np.full((1, count), 100, np.int64)
        ids[0, -1] = self._tokenizer.tokenize("").ids[-1]
        mask = np.ones_like(ids)
        return repeat(lambda: self._text(input_ids=ids, attention_mask=mask), seconds)[0] * 1000

    def sentences(self, seconds: float) -> float:
        """Milliseconds of one of the load's sentences, tokenizing included; the median."""
        taken: list[float] = []
        end = time.perf_counter() + seconds
        while (begin := time.perf_counter()) < end:
            ids, mask = self._tokenizer.pad([self._tokenizer.tokenize(sentence(len(taken)))])
            self._text(input_ids=ids, attention_mask=mask)
            taken.append(time.perf_counter() - begin)
        return float(np.median(taken)) * 1000

    def sentence_batches(self, batch: int, seconds: float) -> float:
        """Of the load's sentences a second, so many together; without tokenizing."""
        ids, mask = self._tokenizer.pad([self._tokenizer.tokenize(sentence(number)) for number in range(batch)])
        return batch / repeat(lambda: self._text(input_ids=ids, attention_mask=mask), seconds)[0]

    def decoding(self, pictures: tuple[str, ...], seconds: float, *, thumbnail: bool = False) -> float:
        """Core-milliseconds of one picture."""
        files = [Path(path).read_bytes() for path in pictures]
        make = make_thumbnail if thumbnail else None
        count, begin, end = 0, time.thread_time(), time.perf_counter() + seconds
        while time.perf_counter() < end or count % len(files):
            decode_picture(
                files[count % len(files)],
                self.manifest.space.pixels,
                max_pixels=_MAX_PIXELS,
                jpeg_scale=self.manifest.jpeg_scale,
                thumbnail=make,
            )
            count += 1
        return (time.thread_time() - begin) / count * 1000


def measure(bench: Bench) -> dict[str, Any]:
    """By precision: the towers by batch and length, the largest product of matrices; and decoding."""
    from benchmarks.model import vision_flops

    seconds = bench.profile.seconds / 3
    pictures = bench.workspace.pictures()
    flops = vision_flops(bench.workspace.checkpoint())
    found: dict[str, Any] = {"picture_gflop": flops / 1e9, "torch": _torch(bench, seconds)}
    for precision in bench.precisions:
        bundle = bench.workspace.bundle(precision)
        server = Alone(bundle)
        spinning = Alone(bundle, spinning=True) if Settings().providers == [_CPU] else None
        turns = [
            {
                **({"gemm_gflops": gemm_gflops(precision, seconds)} if precision in _OF_A_CPU else {}),
                "pictures": {str(batch): server.pictures(batch, seconds) for batch in BATCHES},
                **(
                    {"pictures_spinning": {str(b): spinning.pictures(b, seconds) for b in SPINNING_BATCHES}}
                    if spinning
                    else {}
                ),
                "text_ms": {str(count): server.tokens(count, seconds / 2) for count in TOKENS},
                "sentence_ms": server.sentences(seconds),
                "sentences_rate": {str(batch): server.sentence_batches(batch, seconds) for batch in BATCHES},
                "decode_core_ms": server.decoding(pictures, seconds),
                "decode_and_thumbnail_core_ms": server.decoding(pictures, seconds, thumbnail=True),
            }
            for _ in range(bench.profile.turns // 2 or 1)
        ]
        found[precision] = medians(turns)
    return found


def _torch(bench: Bench, seconds: float) -> dict[str, float]:
    """Pictures a second of torch at fp32, by batch: what the prototype's way runs."""
    import torch
    from transformers import CLIPModel

    torch.set_num_threads(cores())
    model = CLIPModel.from_pretrained(bench.workspace.checkpoint()).eval()  # type: ignore[no-untyped-call]
    size = model.config.vision_config.image_size
    rates = {}
    for batch in TORCH_BATCHES:
        pixels = torch.zeros((batch, 3, size, size))
        with torch.inference_mode():
            rates[str(batch)] = batch / repeat(partial(model.get_image_features, pixel_values=pixels), seconds)[0]
    return rates


def gemm_gflops(precision: Precision, seconds: float) -> float:
    """What ONNX Runtime reaches in a product of two square matrices, in 10^9 operations a second."""
    random = np.random.default_rng(0)
    left: Any
    weights: Any
    if precision == "fp32":
        left = random.normal(size=(_MATRIX, _MATRIX)).astype(np.float32)
        weights, result, operator = random.normal(size=(_MATRIX, _MATRIX)).astype(np.float32), "FLOAT", "MatMul"
    else:
        left = random.integers(0, 256, (_MATRIX, _MATRIX), dtype=np.uint8)
        weights, result = random.integers(-64, 64, (_MATRIX, _MATRIX), dtype=np.int8), "INT32"
        operator = "MatMulInteger"
    shape = [_MATRIX, _MATRIX]
    graph = helper.make_graph(
        [helper.make_node(operator, ["left", "weights"], ["product"])],
        "gemm",
        [helper.make_tensor_value_info("left", helper.np_dtype_to_tensor_dtype(left.dtype), shape)],
        [helper.make_tensor_value_info("product", TensorProto.DataType.Value(result), shape)],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = ort.SessionOptions()
    options.intra_op_num_threads = cores()
    session = ort.InferenceSession(model.SerializeToString(), options, providers=[_CPU])
    each, _ = repeat(lambda: session.run(None, {"left": left}), seconds)
    return 2 * _MATRIX**3 / each / 1e9


def _session(path: Path, *, spinning: bool) -> Any:
    if not spinning:
        return GraphSession(path, Settings().providers, cores()).run
    options = ort.SessionOptions()
    options.intra_op_num_threads = cores()
    session = ort.InferenceSession(str(path), options, providers=[_CPU])
    return lambda **inputs: session.run(None, inputs)


def repeat(call: Any, seconds: float) -> tuple[float, float]:
    """Median seconds of a call, and mean CPU seconds of it."""
    call()
    taken: list[float] = []
    cpu, end = time.process_time(), time.perf_counter() + seconds
    while (begin := time.perf_counter()) < end or len(taken) < 3:
        call()
        taken.append(time.perf_counter() - begin)
    return float(np.median(taken)), (time.process_time() - cpu) / len(taken)
