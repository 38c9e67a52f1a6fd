"""Pure arithmetic: bytes and core-milliseconds of a number of pictures."""

import itertools
import math
import uuid
from collections.abc import Mapping
from typing import Literal

from clipseek_server.config import Settings
from clipseek_server.images.blobs import new_blob_key
from clipseek_server.planning import rates
from clipseek_server.planning.rates import MEASURED_DIMENSION, Effort, PlannedIndex, Precision

AnyIndex = PlannedIndex | Literal["IVF_SQ8", "DISKANN"]
"""The last two are Milvus', but no setting of clipseek makes them."""

PLANNED: tuple[PlannedIndex, ...] = ("FLAT", "IVF_FLAT", "HNSW")
NOT_MADE: tuple[AnyIndex, ...] = ("IVF_SQ8", "DISKANN")

_MILLION = 1_000_000
_ROWS_OF_A_CLUSTER = 39
"""Milvus makes no more clusters than give each so many rows."""

_SHA256 = "0" * 64
_MEDIA_TYPE = len("image/jpeg")
_NUMBERS = 5 * 8
"""Width, height, size and two times."""


def setting(name: str) -> int:
    """The default of one of the server's settings that is a whole number."""
    return int(Settings.model_fields[name].default)


def _index(index: AnyIndex) -> tuple[float, int, bool]:
    """Bytes of each number of a vector, bytes beside each vector, and whether there are centres of clusters.

    Sources: faiss' wiki "Guidelines to choose an index" (inverted lists, with an id of eight bytes); Malkov and
    Yashunin 2018 and hnswlib's ``size_links_level0_`` (2M links of four bytes on level 0; the higher levels add less
    than one part in M); Subramanya et al. 2019 (DiskANN: codes in memory, vectors and graph on a disk) with the
    ``PQCodeBudgetGBRatio`` of Milvus' default configuration, an eighth of the vectors.
    """
    match index:
        case "FLAT":
            return 4, 0, False
        case "IVF_FLAT":
            return 4, 8, True
        case "HNSW":
            return 4, 2 * setting("hnsw_m") * 4, False
        case "IVF_SQ8":
            return 1, 8, True
        case "DISKANN":
            return 4 / 8, 0, False


