"""The arithmetic of ``clipseek-server plan``, and that its rates are those of the published results."""

import json
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks.pictures import BYTES, make_pictures
from benchmarks.rows import rows as made_rows
from clipseek_server.images.thumbnails import make_thumbnail
from clipseek_server.planning import rates, sizes
from clipseek_server.planning.plan import Wishes
from clipseek_server.planning.sizes import (
    NOT_MADE,
    PLANNED,
    index_bytes,
    index_core_ms,
    milvus_bytes,
    milvus_text_core_ms,
    process_bytes,
    quantity,
    record_bytes,
    text_core_ms,
)

RESULTS = Path(__file__).resolve().parents[3] / "benchmarks" / "results"
ROUNDING = 5e-4
"""Rates are kept to four digits."""

PICTURES = st.integers(1, 2_000_000_000)
INDEXES = st.sampled_from(PLANNED)
EFFORTS = st.sampled_from(["default", "fast"])
PRECISIONS = st.sampled_from(["fp32", "int8"])


def results(file: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / file).read_text())
    return found


def every_measured() -> list[rates.Measured]:
    found = [*rates.IMPORTED.values(), *rates.TEXT_SEARCHES.values(), *rates.PICTURES_EMBEDDED.values()]
    found += [rates.MILVUS_NEW_TEXTS]
    for by_rows in (rates.MILVUS_KNOWN_TEXTS, rates.MILVUS_MB, rates.MILVUS_SEGMENTS):
        found += by_rows.values()
    for by_precision in (rates.KNOWN_TEXTS, rates.PROCESS_MB):
        found += [measured for by_rows in by_precision.values() for measured in by_rows.values()]
    return found


@pytest.mark.parametrize("measured", every_measured(), ids=lambda measured: measured.path)
def test_every_rate_is_the_published_one(measured: rates.Measured) -> None:
    published = reduce(lambda tree, key: tree[key], measured.path.split("/"), results(measured.file))
    assert measured.value == pytest.approx(published, rel=ROUNDING)


def test_searches_never_made_the_process_larger_than_at_its_start() -> None:
    for by_rows in results("cpu.json")["scale"]["sizes"].values():
        assert all(size["rss_mb"] < size["rss_mb_at_start"] for size in by_rows.values())


def test_times_and_recalls_of_indexes_are_the_published_ones() -> None:
    published = {
        (each["index"], each["search"], each["rows"]): each
        for each in results("milvus_index.json")["milvus_index"]["searches"]
        if each["kind"] == "spread"
    }
    compared = set()
    for times in rates.INDEX_TIMES.values():
        assert times.p50_ms.keys() == times.recall_texts.keys()
        for rows, milliseconds in times.p50_ms.items():
            each = published[times.index, times.search, rows]
            assert milliseconds == pytest.approx(each["p50"], rel=ROUNDING)
            assert times.recall_texts[rows] == pytest.approx(each["recall_texts"], rel=ROUNDING)
            compared.add((times.index, times.search, rows))
    # Whatever is published of these settings is used.
    settings = {(times.index, times.search) for times in rates.INDEX_TIMES.values()}
    assert compared == {key for key in published if key[:2] in settings}


def test_the_measured_records_were_so_long() -> None:
    row = next(made_rows(1, 4)).record
    texts = (row.image_id, row.content_sha256, row.blob_key, row.media_type, json.dumps(row.metadata))
    assert pytest.approx(sum(map(len, texts)) + 5 * 8, abs=5) == rates.RECORD_BYTES


@pytest.mark.parametrize(
    "measured",
    [*rates.TEXT_SEARCHES.values(), *rates.PICTURES_EMBEDDED.values(), rates.MILVUS_NEW_TEXTS],
    ids=lambda measured: measured.path,
)
def test_rates_of_new_texts_and_pictures_are_the_best_of_all_callers(measured: rates.Measured) -> None:
    *path, _callers, _rate = measured.path.split("/")
    callers = reduce(lambda tree, key: tree[key], path, results(measured.file))
    assert measured.value == pytest.approx(max(each["rate"] for each in callers.values()), rel=ROUNDING)


@pytest.mark.parametrize("rows", [100_000, 1_000_000])
def test_new_texts_through_milvus_take_what_was_measured_where_no_rate_is_from(rows: int) -> None:
    rate = max(each["rate"] for each in results("cpu.json")["milvus"][str(rows)]["callers"].values())
    calculated = milvus_text_core_ms("fp32") + index_core_ms("IVF_FLAT", "default", rows, 512)
    assert calculated == pytest.approx(2000 / rate, rel=0.15)


def test_the_memory_of_milvus_is_what_was_measured() -> None:
    shorter = rates.RECORD_BYTES - record_bytes(0)  # Of metadata: less than nothing, since the measured ids were short.
    for rows, measured in rates.MILVUS_MB.items():
        calculated = milvus_bytes("IVF_FLAT", rows, 512, shorter)
        assert calculated == pytest.approx(measured.value * 1e6, rel=1e-9 if rows != 100_000 else 0.06)


def test_the_machines_had_so_many_cores() -> None:
    machines = (
        results("cpu.json")["machine"],
        results("milvus_index.json")["milvus_index"]["machine"],
    )
    assert {machine["cores_used"] for machine in machines} == {rates.CORES}


