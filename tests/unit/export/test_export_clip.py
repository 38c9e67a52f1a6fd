"""CLIP bundles give what transformers gives."""

import json
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from clipseek_export import clip
from clipseek_export.errors import ExportError
from clipseek_export.hub import find_checkpoint
from clipseek_export.source import SourceModel
from clipseek_server.encoding.bundle import Precision, golden_pixels, read_manifest, verify_files
from clipseek_server.encoding.pictures import preprocess
from clipseek_server.encoding.sessions import GraphSession
from models import Pooling, SmallClips, make_small_clip

POOLINGS: tuple[Pooling, ...] = ("argmax", "first_eos")
TEXTS = ["a cat", "a red cup of coffee on the moon", "", "zebra", "the " * 200]

Array = npt.NDArray[np.float32]


def session(bundle: Path, tower: str) -> GraphSession:
    return GraphSession(bundle / f"{tower}.onnx", ["CPUExecutionProvider"], threads=1)


def load(checkpoint: Path) -> SourceModel:
    return clip.load(find_checkpoint(str(checkpoint)))


def tokenize(checkpoint: Path, texts: list[str], length: int | None = None) -> dict[str, npt.NDArray[np.int64]]:
    """Token ids by transformers' own tokenizer, padded to the longest text or to ``length``."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    padding = "longest" if length is None else "max_length"
    return dict(tokenizer(texts, padding=padding, truncation=True, max_length=length or 77, return_tensors="np"))


def original_texts(checkpoint: Path, texts: list[str]) -> Array:
    model = CLIPModel.from_pretrained(checkpoint, attn_implementation="eager")
    inputs = {name: torch.from_numpy(ids) for name, ids in tokenize(checkpoint, texts).items()}
    with torch.inference_mode():
        return unit(model.get_text_features(**inputs).pooler_output)


def original_pictures(checkpoint: Path, images: list[Image.Image]) -> Array:
    """Everything by transformers: scaling and cropping too."""
    model = CLIPModel.from_pretrained(checkpoint, attn_implementation="eager")
    inputs = CLIPImageProcessorPil.from_pretrained(checkpoint)(images, return_tensors="pt")
    with torch.inference_mode():
        return unit(model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output)


def unit(features: torch.Tensor) -> Array:
    array: Array = torch.nn.functional.normalize(features, dim=-1).numpy()
    return array


def cosines(one: Array, other: Array) -> Array:
    return (one * other).sum(axis=1)


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    noise = np.random.default_rng(0)
    sizes = [(64, 48), (33, 90), (32, 32), (200, 40)]
    small = [Image.fromarray(noise.integers(0, 256, (4, 4, 3), np.uint8)) for _ in sizes]
    return [image.resize(size, Image.Resampling.BILINEAR) for image, size in zip(small, sizes, strict=True)]


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize(("precision", "lowest"), [("fp32", 0.99999), ("fp16", 0.999), ("int8", 0.98)])
def test_graphs_agree_with_transformers(
    clips: SmallClips, images: list[Image.Image], pooling: Pooling, precision: Precision, lowest: float
) -> None:
    checkpoint, bundle = clips.checkpoint(pooling), clips.bundle(pooling, precision)
    spec = read_manifest(bundle).space.pixels
    pixels = np.stack([preprocess(image, spec) for image in images])
    pictures = session(bundle, "vision").run(pixels=pixels)
    expected = original_pictures(checkpoint, images)
    assert cosines(pictures, expected).min() > lowest
    # The comparison means something only where other inputs give other embeddings.
    assert cosines(pictures[:-1], expected[1:]).max() < 0.97

    texts = session(bundle, "text").run(**tokenize(checkpoint, TEXTS))
    expected = original_texts(checkpoint, TEXTS)
    assert cosines(texts, expected).min() > lowest
    assert cosines(texts[:-1], expected[1:]).max() < 0.97


@pytest.mark.parametrize("pooling", POOLINGS)
def test_embeddings_have_length_one(clips: SmallClips, pooling: Pooling) -> None:
    bundle = clips.bundle(pooling)
    spec = read_manifest(bundle).space.pixels
    pictures = session(bundle, "vision").run(pixels=np.stack([golden_pixels(seed, spec) for seed in range(3)]))
    texts = session(bundle, "text").run(**tokenize(clips.checkpoint(pooling), TEXTS))
    for embeddings in (pictures, texts):
        assert embeddings.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_padding_changes_no_embedding(clips: SmallClips, pooling: Pooling) -> None:
    checkpoint = clips.checkpoint(pooling)
    text = session(clips.bundle(pooling), "text")
    alone = np.concatenate([text.run(**tokenize(checkpoint, [sentence])) for sentence in TEXTS])
    longest = text.run(**tokenize(checkpoint, TEXTS[:4]))
    context = text.run(**tokenize(checkpoint, TEXTS, length=77))
    np.testing.assert_allclose(longest, alone[:4], atol=5e-6)
    np.testing.assert_allclose(context, alone, atol=5e-6)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_any_pad_token_will_do(clips: SmallClips, pooling: Pooling) -> None:
    """Some checkpoints pad with "!", others with the end of text, and some with an id above it."""
    checkpoint = clips.checkpoint(pooling)
    text = session(clips.bundle(pooling), "text")
    inputs = tokenize(checkpoint, ["a cat", "a cup of coffee on the rocket"])
    expected = text.run(**inputs)
    end = AutoTokenizer.from_pretrained(checkpoint).eos_token_id
    for pad in {0, end, 7}:
        ids = np.where(inputs["attention_mask"] == 1, inputs["input_ids"], pad)
        np.testing.assert_allclose(
            text.run(input_ids=ids, attention_mask=inputs["attention_mask"]), expected, atol=1e-6
        )


@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_batch_and_length_is_taken(clips: SmallClips, pooling: Pooling) -> None:
    """Tracing could have frozen the example's shape into the graph."""
    checkpoint, bundle = clips.checkpoint(pooling), clips.bundle(pooling)
    vision, text = session(bundle, "vision"), session(bundle, "text")
    spec = read_manifest(bundle).space.pixels
    one_by_one = np.concatenate([vision.run(pixels=golden_pixels(seed, spec)[None]) for seed in range(5)])
    together = vision.run(pixels=np.stack([golden_pixels(seed, spec) for seed in range(5)]))
    np.testing.assert_allclose(together, one_by_one, atol=5e-6)
    for count in (1, 2, 3, 11):
        for words in (0, 1, 5, 30, 100):
            texts = ["the " * words] * count
            found = text.run(**tokenize(checkpoint, texts))
            assert found.shape == (count, 32)
            assert cosines(found[:1], original_texts_cached(checkpoint, words)).min() > 0.99999


