"""CLIP (Radford et al., 2021) from a checkpoint in transformers' format."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoTokenizer, CLIPModel, PreTrainedTokenizerBase
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from clipseek_export.errors import ExportError
from clipseek_export.hub import Checkpoint
from clipseek_export.source import Embeddings, Pixels, SourceModel
from clipseek_server.encoding.bundle import PixelSpec, Source, TextSpec

_INTERPOLATIONS: Final[dict[int, Literal["bilinear", "bicubic", "lanczos"]]] = {
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
}

# transformers' oldest checkpoints carry this id by mistake; it means "pool where the highest token id is".
_LEGACY_END: Final = 2


class VisionTower(torch.nn.Module):
    """``pixels`` uint8 ``[batch, 3, height, width]`` -> L2-normalised float32 ``[batch, dimension]``."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: CLIPModel, spec: PixelSpec) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1) * 255)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Scale, normalise, embed."""
        scaled = (pixels.to(torch.float32) - self.mean) / self.std
        pooled = self.model.vision_model(pixel_values=scaled).pooler_output
        return torch.nn.functional.normalize(self.model.visual_projection(pooled), dim=-1)


class TextTower(torch.nn.Module):
    """``input_ids`` and ``attention_mask`` int64 ``[batch, sequence]`` -> L2-normalised float32 ``[batch, dimension]``.

    Attention is causal and the embedding is taken where the text ends, so what is padded behind it changes nothing. The
    mask only keeps padding from being taken for the end.

    Args:
        model: The source model.
        end_id: The end of text is where this token is first; ``None``: where the highest token is first.
    """

    def __init__(self, model: CLIPModel, end_id: int | None) -> None:
        super().__init__()
        self.model = model
        self.end_id = end_id

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Embed."""
        states = self.model.text_model(input_ids=input_ids).last_hidden_state
        marks = input_ids if self.end_id is None else input_ids == self.end_id
        # int32: not every runtime's ArgMax takes int64.
        end = (marks * attention_mask).to(torch.int32).argmax(dim=-1)
        pooled = states[torch.arange(states.shape[0]), end]
        return torch.nn.functional.normalize(self.model.text_projection(pooled), dim=-1)


def load(checkpoint: Checkpoint) -> SourceModel:
    """Load a CLIP checkpoint.

    Raises:
        ExportError: Not a whole CLIP checkpoint with safetensors weights.
    """
    folder = checkpoint.folder
    _check_architecture(checkpoint)
    clip, tensors = _load_weights(folder)
    tokenizer, processor = _load_processing(folder)
    vision, text = clip.vision_model.config, clip.text_model.config
    pixels = _pixel_spec(processor, vision.image_size)
    context_length = text.max_position_embeddings
    end_id = _end_id(text.eos_token_id, tokenizer)

    def reference_pictures(batch: Pixels) -> Embeddings:
        inputs = processor(
            list(batch), do_resize=False, do_center_crop=False, return_tensors="pt", input_data_format="channels_first"
        )
        with torch.inference_mode():
            return _unit(clip.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output)

    def reference_texts(texts: list[str]) -> Embeddings:
        inputs = tokenizer(texts, padding="max_length", truncation=True, max_length=context_length, return_tensors="pt")
        with torch.inference_mode():
            return _unit(
                clip.get_text_features(
                    input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
                ).pooler_output
            )

    return SourceModel(
        name=checkpoint.id.rsplit("/", 1)[-1],
        description="CLIP: finds pictures by what is to be seen in them, from English sentences or other pictures.",
        family="clip",
        source=Source(id=checkpoint.id, revision=checkpoint.revision, license=checkpoint.license),
        vision=VisionTower(clip, pixels).eval(),
        text=TextTower(clip, end_id).eval(),
        tokenizer_json=_serialised(tokenizer),
        pixels=pixels,
        text_spec=TextSpec(
            context_length=context_length,
            padding="longest",
            pad_id=tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        ),
        dimension=clip.visual_projection.out_features,
        logit_scale=float(clip.logit_scale.detach().exp()),
        pooling="argmax" if end_id is None else "first_eos",
        tensors=tensors,
        reference_pictures=reference_pictures,
        reference_texts=reference_texts,
        constants={
            f"{name}_{key}": getattr(tower, key)
            for name, tower in (("vision", vision), ("text", text))
            for key in ("hidden_act", "layer_norm_eps", "num_attention_heads")
        },
    )


def _check_architecture(checkpoint: Checkpoint) -> None:
    needed = ("config.json", "preprocessor_config.json", "tokenizer.json or vocab.json")
    missing = [
        names for names in needed if not any((checkpoint.folder / name).is_file() for name in names.split(" or "))
    ]
    if missing:
        raise ExportError(
            f"{checkpoint.id} is not a whole checkpoint in transformers' format: {', '.join(missing)} is missing; "
            "save the model, its tokenizer and its image processor into one folder with save_pretrained()"
        )
    try:
        kind = json.loads((checkpoint.folder / "config.json").read_bytes()).get("model_type")
    except (ValueError, AttributeError) as error:
        raise ExportError(f"{checkpoint.id}: config.json cannot be read: {error}") from error
    if kind != "clip":
        raise ExportError(
            f"{checkpoint.id} is a {kind or 'nameless'} model; only CLIP (model_type clip) can be exported"
        )


def _load_weights(folder: Path) -> tuple[CLIPModel, dict[str, torch.Tensor]]:
    """The model at fp32, and its tensors under the names that they have in the files."""
    try:
        loaded: Any = CLIPModel.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except Exception as error:  # transformers raises all kinds
        raise ExportError(f"{folder}: the weights cannot be loaded: {error}") from error
    model: CLIPModel
    model, loading = loaded
    # transformers fills in what is missing with random numbers.
    absent = sorted({*loading["missing_keys"], *(str(key) for key in loading["mismatched_keys"])})
    if absent:
        raise ExportError(
            f"{folder}: weights are missing or of another shape: {', '.join(absent[:3])} ({len(absent)} in all)"
        )
    tensors: dict[str, torch.Tensor] = {}
    whole = folder / "model.safetensors"
    for path in [whole] if whole.is_file() else sorted(folder.glob("model-*-of-*.safetensors")):
        tensors.update(load_file(path))
    # Older versions saved the position ids, which are counted and not learnt.
    extra = {name for name in tensors if name in loading["unexpected_keys"] or name.endswith("position_ids")}
    model.train(False)
    return model, {name: tensor for name, tensor in tensors.items() if name not in extra}


def _load_processing(folder: Path) -> tuple[PreTrainedTokenizerBase, CLIPImageProcessorPil]:
    try:
        return (
            AutoTokenizer.from_pretrained(folder, local_files_only=True),
            CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True),
        )
    except Exception as error:  # transformers raises all kinds
        raise ExportError(f"{folder}: tokenizer or image processor cannot be loaded: {error}") from error


def _pixel_spec(processor: CLIPImageProcessorPil, image_size: object) -> PixelSpec:
    square = {"height": image_size, "width": image_size}
    size, interpolation = dict(processor.size), _INTERPOLATIONS.get(int(processor.resample))
    edge = size.get("shortest_edge")
    cropped = edge is not None and processor.do_center_crop and dict(processor.crop_size) == square
    scaled = processor.do_rescale and abs(processor.rescale_factor * 255 - 1) < 1e-6 and processor.do_normalize
    if (
        not isinstance(image_size, int)
        or interpolation is None
        or not (processor.do_resize and scaled and (cropped or size == square))
    ):
        raise ExportError(
            f"preprocessor_config.json asks for what is not supported here: {processor.to_json_string()}\n"
            f"Supported: resize (bilinear, bicubic, lanczos) to a shortest edge, then a centre crop of {image_size}; "
            f"or resize to {image_size} x {image_size}; then rescale by 1/255 and normalise"
        )
    return PixelSpec(
        height=image_size,
        width=image_size,
        resize="exact" if edge is None else "shortest_edge",
        resize_to=image_size if edge is None else edge,
        interpolation=interpolation,
        mean=_three(processor.image_mean),
        std=_three(processor.image_std),
    )


def _three(channels: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = channels
    return float(red), float(green), float(blue)


def _end_id(configured: object, tokenizer: PreTrainedTokenizerBase) -> int | None:
    if configured == _LEGACY_END:
        return None
    end: int = tokenizer("")["input_ids"][-1]
    if end != configured:
        raise ExportError(
            f"config.json says that texts end with token {configured}, the tokenizer ends them with {end}; "
            "correct eos_token_id in text_config"
        )
    return end


def _serialised(tokenizer: PreTrainedTokenizerBase) -> str:
    plain = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    plain.no_padding()
    plain.no_truncation()
    return plain.to_str(pretty=False)


def _unit(features: torch.Tensor) -> Embeddings:
    found: Embeddings = torch.nn.functional.normalize(features, dim=-1).numpy().astype(np.float32)
    return found
