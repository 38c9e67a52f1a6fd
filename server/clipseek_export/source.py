"""What a model family hands to the exporter: two towers, a tokenizer, and the original to compare them with."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from clipseek_server.encoding.bundle import PixelSpec, Source, TextSpec

Embeddings = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class SourceModel:
    """A model ready for export. Both towers are in eval mode and on the CPU, with fp32 weights.

    Attributes:
        name: The bundle's name, e.g. ``clip-vit-base-patch32``; other precisions get a suffix, ``--name`` replaces it.
        description: What the model is good for, one or two sentences.
        family: The module that loaded it: ``clip`` or ``starter``.
        source: Where the weights came from.
        vision: ``pixels`` uint8 ``[batch, 3, height, width]`` -> float32 ``[batch, dimension]``, L2-normalised.
        text: ``input_ids`` and ``attention_mask``, int64 ``[batch, sequence]`` -> float32 ``[batch, dimension]``,
            L2-normalised. Must accept every batch >= 1 and sequence in [1, ``text_spec.context_length``].
        tokenizer_json: Content of ``tokenizer.json``; truncation and padding are switched off by the writer.
        pixels: The vision tower's input geometry.
        text_spec: The text tower's input.
        dimension: Length of an embedding.
        logit_scale: Factor from cosine to logit; 0 when the model has none.
        pooling: How the text tower pools, e.g. ``argmax``, ``first_eos``, ``mean``.
        constants: What else decides an embedding (temperatures, activations, epsilons); part of the space.
        tensors: The source tensors by name; their digest is part of the space. Buffers that a library may or may not
            save (position ids) stay out.
        reference_pictures: The original implementation, independent of ``vision``: uint8
            ``[count, 3, height, width]`` -> float32 ``[count, dimension]``, L2-normalised.
        reference_texts: The original implementation with the original tokenizer: sentences -> float32
            ``[count, dimension]``, L2-normalised.
        package_versions: Packages that the weights or the code came from, beside torch, transformers, onnx and
            onnxruntime, which the exporter adds.
    """

    name: str
    description: str
    family: str
    source: Source
    vision: torch.nn.Module
    text: torch.nn.Module
    tokenizer_json: str
    pixels: PixelSpec
    text_spec: TextSpec
    dimension: int
    logit_scale: float
    pooling: str
    tensors: dict[str, torch.Tensor]
    reference_pictures: Callable[[Pixels], Embeddings]
    reference_texts: Callable[[list[str]], Embeddings]
    constants: dict[str, float | int | str] = field(default_factory=dict)
    package_versions: dict[str, str] = field(default_factory=dict)