def index_bytes(index: AnyIndex, pictures: int, dimension: int) -> float:
    """Memory of the vectors, as the server's default settings make the index."""
    number, beside, clustered = _index(index)
    clusters = min(setting("ivf_nlist") * segments(pictures), pictures // _ROWS_OF_A_CLUSTER)
    return pictures * (number * dimension + beside) + clustered * clusters * 4 * dimension


def index_formula(index: AnyIndex) -> str:
    """``index_bytes`` in words."""
    number, beside, clustered = _index(index)
    row = f"n · ({number:g}·d + {beside})" if beside else f"n · {number:g}·d"
    centres = f" + {setting('ivf_nlist')}·4·d for each segment" if clustered else ""
    return row + centres + ("; no setting of clipseek makes it" if index in NOT_MADE else "")


def segments(pictures: int) -> int:
    """Milvus' segments, each with an index of its own, if they are as large as the measured ones."""
    return math.ceil(pictures * rates.MILVUS_SEGMENTS[_MILLION].value / _MILLION)


def record_bytes(metadata_bytes: int) -> int:
    """Of one record, whose id is its picture's hash, without what Milvus needs around it."""
    blob_key = len(new_blob_key(uuid.UUID(int=0).hex, _SHA256, _SHA256))
    return 2 * len(_SHA256) + blob_key + _MEDIA_TYPE + _NUMBERS + metadata_bytes


def process_bytes(pictures: int, precision: Precision, dimension: int, metadata_bytes: int) -> float:
    """Memory of a server with so many pictures in memory: as measured, or between two, and what larger rows add.

    A vector takes four bytes a number, and half a byte for each pair of them in its code.
    """
    points = {rows: measured.value * 1e6 for rows, measured in rates.PROCESS_MB[precision].items()}
    numbers = (4 + 0.25) * (dimension - MEASURED_DIMENSION)
    return _between(points, pictures) + pictures * (numbers + record_bytes(metadata_bytes) - rates.RECORD_BYTES)


def milvus_parts() -> tuple[float, float]:
    """Bytes of a Milvus process, and around each row beside its record and its share of the index: from 10k to 1M."""
    few, many = min(rates.MILVUS_MB), max(rates.MILVUS_MB)
    beside = {
        rows: rates.MILVUS_MB[rows].value * 1e6 - index_bytes("IVF_FLAT", rows, MEASURED_DIMENSION)
        for rows in (few, many)
    }
    row = (beside[many] - beside[few]) / (many - few)
    return beside[few] - few * row, row - rates.RECORD_BYTES


def milvus_bytes(index: PlannedIndex, pictures: int, dimension: int, metadata_bytes: int) -> float:
    """Memory of Milvus with so many pictures: process, index, records, and what it needs around each."""
    process, around = milvus_parts()
    return process + index_bytes(index, pictures, dimension) + pictures * (record_bytes(metadata_bytes) + around)


def text_core_ms(pictures: int, precision: Precision, dimension: int) -> float:
    """Core-milliseconds of a search by a new text among so many pictures in memory.

    What more than 10,000 pictures take more is that of known texts, for which no model runs.
    """
    known = {rows: rate.core_ms for rows, rate in rates.KNOWN_TEXTS[precision].items()}
    more = _between(known, pictures) - known[rates.SEARCHED_ROWS]
    return rates.TEXT_SEARCHES[precision].core_ms + max(0.0, more) * dimension / MEASURED_DIMENSION


def most_searches(pictures: int, precision: Precision) -> float:
    """Searches a second that one server answered at most with so many pictures in memory: known texts, of 16 callers.

    More cores are not taken to bear more: one event loop answers, and two threads scan.
    """
    known = {rows: rate.value for rows, rate in rates.KNOWN_TEXTS[precision].items() if rows >= rates.SEARCHED_ROWS}
    return _between(known, pictures)


def milvus_text_core_ms(precision: Precision) -> float:
    """Core-milliseconds of a server for a search by a new text in Milvus, without Milvus' own.

    Measured at fp32 with both on the same cores, of which ``index_core_ms`` is taken off. What that is more than a
    search in memory, int8 is taken to need, too.
    """
    here = rates.MILVUS_NEW_TEXTS.core_ms - index_core_ms(
        "IVF_FLAT", "default", rates.SEARCHED_ROWS, MEASURED_DIMENSION
    )
    return rates.TEXT_SEARCHES[precision].core_ms + here - rates.TEXT_SEARCHES["fp32"].core_ms


def index_core_ms(index: PlannedIndex, effort: Effort, pictures: int, dimension: int) -> float:
    """Core-milliseconds of Milvus for one of many searches, a server's call of Milvus included.

    Of ``IVF_FLAT`` by default: of a known text, less what one takes among few pictures in memory. Of the others in
    proportion to one caller's time. Beyond what was measured all grow with the pictures: a scan does, and so does the
    number of segments, each of which has a graph of its own.
    """
    server = rates.KNOWN_TEXTS["fp32"][min(rates.KNOWN_TEXTS["fp32"])].core_ms
    times, usual = rates.INDEX_TIMES[index, effort].p50_ms, rates.INDEX_TIMES["IVF_FLAT", "default"].p50_ms
    known = {rows: rates.MILVUS_KNOWN_TEXTS[rows].core_ms - server for rows in times}
    points = {rows: known[rows] * ms / usual[rows] for rows, ms in times.items()}
    factor = max(1.0, pictures / max(points))
    return _between(points, pictures) * factor * dimension / MEASURED_DIMENSION


def _between(points: Mapping[int, float], rows: int) -> float:
    """Linear between measured points; the first and the last beyond them."""
    known = sorted(points)
    rows = min(max(rows, known[0]), known[-1])
    for low, high in itertools.pairwise(known):
        if rows <= high:
            return points[low] + (points[high] - points[low]) * (rows - low) / (high - low)
    return points[rows]


_SCALES: dict[str, tuple[tuple[float, str], ...]] = {
    "bytes": ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "KB"), (1, "B")),
    "ms": ((86_400_000, "days"), (3_600_000, "h"), (1000, "s"), (1, "ms")),
}


def quantity(value: float, unit: str) -> str:
    """A number to three digits with its unit; bytes (1 GB = 10⁹) and milliseconds in the largest unit that fits."""
    for size, name in _SCALES.get(unit, ()):
        if value >= size:
            value, unit = value / size, name
            break
    whole = value == round(value) and value < 1e15
    decimals = 0 if whole or value >= 99.95 else 1 if value >= 9.995 else 2 if value >= 0.9995 else 3
    return f"{value:,.{decimals}f} {unit}".rstrip()
