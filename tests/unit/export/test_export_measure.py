"""Nothing is exported that does not agree, and what a bundle may spare is measured."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipseek_export import clip, measure
from clipseek_export.errors import ExportError
from clipseek_export.export import export
from clipseek_export.hub import find_checkpoint
from clipseek_export.measure import Towers, measure_agreement, measure_decoding, overlap_at_10, similarity
from clipseek_export.samples import SENTENCES, jpegs, photographs, photographs_and_details
from clipseek_export.source import Embeddings, Pixels, SourceModel
from clipseek_server.encoding.bundle import MANIFEST_FILE, PixelSpec, read_manifest
from models import SmallClips


@pytest.fixture
def source(clips: SmallClips) -> SourceModel:
    return clip.load(find_checkpoint(str(clips.checkpoint())))


def unit(array: Embeddings) -> Embeddings:
    length: Embeddings = array / np.linalg.norm(array, axis=1, keepdims=True)
    return length


def test_pictures_that_differ_from_the_source_stop_an_export(source: SourceModel, tmp_path: Path) -> None:
    def turned(pixels: Pixels) -> Embeddings:
        return source.reference_pictures(np.ascontiguousarray(pixels[:, ::-1]))

    with pytest.raises(ExportError, match="vision tower at fp32 does not agree"):
        export(replace(source, reference_pictures=turned), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_one_sentence_that_differs_stops_an_export(source: SourceModel, tmp_path: Path) -> None:
    def misread(texts: list[str]) -> Embeddings:
        return source.reference_texts([*texts[:-1], "something else"])

    with pytest.raises(ExportError, match="text tower at fp32 does not agree"):
        export(replace(source, reference_texts=misread), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_is_not_finite_stops_an_export(source: SourceModel, tmp_path: Path) -> None:
    def broken(pixels: Pixels) -> Embeddings:
        return np.full((len(pixels), source.dimension), np.nan, np.float32)

    with pytest.raises(ExportError, match="does not agree"):
        export(replace(source, reference_pictures=broken), tmp_path / "out")


def test_a_precision_that_costs_too_much_stops_an_export(clips: SmallClips, source: SourceModel) -> None:
    spec = source.text_spec
    other = Towers(clips.bundle("first_eos"), spec)
    with pytest.raises(ExportError, match="at int8 does not agree with fp32"):
        measure_agreement(source, "int8", Towers(clips.bundle(), spec), other, [1.0, 1.0])


def test_a_failed_export_keeps_the_bundle_that_was_there(source: SourceModel, tmp_path: Path) -> None:
    export(source, tmp_path / "out", name="first")

    def broken(texts: list[str]) -> Embeddings:
        return source.reference_texts(texts[::-1])

    with pytest.raises(ExportError):
        export(replace(source, reference_texts=broken), tmp_path / "out", name="second")
    assert read_manifest(tmp_path / "out").name == "first"
    export(source, tmp_path / "out", name="third")
    assert read_manifest(tmp_path / "out").name == "third"


def test_similarity() -> None:
    one = np.eye(3, dtype=np.float32)
    assert similarity(one, one).cosine_min == 1
    found = similarity(one, one[[0, 2, 2]])
    assert (found.count, found.cosine_min, found.max_abs_difference) == (3, 0, 1)
    assert found.cosine_mean == pytest.approx(2 / 3)


def test_overlap_counts_the_ten_nearest_but_never_the_query_itself() -> None:
    rng = np.random.default_rng(0)
    rows = unit(rng.normal(size=(40, 8)).astype(np.float32))
    other = unit(rng.normal(size=(40, 8)).astype(np.float32))
    assert overlap_at_10((rows, rows), (rows, rows)) == 1
    assert overlap_at_10((rows[:5], rows), (rows[:5], rows)) == 1
    by_chance = overlap_at_10((rows, rows), (other, other))
    assert 0.1 < by_chance < 0.45
    # Of eleven rows the ten nearest are all others, however they lie.
    few, others = rows[:11], other[:11]
    assert overlap_at_10((few, few), (others, others)) == 1
    # Reckoned the long way: of one query's ten nearest, two were replaced.
    queries = np.eye(12, dtype=np.float32)[:1]
    near = np.arange(12, 0, -1, dtype=np.float32)[:, None] * queries
    far = near.copy()
    far[[8, 9, 10, 11]] = near[[10, 11, 8, 9]]
    assert overlap_at_10((queries, far), (queries, near)) == 0.8


def test_the_photographs_are_all_there_and_differ() -> None:
    spec = PixelSpec(
        height=32,
        width=32,
        resize="shortest_edge",
        resize_to=32,
        interpolation="bicubic",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    pictures, details = photographs(spec), photographs_and_details(spec)
    assert pictures.shape == (21, 3, 32, 32)
    assert details.shape == (105, 3, 32, 32)
    np.testing.assert_array_equal(details[:21], pictures)
    assert len(np.unique(details.reshape(105, -1), axis=0)) == 105
    assert len(set(SENTENCES)) == len(SENTENCES)


def test_a_decoder_reduces_the_jpegs_to_just_what_is_measured() -> None:
    sides = [min(Image.open(io.BytesIO(jpeg)).size) for jpeg in jpegs(70)]
    assert len(sides) == 27
    assert {side / 70 for side in sides} == {2, 4, 8}


def test_jpegs_are_reduced_as_far_as_costs_nothing(clips: SmallClips) -> None:
    decoding = read_manifest(clips.bundle()).decoding
    assert decoding is not None
    assert decoding.jpeg_scale in measure.JPEG_SCALES
    assert decoding.similarity.count == 27
    assert 0.999 < decoding.similarity.cosine_min <= decoding.similarity.cosine_mean < 1
    assert read_manifest(clips.bundle(precision="int8")).jpeg_scale == decoding.jpeg_scale


def test_jpegs_are_not_reduced_where_that_costs_too_much(clips: SmallClips, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = read_manifest(clips.bundle())
    towers = Towers(clips.bundle(), manifest.text)
    monkeypatch.setattr(measure, "JPEG_SCALES", (1.0,))
    assert measure_decoding(manifest.space.pixels, towers) is None


def test_a_bundle_without_the_measurement_decodes_in_full(clips: SmallClips, tmp_path: Path) -> None:
    content = json.loads((clips.bundle() / MANIFEST_FILE).read_text())
    del content["decoding"]
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(content))
    manifest = read_manifest(tmp_path)
    assert manifest.jpeg_scale is None
    assert manifest.space_id == read_manifest(clips.bundle()).space_id
