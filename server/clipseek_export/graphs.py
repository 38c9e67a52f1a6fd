"""Towers as ONNX graphs, and the precisions that they can be turned into."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers.float16 import convert_float_to_float16

from clipseek_export.errors import ExportError
from clipseek_export.source import SourceModel
from clipseek_server.encoding.bundle import Precision

_OPSET: Final = 18
_HEAVY: Final = frozenset({"MatMul", "Gemm", "Conv"})
_LARGEST_FILE: Final = 2**31 - 2**20


def export_vision(model: SourceModel, path: Path) -> None:
    """Write the vision tower at fp32.

    Raises:
        ExportError: It does not fit into one ONNX file.
    """
    example = torch.zeros((2, 3, model.pixels.height, model.pixels.width), dtype=torch.uint8)
    _export(model.vision, (example,), path, {"pixels": {0: "batch"}}, model.dimension)


def export_text(model: SourceModel, path: Path) -> None:
    """Write the text tower at fp32.

    Raises:
        ExportError: It does not fit into one ONNX file.
    """
    example = torch.ones((2, min(9, model.text_spec.context_length)), dtype=torch.int64)
    axes = {0: "batch", 1: "sequence"}
    _export(model.text, (example, example), path, {"input_ids": axes, "attention_mask": axes}, model.dimension)


def convert(source: Path, target: Path, precision: Precision) -> None:
    """Write a tower's fp32 graph at another precision; inputs and output keep their types."""
    with _quiet():
        if precision == "int8":
            quantize_dynamic(
                source,
                target,
                op_types_to_quantize=["MatMul", "Gemm"],
                per_channel=True,
                weight_type=QuantType.QInt8,
            )
        else:
            graph = onnx.load(source)
            halved = convert_float_to_float16(graph, keep_io_types=True, node_block_list=_fp32_nodes(graph.graph))
            onnx.save(halved, target)


def weight_share(fp32: Path, converted: Path) -> float:
    """Share of the fp32 graph's weights that the other graph holds in another type, in [0, 1]."""
    before, after = _fp32_weights(fp32), _fp32_weights(converted)
    return sum(size for name, size in before.items() if name not in after) / sum(before.values())


def _export(
    tower: torch.nn.Module,
    example: tuple[torch.Tensor, ...],
    path: Path,
    axes: dict[str, dict[int, str]],
    dimension: int,
) -> None:
    size = sum(tensor.nbytes for tensor in tower.state_dict().values())
    if size > _LARGEST_FILE:
        raise ExportError(
            f"{path.name} would have {size / 2**30:.1f} GiB; one ONNX file holds 2 at most: take a smaller model"
        )
    with _quiet(), torch.inference_mode():
        # The exporter built on torch.export writes graphs that run as fast, takes 6 s longer for each tower, and names
        # the values inside so that one can collide with our output.
        torch.onnx.export(
            tower,
            example,
            path,
            input_names=list(axes),
            output_names=["embedding"],
            dynamic_axes={**axes, "embedding": {0: "batch"}},
            opset_version=_OPSET,
            dynamo=False,
        )
    graph = onnx.load(path)
    shape = graph.graph.output[0].type.tensor_type.shape
    shape.dim[1].Clear()
    shape.dim[1].dim_value = dimension
    onnx.checker.check_model(graph)
    onnx.save(graph, path)


def _fp32_weights(path: Path) -> dict[str, int]:
    """Number of elements of each fp32 weight by name."""
    return {
        tensor.name: _elements(tensor)
        for tensor in onnx.load(path).graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    }


def _elements(tensor: onnx.TensorProto) -> int:
    count = 1
    for side in tensor.dims:
        count *= side
    return count


def _fp32_nodes(graph: onnx.GraphProto) -> list[str]:
    """The nodes that stay at fp32: those before the first layer (scaling) and after the last (L2 normalisation)."""
    fed: set[str] = {"pixels"}
    deep: set[str] = set()
    for node in graph.node:
        if node.op_type in _HEAVY or deep & set(node.input):
            deep.update(node.output)
        elif fed & set(node.input):
            fed.update(node.output)
    needed: set[str] = set()
    for node in reversed(graph.node):
        if node.op_type in _HEAVY or needed & set(node.output):
            needed.update(node.input)
    return [
        node.name
        for node in graph.node
        if fed & set(node.output) or not (node.op_type in _HEAVY or needed & set(node.output))
    ]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep tracer warnings and advice away from users; what matters is measured afterwards."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
