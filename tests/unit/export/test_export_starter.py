"""The starter gives what its parts give, and finds the pictures that everyone expects it to find."""

import io
import math
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, BertModel

from clipseek_export import starter
from clipseek_export import starter_parts as parts
from clipseek_export.errors import ExportError
from clipseek_export.measure import Towers
from clipseek_export.samples import PHOTOGRAPHS
from clipseek_export.source import Embeddings, Pixels, SourceModel
from clipseek_export.space import describe_space
from clipseek_server.encoding.bundle import TEXT_FILE, VISION_FILE, Manifest, golden_pixels, read_manifest
from clipseek_server.encoding.pictures import decode_picture
from clipseek_server.encoding.sessions import GraphSession
from clipseek_server.errors import InvalidImage
from pictures import ANSWERS

pytestmark = pytest.mark.xdist_group("starter")  # built once

TEXTS = [
    "a cat",
    "A Photo, of a CAT!",
    "",
    "une tasse de café, s'il vous plaît",
    "一只猫 \U0001f600",
    "zero\u200bwidth",
    "the cat sat on the mat and " * 80,
]
CPU = ["CPUExecutionProvider"]


@pytest.fixture(scope="module")
def manifest(starter_bundle: Path) -> Manifest:
    return read_manifest(starter_bundle)


@pytest.fixture(scope="module")
def towers(starter_bundle: Path, manifest: Manifest) -> Towers:
    return Towers(starter_bundle, manifest.text)


@pytest.fixture(scope="module")
def bundled(manifest: Manifest) -> list[tuple[str, bytes]]:
    """Every picture of scikit-image's wheel, by name."""
    pictures = []
    for file in sorted((files("skimage") / "data").iterdir(), key=lambda file: file.name):
        if file.is_file():
            data = file.read_bytes()
            try:
                decode_picture(data, manifest.space.pixels, max_pixels=10_000_000)
            except InvalidImage:
                continue
            pictures.append((file.name, data))
    assert len(pictures) >= 28
    return pictures


def cosines(found: Embeddings, expected: Embeddings) -> Embeddings:
    return np.einsum("nd,nd->n", found, expected)


def noise(count: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (count, 3, 260, 260), dtype=np.uint8)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_finds_the_right_picture_first(
    towers: Towers, manifest: Manifest, bundled: list[tuple[str, bytes]], interpolation: str
) -> None:
    spec = manifest.space.pixels.model_copy(update={"interpolation": interpolation})
    pixels = np.stack([decode_picture(data, spec, max_pixels=10_000_000).pixels for _, data in bundled])
    names = np.array([name for name, _ in bundled])
    scores = towers.texts(list(ANSWERS)) @ towers.pictures(pixels).T
    for (query, answers), row in zip(ANSWERS.items(), scores, strict=True):
        right = np.isin(names, list(answers))
        assert names[row.argmax()] in answers, query
        assert row[right].max() - row[~right].max() > 0.05, query


def test_pictures_are_as_the_formula_has_them(starter_model: SourceModel, towers: Towers) -> None:
    pixels = np.concatenate(
        [noise(2), [golden_pixels(seed, starter_model.pixels) for seed in range(2)], np.full_like(noise(1), 255)]
    )
    found, expected = towers.pictures(pixels), starter_model.reference_pictures(pixels)
    assert found.dtype == np.float32
    assert cosines(found, expected).min() > 0.99999
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_texts_are_as_transformers_has_them(starter_model: SourceModel, towers: Towers) -> None:
    found, expected = towers.texts(TEXTS), starter_model.reference_texts(TEXTS)
    assert found.dtype == np.float32
    assert cosines(found, expected).min() > 0.99999
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_reduced_jpegs_keep_their_embeddings(
    towers: Towers, manifest: Manifest, bundled: list[tuple[str, bytes]]
) -> None:
    assert manifest.decoding is not None
    assert manifest.decoding.similarity.cosine_min > 0.999
    spec, scale = manifest.space.pixels, manifest.decoding.jpeg_scale
    # None of them was measured; icons of a few pixels are left out.
    others = [Image.open(io.BytesIO(data)).convert("RGB") for name, data in bundled if name not in PHOTOGRAPHS]
    others = [image for image in others if min(image.size) >= 200]
    assert len(others) >= 5
    for image in others:
        enlarged = 2 * scale * spec.resize_to / min(image.size)
        size = (math.ceil(image.width * enlarged), math.ceil(image.height * enlarged))
        jpeg = io.BytesIO()
        image.resize(size, Image.Resampling.LANCZOS).save(jpeg, "JPEG", quality=85)
        reduced, whole = (
            decode_picture(jpeg.getvalue(), spec, max_pixels=100_000_000, jpeg_scale=allowed).pixels
            for allowed in (scale, None)
        )
        assert not np.array_equal(reduced, whole)
        found = towers.pictures(np.stack([reduced, whole]))
        assert cosines(found[:1], found[1:])[0] > 0.999