_ORIGINALS: dict[tuple[Path, int], Array] = {}


def original_texts_cached(checkpoint: Path, words: int) -> Array:
    key = (checkpoint, words)
    if key not in _ORIGINALS:
        _ORIGINALS[key] = original_texts(checkpoint, ["the " * words])
    return _ORIGINALS[key]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_inputs_and_outputs_are_the_contract(clips: SmallClips, precision: Precision) -> None:
    bundle = clips.bundle("argmax", precision)
    expected = {
        "vision": [("pixels", "UINT8", ["batch", 3, 32, 32]), ("embedding", "FLOAT", ["batch", 32])],
        "text": [
            ("input_ids", "INT64", ["batch", "sequence"]),
            ("attention_mask", "INT64", ["batch", "sequence"]),
            ("embedding", "FLOAT", ["batch", 32]),
        ],
    }
    for tower, values in expected.items():
        graph = onnx.load(bundle / f"{tower}.onnx").graph
        found = [
            (
                value.name,
                onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type),
                [side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim],
            )
            for value in (*graph.input, *graph.output)
        ]
        assert found == values


def test_the_manifest_says_what_was_measured(clips: SmallClips) -> None:
    exact, small = read_manifest(clips.bundle()), read_manifest(clips.bundle(precision="int8"))
    verify_files(clips.bundle(), exact)
    assert exact.fp32_agreement == 1
    assert exact.agreement == {}
    assert exact.dimension == 32
    assert exact.text.context_length == 77
    assert exact.logit_scale == pytest.approx(14.285, abs=0.01)
    assert exact.space.pooling == "argmax"
    assert exact.parity["vision"].cosine_min > 0.99999
    assert exact.parity["vision"].count == 21
    assert 0.98 <= small.fp32_agreement < 1
    assert small.agreement["vision"].similarity.count == 105
    # Convolution and embeddings stay; all matrices of the layers are touched.
    assert 0.5 < small.agreement["text"].weight_share < small.agreement["vision"].weight_share < 0.95
    assert 0.7 < (small.agreement["vision"].overlap_at_10 or 0) <= 1
    assert read_manifest(clips.bundle(precision="fp16")).agreement["text"].weight_share > 0.99
    assert {"torch", "transformers", "onnxruntime"} <= exact.versions.keys()


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_golden_pairs_are_what_the_graphs_give(clips: SmallClips, precision: Precision) -> None:
    checkpoint, bundle = clips.checkpoint(), clips.bundle(precision=precision)
    manifest = read_manifest(bundle)
    assert sum(golden.text is not None for golden in manifest.golden) >= 2
    assert sum(golden.picture_seed is not None for golden in manifest.golden) >= 2
    for golden in manifest.golden:
        if golden.text is not None:
            found = session(bundle, "text").run(**tokenize(checkpoint, [golden.text]))
        else:
            assert golden.picture_seed is not None
            pixels = golden_pixels(golden.picture_seed, manifest.space.pixels)
            found = session(bundle, "vision").run(pixels=pixels[None])
        np.testing.assert_allclose(found[0], golden.embedding, atol=1e-5)


