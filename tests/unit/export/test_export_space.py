"""Which exports share a space."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import normalizers
from transformers import CLIPModel

from clipseek_export import clip
from clipseek_export.hub import find_checkpoint
from clipseek_export.space import describe_space, tokenizer_sha256, weights_sha256
from clipseek_server.encoding.bundle import read_manifest
from models import SmallClips, make_small_clip


def space_id(checkpoint: Path) -> str:
    return describe_space(clip.load(find_checkpoint(str(checkpoint)))).space_id


def resaved(checkpoint: Path, folder: Path, dtype: torch.dtype) -> Path:
    shutil.copytree(checkpoint, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    CLIPModel.from_pretrained(checkpoint, dtype=dtype).save_pretrained(folder)
    return folder


def test_precisions_share_a_space(clips: SmallClips) -> None:
    manifests = [read_manifest(clips.bundle(precision=precision)) for precision in ("fp32", "fp16", "int8")]
    assert len({manifest.space_id for manifest in manifests}) == 1
    assert len({manifest.files["vision.onnx"] for manifest in manifests}) == 3


def test_the_space_survives_saving_again(clips: SmallClips, tmp_path: Path) -> None:
    again = resaved(clips.checkpoint(), tmp_path / "again", torch.float32)
    assert space_id(again) == space_id(clips.checkpoint())


def test_the_space_survives_sharding(clips: SmallClips, tmp_path: Path) -> None:
    assert space_id(make_small_clip(tmp_path / "shards", shards=True)) == space_id(clips.checkpoint())


def test_a_checkpoint_at_half_precision_has_the_space_of_its_values(clips: SmallClips, tmp_path: Path) -> None:
    half = resaved(clips.checkpoint(), tmp_path / "half", torch.float16)
    single = resaved(half, tmp_path / "single", torch.float32)
    assert space_id(half) == space_id(single) != space_id(clips.checkpoint())


def test_counted_positions_are_no_weights(clips: SmallClips, tmp_path: Path) -> None:
    """Old checkpoints hold them, new ones don't."""
    old = shutil.copytree(clips.checkpoint(), tmp_path / "old")
    tensors = load_file(old / "model.safetensors")
    tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    tensors["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    save_file(tensors, old / "model.safetensors", metadata={"format": "pt"})
    assert space_id(old) == space_id(clips.checkpoint())


def test_what_changes_an_embedding_changes_the_space(clips: SmallClips, tmp_path: Path) -> None:
    config = json.loads((clips.checkpoint() / "config.json").read_text())
    processor = json.loads((clips.checkpoint() / "preprocessor_config.json").read_text())
    changes: dict[str, dict[str, object]] = {
        "activation": {"config.json": config | {"text_config": config["text_config"] | {"hidden_act": "gelu"}}},
        "heads": {"config.json": config | {"vision_config": config["vision_config"] | {"num_attention_heads": 2}}},
        "interpolation": {"preprocessor_config.json": processor | {"resample": 2}},
        "mean": {"preprocessor_config.json": processor | {"image_mean": [0.5, 0.5, 0.5]}},
        "size": {"preprocessor_config.json": processor | {"size": {"shortest_edge": 36}}},
    }
    spaces = {space_id(clips.checkpoint()), space_id(clips.checkpoint("first_eos"))}
    spaces.add(space_id(make_small_clip(tmp_path / "seed", seed=1)))
    for name, files in changes.items():
        folder = shutil.copytree(clips.checkpoint(), tmp_path / name)
        for file, content in files.items():
            (folder / file).write_text(json.dumps(content))
        spaces.add(space_id(folder))
    assert len(spaces) == 3 + len(changes)


def test_weights_digest_sees_names_shapes_and_values() -> None:
    digests = {
        weights_sha256(tensors)
        for tensors in (
            {"a": torch.zeros(2, 3)},
            {"b": torch.zeros(2, 3)},
            {"a": torch.zeros(3, 2)},
            {"a": torch.ones(2, 3)},
            {"a": torch.zeros(2, 3), "b": torch.zeros(0)},
        )
    }
    assert len(digests) == 5
    ordered = {"a": torch.zeros(1), "b": torch.ones(1)}
    assert weights_sha256(ordered) == weights_sha256(dict(reversed(ordered.items())))
    assert weights_sha256({"a": torch.tensor([0.5], dtype=torch.float16)}) == weights_sha256({"a": torch.tensor([0.5])})
    assert weights_sha256({"a": torch.zeros(2, 3).T}) == weights_sha256({"a": torch.zeros(3, 2)})


def test_tokenizer_digest_does_not_depend_on_how_it_is_written(clips: SmallClips) -> None:
    written = (clips.bundle() / "tokenizer.json").read_text()
    content = json.loads(written)
    content["model"]["merges"] = [" ".join(merge) for merge in content["model"]["merges"]]
    content["model"].pop("ignore_merges", None)
    content["truncation"] = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    assert tokenizer_sha256(json.dumps(content, indent=3)) == tokenizer_sha256(written)


def test_tokenizer_digest_sees_the_normaliser_the_merges_and_the_frame(clips: SmallClips) -> None:
    written = (clips.bundle() / "tokenizer.json").read_text()
    other_normaliser, other_merges, no_frame, other_word = (json.loads(written) for _ in range(4))
    other_normaliser["normalizer"] = json.loads(normalizers.NFC().__getstate__())
    other_merges["model"]["merges"].reverse()
    no_frame["post_processor"] = None
    vocabulary = other_word["model"]["vocab"]
    vocabulary["cat</w>"], vocabulary["dog</w>"] = vocabulary["dog</w>"], vocabulary["cat</w>"]
    digests = {
        tokenizer_sha256(json.dumps(content)) for content in (other_normaliser, other_merges, no_frame, other_word)
    }
    assert len(digests | {tokenizer_sha256(written)}) == 5