def test_company_changes_no_picture(towers: Towers) -> None:
    pixels = noise(8)
    np.testing.assert_allclose(towers.pictures(pixels, batch=8), towers.pictures(pixels, batch=1), atol=1e-5)


def test_padding_changes_no_text(starter_bundle: Path, manifest: Manifest) -> None:
    session = GraphSession(starter_bundle / TEXT_FILE, CPU, threads=0)
    ids = np.array([[101, 1037, 4937, 102], [101, 2417, 102, manifest.text.pad_id]], np.int64)
    mask = np.array([[1, 1, 1, 1], [1, 1, 1, 0]], np.int64)
    short = session.run(input_ids=ids, attention_mask=mask)
    for length in (5, 77, manifest.text.context_length):
        wider = ((0, 0), (0, length - 4))
        long = session.run(
            input_ids=np.pad(ids, wider, constant_values=manifest.text.pad_id), attention_mask=np.pad(mask, wider)
        )
        np.testing.assert_allclose(long, short, atol=1e-5)
    np.testing.assert_allclose(session.run(input_ids=ids[1:, :3], attention_mask=mask[1:, :3]), short[1:], atol=1e-5)


def test_a_text_has_no_look_and_a_picture_has_half(towers: Towers) -> None:
    texts, pictures = towers.texts(TEXTS), towers.pictures(noise(3))
    meaning = slice(0, -starter.LOOK_DIMENSIONS)
    np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(pictures, axis=1), 1, atol=1e-5)
    assert not texts[:, -starter.LOOK_DIMENSIONS :].any()
    np.testing.assert_allclose(np.linalg.norm(pictures[:, meaning], axis=1), (1 - starter.LOOK_SHARE) ** 0.5, atol=1e-5)


def test_class_codes_are_centred_sums_of_name_and_description(starter_model: SourceModel) -> None:
    codes = starter_model.vision.get_buffer("class_codes").double().numpy()
    np.testing.assert_allclose(codes.mean(axis=0), 0, atol=1e-6)
    few = [281, 670, 967]
    classes = [parts.class_texts()[index] for index in few]
    assert [text.name for text in classes] == ["tabby cat", "motor scooter", "espresso"]
    tokenizer = AutoTokenizer.from_pretrained(parts.sentence_folder(), local_files_only=True)
    bert = BertModel.from_pretrained(parts.sentence_folder(), local_files_only=True)

    def embed(text: str) -> Embeddings:
        inputs = tokenizer(text, truncation=True, max_length=starter.DESCRIPTION_TOKENS, return_tensors="pt")
        with torch.inference_mode():
            mean = bert(**inputs).last_hidden_state[0].mean(dim=0).numpy()
        return mean / np.linalg.norm(mean)

    sums = [embed(text.name) + starter.DESCRIPTION_WEIGHT * embed(text.description) for text in classes]
    whole = np.stack([code / np.linalg.norm(code) for code in sums])
    # Differences: the common mean cancels.
    np.testing.assert_allclose(codes[few[1:]] - codes[few[:-1]], whole[1:] - whole[:-1], atol=1e-5)


def test_look_directions_do_not_depend_on_the_signs_of_a_decomposition() -> None:
    weights = np.random.default_rng(0).normal(size=(200, 150)).astype(np.float32)
    directions = starter.look_directions(weights)
    np.testing.assert_allclose(starter.look_directions(-weights[::-1]), directions, atol=1e-5)
    np.testing.assert_allclose(directions.T @ directions, np.eye(starter.LOOK_DIMENSIONS), atol=1e-5)


def test_another_joining_is_another_space(
    starter_model: SourceModel, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert manifest.space_id == describe_space(starter_model).space_id
    monkeypatch.setitem(starter_model.constants, "temperature", starter.TEMPERATURE + 0.1)
    assert manifest.space_id != describe_space(starter_model).space_id


def test_bundle_says_what_it_is(starter_bundle: Path, manifest: Manifest) -> None:
    assert manifest.name == "starter"
    assert "not CLIP" in manifest.description
    assert manifest.dimension == 512
    assert manifest.space.constants["context_length"] == manifest.text.context_length
    assert manifest.source.license
    assert manifest.versions.keys() >= parts.versions().keys()
    shape = GraphSession(starter_bundle / VISION_FILE, CPU, threads=0).run(pixels=noise(1)).shape
    assert shape == (1, manifest.dimension)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "CLASSES", "no-such-package")
    with pytest.raises(ExportError, match=r"no-such-package is not installed.*pip install '\.\[starter\]'"):
        parts.class_texts()