def test_the_indexes_were_measured_with_the_settings_defaults() -> None:
    nlist, nprobe = sizes.setting("ivf_nlist"), sizes.setting("ivf_nprobe")
    links, construction, ef = (sizes.setting(f"hnsw_{name}") for name in ("m", "ef_construction", "ef"))
    times = rates.INDEX_TIMES
    assert times["IVF_FLAT", "default"].index == f"IVF_FLAT nlist={nlist}"
    assert times["HNSW", "default"].index == f"HNSW M={links} efConstruction={construction}"
    assert [times["IVF_FLAT", effort].search for effort in ("default", "fast")] == [
        f"nprobe={nprobe}",
        f"nprobe={nprobe // 4}",
    ]
    assert [times["HNSW", effort].search for effort in ("default", "fast")] == [f"ef={ef}", f"ef={ef // 4}"]


def test_known_values() -> None:
    million = 1_000_000
    assert index_bytes("FLAT", million, 512) == 2_048_000_000
    # Seven segments of 1,024 centres each, and eight bytes beside each vector.
    assert index_bytes("IVF_FLAT", million, 512) == 2_048_000_000 + 8_000_000 + 7 * 1024 * 2048
    assert index_bytes("HNSW", million, 512) == 2_048_000_000 + 64 * 4 * million
    assert index_bytes("IVF_SQ8", million, 512) == 512_000_000 + 8_000_000 + 7 * 1024 * 2048
    assert index_bytes("DISKANN", million, 512) == 256_000_000
    assert record_bytes(0) == 64 + 64 + (32 + 1 + 64 + 1 + 64 + 1 + 16) + 10 + 40
    assert text_core_ms(10_000, "int8", 512) == pytest.approx(2000 / 380.6)
    # What a known text takes through Milvus, less what it takes without.
    known = 2000 / 48.15 - 2000 / 1322
    assert index_core_ms("IVF_FLAT", "default", million, 512) == pytest.approx(known)
    assert index_core_ms("IVF_FLAT", "default", 50 * million, 512) == pytest.approx(50 * known)
    assert index_core_ms("IVF_FLAT", "fast", million, 512) == pytest.approx(known * 8.878 / 21.79)
    # A million lay in seven segments, and each more is another graph to search.
    assert index_core_ms("HNSW", "default", million, 512) == pytest.approx(known * 24.91 / 21.79)
    assert index_core_ms("HNSW", "default", 2 * million, 512) == pytest.approx(2 * known * 24.91 / 21.79)


def test_few_rows_have_few_clusters() -> None:
    assert index_bytes("IVF_FLAT", 390, 512) == 390 * (2048 + 8) + 10 * 2048


def test_measured_sizes_are_given_as_they_were_measured() -> None:
    for precision, by_rows in rates.PROCESS_MB.items():
        for rows, measured in by_rows.items():
            shorter = rates.RECORD_BYTES - record_bytes(0)
            assert process_bytes(rows, precision, 512, shorter) == measured.value * 1e6
    few = 2000 / 164.9
    assert text_core_ms(10_000, "fp32", 512) == few
    assert text_core_ms(300_000, "fp32", 512) == pytest.approx(few + 2000 / 316.2 - 2000 / 980.1)
    assert text_core_ms(200_000, "fp32", 512) == pytest.approx(few + (2000 / 611.6 + 2000 / 316.2) / 2 - 2000 / 980.1)


@given(PICTURES, PICTURES, st.integers(1, 4096))
def test_more_pictures_never_need_less_memory(one: int, other: int, dimension: int) -> None:
    few, many = sorted((one, other))
    for index in (*PLANNED, *NOT_MADE):
        assert index_bytes(index, few, dimension) <= index_bytes(index, many, dimension)


@given(PICTURES, PICTURES, PRECISIONS)
def test_more_pictures_never_make_a_process_smaller(one: int, other: int, precision: rates.Precision) -> None:
    few, many = sorted((one, other))
    assert process_bytes(few, precision, 512, 0) <= process_bytes(many, precision, 512, 0)


@given(PICTURES, PICTURES, INDEXES, EFFORTS)
def test_more_pictures_are_never_searched_in_less_time(
    one: int, other: int, index: rates.PlannedIndex, effort: rates.Effort
) -> None:
    few, many = sorted((one, other))
    assert index_core_ms(index, effort, few, 512) <= index_core_ms(index, effort, many, 512)
    assert text_core_ms(few, "int8", 512) <= text_core_ms(many, "int8", 512)


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0, "bytes", "0 bytes"),
        (999, "bytes", "999 B"),
        (2_048_000_000, "bytes", "2.05 GB"),
        (12e12, "bytes", "12 TB"),
        (13.396, "ms", "13.4 ms"),
        (105_800, "ms", "106 s"),
        (7_200_000, "ms", "2 h"),
        (86_400_000, "ms", "1 days"),
        (0.9935, "", "0.994"),
        (0.0194, "", "0.019"),
        (1057.96, "cores", "1,058 cores"),
    ],
)
def test_quantities_have_three_digits(value: float, unit: str, shown: str) -> None:
    assert quantity(value, unit) == shown


def test_thumbnails_are_taken_to_be_as_large_as_those_of_the_measured_pictures(tmp_path: Path) -> None:
    make_pictures(tmp_path)
    lengths = []
    for path in tmp_path.iterdir():
        with Image.open(path) as picture:
            lengths.append(len(make_thumbnail(picture.convert("RGB"))))
    assert pytest.approx(sum(lengths) / len(lengths), rel=0.05) == rates.THUMBNAIL_KB * 1000
    assert Wishes(pictures=1).picture_kb * 1000 == BYTES