def changed(checkpoint: Path, folder: Path, file: str, **values: object) -> Path:
    """A copy of a checkpoint with other values in one of its JSON files; None takes a key away."""
    shutil.copytree(checkpoint, folder)
    content = json.loads((folder / file).read_text()) | values
    (folder / file).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return folder


def test_the_oldest_processor_files_are_read(clips: SmallClips, tmp_path: Path) -> None:
    """OpenAI's checkpoints say ``"size": 224`` and do not say that pixels are scaled."""
    old = changed(
        clips.checkpoint(),
        tmp_path / "old",
        "preprocessor_config.json",
        size=32,
        crop_size=32,
        do_rescale=None,
        rescale_factor=None,
        image_processor_type=None,
        feature_extractor_type="CLIPFeatureExtractor",
    )
    assert load(old).pixels == load(clips.checkpoint()).pixels


@pytest.mark.parametrize(
    ("file", "values", "words"),
    [
        ("config.json", {"model_type": "siglip"}, "siglip"),
        ("config.json", {"model_type": None}, "only CLIP"),
        ("preprocessor_config.json", {"do_center_crop": False}, "not supported"),
        ("preprocessor_config.json", {"crop_size": {"height": 48, "width": 48}}, "not supported"),
        ("preprocessor_config.json", {"rescale_factor": 1.0}, "not supported"),
        ("preprocessor_config.json", {"resample": 0}, "not supported"),
        ("preprocessor_config.json", {"do_normalize": False}, "not supported"),
    ],
)
def test_what_cannot_be_served_is_refused(
    clips: SmallClips, tmp_path: Path, file: str, values: dict[str, object], words: str
) -> None:
    with pytest.raises(ExportError, match=words):
        load(changed(clips.checkpoint(), tmp_path / "other", file, **values))


def test_an_end_that_the_tokenizer_never_writes_is_refused(clips: SmallClips, tmp_path: Path) -> None:
    text_config = json.loads((clips.checkpoint("first_eos") / "config.json").read_text())["text_config"]
    wrong = changed(
        clips.checkpoint("first_eos"), tmp_path / "wrong", "config.json", text_config=text_config | {"eos_token_id": 5}
    )
    with pytest.raises(ExportError, match="eos_token_id"):
        load(wrong)


@pytest.mark.parametrize("missing", ["config.json", "preprocessor_config.json", "tokenizer.json", "model.safetensors"])
def test_half_a_checkpoint_is_refused(clips: SmallClips, tmp_path: Path, missing: str) -> None:
    folder = shutil.copytree(clips.checkpoint(), tmp_path / "half")
    (folder / missing).unlink()
    with pytest.raises(ExportError, match=missing):
        load(folder)


def test_missing_weights_are_not_made_up(clips: SmallClips, tmp_path: Path) -> None:
    folder = shutil.copytree(clips.checkpoint(), tmp_path / "holes")
    tensors = load_file(folder / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ExportError, match=r"visual_projection\.weight"):
        load(folder)


def test_a_pickle_is_never_read(clips: SmallClips, tmp_path: Path) -> None:
    folder = shutil.copytree(clips.checkpoint(), tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ExportError, match="pickle"):
        load(folder)


def test_sharded_weights_are_read(clips: SmallClips, tmp_path: Path) -> None:
    folder = make_small_clip(tmp_path / "shards", shards=True)
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    assert load(folder).tensors.keys() == load(clips.checkpoint()).tensors.keys()
