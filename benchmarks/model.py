"""The model that all are measured with: CLIP ViT-B/32 at full size, with random weights, and its bundles."""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from clipseek.bench.sentences import WORDS
from clipseek_export import clip, starter
from clipseek_export.export import export
from clipseek_export.hub import find_checkpoint
from clipseek_server.encoding.bundle import Precision

_START, _END = "<|startoftext|>", "<|endoftext|>"
_PROCESSOR_FILE = "preprocessor_config.json"
_ENOUGH = 10_000
"""More entries than the words need, so that each becomes one."""


def make_checkpoint(folder: Path, *, small: bool = False) -> None:
    """Save transformers' default CLIPConfig, which is ViT-B/32, with random weights.

    The tokenizer knows the words of the load generator's sentences, each as one token, as CLIP's own does.

    Args:
        folder: Where to; made if missing.
        small: Make two narrow layers a tower instead: to try the benchmarks, not to measure.
    """
    tower = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    size = tower if small else {}
    tokenizer = _tokenizer()
    config = CLIPConfig(
        # As in OpenAI's checkpoints: 2 stands for "where the highest token is".
        text_config={**size, "eos_token_id": 2, "bos_token_id": tokenizer.bos_token_id},
        vision_config=size,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil().save_pretrained(folder)
    # The name that releases of transformers before 5 know too.
    processor = json.loads((folder / _PROCESSOR_FILE).read_text())
    processor["image_processor_type"] = "CLIPImageProcessor"
    (folder / _PROCESSOR_FILE).write_text(json.dumps(processor, indent=2))


def make_bundle(checkpoint: Path, folder: Path, precision: Precision) -> None:
    """Export it as ``scripts/export_onnx.py`` does."""
    export(clip.load(find_checkpoint(str(checkpoint))), folder, precision)


def make_towers(checkpoint: Path, folder: Path) -> None:
    """Export it as clip-server wants it: pixels that are scaled already, texts padded to their full length."""
    model = CLIPModel.from_pretrained(checkpoint).eval()  # type: ignore[no-untyped-call]
    size, length = model.config.vision_config.image_size, model.config.text_config.max_position_embeddings
    folder.mkdir(parents=True)
    tokens = torch.ones((2, length), dtype=torch.int32)
    _export(_Visual(model), {"pixel_values": torch.zeros((2, 3, size, size))}, folder / "visual.onnx")
    _export(clip.TextTower(model, None), {"input_ids": tokens, "attention_mask": tokens}, folder / "textual.onnx")


class _Visual(torch.nn.Module):
    def __init__(self, model: CLIPModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        pooled = self.model.vision_model(pixel_values=pixel_values).pooler_output
        projected: torch.Tensor = self.model.visual_projection(pooled)
        return projected


def _export(tower: torch.nn.Module, example: dict[str, torch.Tensor], path: Path) -> None:
    # Advice about the tracer: what it traced is compared with the other servers' when it is measured.
    with warnings.catch_warnings(action="ignore"), torch.inference_mode():
        torch.onnx.export(
            tower,
            tuple(example.values()),
            path,
            input_names=list(example),
            output_names=["embedding"],
            dynamic_axes={name: {0: "batch"} for name in (*example, "embedding")},
            opset_version=18,
            dynamo=False,
        )


def make_starter(folder: Path, precision: Precision) -> None:
    """Export the starter as ``scripts/export_onnx.py --model starter`` does."""
    export(starter.load(), folder, precision)


def vision_flops(checkpoint: Path) -> int:
    """Floating-point operations of one picture: two for each multiplication of a weight or of attention."""
    config: Any = CLIPConfig.from_pretrained(checkpoint).vision_config
    patches = (config.image_size // config.patch_size) ** 2
    tokens, width = patches + 1, config.hidden_size
    layer = tokens * width * (4 * width + 2 * config.intermediate_size) + 2 * tokens**2 * width
    flops: int = 2 * (config.num_hidden_layers * layer + patches * width * 3 * config.patch_size**2)
    return flops


def _tokenizer() -> CLIPTokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trained = Tokenizer(BPE(end_of_word_suffix="</w>"))
    trainer = BpeTrainer(
        vocab_size=_ENOUGH, initial_alphabet=letters, end_of_word_suffix="</w>", show_progress=False, min_frequency=1
    )
    trained.train_from_iterator(WORDS, trainer)
    merges: Any = [tuple(merge) for merge in json.loads(trained.to_str())["model"]["merges"]]
    entries = dict.fromkeys([*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)])
    vocabulary = {entry: index for index, entry in enumerate([*entries, _START, _END])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)
