"""Small CLIP models with random weights: the real architecture and tokenizer, made in a second without a network."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from tokenizers import pre_tokenizers
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from clipseek_server.encoding.bundle import Precision

Pooling = Literal["argmax", "first_eos"]

START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = ["a", "the", "of", "on", "in", "and", "photo", "picture", "cat", "dog", "cup", "coffee", "red", "rocket"]


def make_small_clip(
    folder: Path,
    *,
    seed: int = 0,
    pooling: Pooling = "argmax",
    image_size: int = 32,
    context_length: int = 77,
    dimension: int = 32,
    shards: bool = False,
) -> Path:
    """Save a random CLIP of two layers a tower in transformers' format.

    Args:
        folder: Where to; made if missing.
        seed: Other seeds make other spaces.
        pooling: ``argmax`` is how OpenAI's checkpoints are: ``eos_token_id`` 2 in the configuration, and the end of
            text is the highest id. ``first_eos`` names the id, which here is the lowest but one.
        image_size: Side of the square input, in pixels; a multiple of 8.
        context_length: Tokens that a text may have.
        dimension: Length of an embedding.
        shards: Split the weights into several files, as large checkpoints are.

    Returns:
        The folder.
    """
    tokenizer = _tokenizer(special_first=pooling == "first_eos", context_length=context_length)
    tower = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = CLIPConfig(
        projection_dim=dimension,
        text_config={
            **tower,
            "projection_dim": dimension,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": context_length,
            "bos_token_id": tokenizer.bos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": 2 if pooling == "argmax" else tokenizer.eos_token_id,
        },
        vision_config={**tower, "projection_dim": dimension, "image_size": image_size, "patch_size": 8},
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = CLIPModel(config)
        for name, tensor in model.named_parameters():
            # The usual initialisation is so small that all inputs end in nearly the same embedding.
            if tensor.ndim >= 2:
                tensor.normal_(std=1.0 if "embedding" in name else 1.5 * tensor.shape[-1] ** -0.5)
    model.save_pretrained(folder, max_shard_size="100KB" if shards else "1GB")
    tokenizer.save_pretrained(folder)
    square = {"height": image_size, "width": image_size}
    CLIPImageProcessorPil(size={"shortest_edge": image_size}, crop_size=square).save_pretrained(folder)
    return folder


def export_bundle(model_folder: Path, output: Path, precision: Precision = "fp32") -> Path:
    """Export a model folder as ``scripts/export_onnx.py`` does, quietly; returns the bundle's folder."""
    from clipseek_export import clip
    from clipseek_export.export import export
    from clipseek_export.hub import find_checkpoint

    export(clip.load(find_checkpoint(str(model_folder))), output, precision)
    return output


class SmallClips:
    """Small models and their bundles, each made once and then only read.

    Args:
        folder: Where they are kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def checkpoint(self, pooling: Pooling = "argmax") -> Path:
        """A model in transformers' format."""
        folder = self._folder / pooling
        return folder if folder.is_dir() else make_small_clip(folder, pooling=pooling)

    def bundle(self, pooling: Pooling = "argmax", precision: Precision = "fp32") -> Path:
        """The same model as a bundle."""
        bundle = self._folder / f"{pooling}-{precision}"
        return bundle if bundle.is_dir() else export_bundle(self.checkpoint(pooling), bundle, precision)


def disturbed(embedding: list[float], noise: float) -> list[float]:
    """A golden pair's embedding with noise of that length, which is orthogonal to it."""
    right = np.array(embedding)
    across = np.random.default_rng(0).normal(size=right.shape)
    across -= (across @ right) * right
    moved: list[float] = (right + noise * across / np.linalg.norm(across)).tolist()
    return moved


def _tokenizer(*, special_first: bool, context_length: int) -> CLIPTokenizer:
    """Byte-level BPE like CLIP's, whose merges spell a few words; all other texts fall into letters."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    entries = letters + [f"{letter}</w>" for letter in letters]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            merge = (pieces[0], pieces[1])
            pieces[:2] = ["".join(merge)]
            if merge not in merges:
                merges.append(merge)
                entries.append(pieces[0])
    entries = [START, END, *entries] if special_first else [*entries, START, END]
    return CLIPTokenizer(
        vocab={entry: index for index, entry in enumerate(entries)},
        merges=merges,  # type: ignore[arg-type]  # its annotation forgets pairs
        model_max_length=context_length,
    )
