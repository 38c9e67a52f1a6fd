"""Pure arithmetic: bytes, core-milliseconds and core-hours of a number of pictures."""

import itertools
import math
import uuid
from collections.abc import Mapping
from typing import Literal

from clipseek_server.config import Settings
from clipseek_server.images.blobs import new_blob_key
from clipseek_server.planning import rates
from clipseek_server.planning.rates import CORES, MEASURED_DIMENSION, SEGMENT_ROWS, Effort, PlannedIndex, Precision

AnyIndex = PlannedIndex | Literal["IVF_SQ8", "DISKANN"]
"""The last two are Milvus', but no setting of clipseek makes them."""

PLANNED: tuple[PlannedIndex, ...] = ("FLAT", "IVF_FLAT", "HNSW")
NOT_MADE: tuple[AnyIndex, ...] = ("IVF_SQ8", "DISKANN")

_FLOAT = 4
_ID = 8
"""faiss keeps one beside each vector of a cluster."""
_ROWS_OF_A_CLUSTER = 39
"""Milvus makes no more clusters than give each so many rows."""
_LINK = 4
"""hnswlib's and faiss' graphs: a number of 32 bits."""
_DISKANN_SHARE = 0.125
"""Of the vectors, as product-quantised codes in memory: ``PQCodeBudgetGBRatio`` of Milvus' default configuration."""

_SHA256 = "0" * 64
_MEDIA_TYPE = len("image/jpeg")
_NUMBERS = 5 * 8
"""Width, height, size and two times."""


def setting(name: str) -> int:
    """The default of one of the server's settings that is a whole number."""
    return int(Settings.model_fields[name].default)


def index_bytes(index: AnyIndex, pictures: int, dimension: int) -> float:
    """Memory of the vectors, as the server's default settings make the index.

    Sources: faiss' wiki "Guidelines to choose an index" (inverted lists); Malkov and Yashunin 2018 and hnswlib's
    ``size_links_level0_`` (2M links on level 0; the higher levels add less than one part in M); Subramanya et al. 2019
    (DiskANN: codes in memory, vectors and graph on a disk).
    """
    vectors = _FLOAT * dimension * pictures
    clusters = min(setting("ivf_nlist") * segments(pictures), pictures // _ROWS_OF_A_CLUSTER)
    centres = _FLOAT * dimension * clusters
    match index:
        case "FLAT":
            return vectors
        case "IVF_FLAT":
            return vectors + _ID * pictures + centres
        case "HNSW":
            return vectors + 2 * setting("hnsw_m") * _LINK * pictures
        case "IVF_SQ8":
            return vectors / _FLOAT + _ID * pictures + centres
        case "DISKANN":
            return _DISKANN_SHARE * vectors


def index_formula(index: AnyIndex) -> str:
    """``index_bytes`` in words."""
    nlist, links = setting("ivf_nlist"), 2 * setting("hnsw_m")
    return {
        "FLAT": "4·d·n",
        "IVF_FLAT": f"4·d·n + 8·n + {nlist}·4·d for each segment of {SEGMENT_ROWS:,}",
        "HNSW": f"4·d·n + {links}·4·n (2M links of 4 bytes, M={links // 2})",
        "IVF_SQ8": f"d·n + 8·n + {nlist}·4·d for each segment; no setting of clipseek makes it",
        "DISKANN": "4·d·n/8 of codes, the rest on SSD; no setting of clipseek makes it",
    }[index]


def segments(pictures: int) -> int:
    """Milvus' segments, each with an index of its own, if they are as large as the measured ones."""
    return math.ceil(pictures / SEGMENT_ROWS)


def record_bytes(metadata_bytes: int) -> int:
    """Of one record, whose id is its picture's hash, without what Milvus needs around it."""
    blob_key = len(new_blob_key(uuid.UUID(int=0).hex, _SHA256, _SHA256))
    return 2 * len(_SHA256) + blob_key + _MEDIA_TYPE + _NUMBERS + metadata_bytes


def process_bytes(pictures: int, precision: Precision) -> float:
    """Memory of a server with so many pictures of 512 numbers in memory, measured or between two measured ones."""
    points = {rows: measured.value * 1e6 for rows, measured in rates.PROCESS_MB[precision].items()}
    return _between(points, pictures)


def resident_bytes(pictures: int) -> float:
    """Of the copy in memory alone, of vectors of 512 numbers, without what is loaded once."""
    points = {rows: rows * size for rows, size in rates.RESIDENT_BYTES.items()}
    return _between({0: 0.0, **points}, pictures)


def more_in_memory(pictures: int, dimension: int, metadata_bytes: int) -> float:
    """What pictures take beyond those that were measured in memory: at least; it may be less than nothing.

    A vector takes four bytes a number, and half a byte for each pair of them in its code.
    """
    numbers = (_FLOAT + 0.25) * (dimension - MEASURED_DIMENSION)
    return pictures * (numbers + max(0, metadata_bytes - rates.METADATA_BYTES))


def import_core_ms(precision: Precision) -> float:
    """Core-milliseconds of one imported picture."""
    return 1000 * CORES / rates.IMPORTED[precision].value


def text_core_ms(precision: Precision) -> float:
    """Core-milliseconds of one search by a new text among 10,000 pictures in memory."""
    return 1000 * CORES / rates.TEXT_SEARCHES[precision].value


def picture_core_ms(precision: Precision) -> float:
    """Core-milliseconds of embedding one picture that is searched with."""
    return 1000 * CORES / rates.PICTURES_EMBEDDED[precision].value


def scan_core_ms(pictures: int, precision: Precision, dimension: int) -> float:
    """Core-milliseconds that a search among so many pictures in memory takes more than one among 10,000."""
    points = {rows: 1000 * CORES / rate.value for rows, rate in rates.KNOWN_TEXTS[precision].items()}
    more = _between(points, pictures) - points[rates.SEARCHED_ROWS]
    return max(0.0, more) * dimension / MEASURED_DIMENSION


def index_core_ms(index: PlannedIndex, effort: Effort, pictures: int, dimension: int) -> float:
    """Core-milliseconds of one search in a Milvus server's index: at most, and beyond a million extrapolated.

    Of one caller only the time was measured. Milvus may have kept as many cores busy meanwhile as there were segments.
    Beyond what was measured, a scan grows with the pictures, and a graph's search with the segments.
    """
    times = rates.INDEX_TIMES[index, effort].p50_ms
    points = {rows: ms * min(CORES, rates.SEGMENTS[rows]) for rows, ms in times.items()}
    most = max(points)
    within = min(pictures, most)
    factor = max(1.0, pictures / SEGMENT_ROWS) if index == "HNSW" else max(1.0, pictures / most)
    return _between(points, within) * factor * dimension / MEASURED_DIMENSION


def build_core_hours(index: PlannedIndex, pictures: int, dimension: int) -> float:
    """Core-hours of building a Milvus server's index once, in proportion to the largest that was measured."""
    rows, seconds = rates.BUILD_SECONDS[index]
    return seconds * CORES / 3600 * pictures / rows * dimension / MEASURED_DIMENSION


def _between(points: Mapping[int, float], rows: int) -> float:
    """Linear between measured points; the first and the last beyond them."""
    known = sorted(points)
    if rows <= known[0]:
        return points[known[0]]
    for low, high in itertools.pairwise(known):
        if rows <= high:
            return points[low] + (points[high] - points[low]) * (rows - low) / (high - low)
    return points[known[-1]]


def parse_count(text: str, limit: float = 1e12) -> int:
    """A whole number such as ``10k``, ``50M``, ``1.5B`` or ``300,000``.

    Raises:
        ValueError: It is none, or not in [1, ``limit``].
    """
    plain = text.strip().replace(",", "").replace("_", "")
    unit = {"k": 1e3, "m": 1e6, "b": 1e9}.get(plain[-1:].lower())
    number = plain if unit is None else plain[:-1]
    if not number.replace(".", "", 1).isdecimal() or not number.isascii():
        raise ValueError(f"{text!r} is no number of pictures: write 10k, 50M, 1B or 300,000")
    count = round(float(number) * (unit or 1))
    if not 1 <= count <= limit:
        raise ValueError(f"{text!r} is out of range: 1 to {limit:,.0f}")
    return count


_SCALES: dict[str, tuple[tuple[float, str], ...]] = {
    "bytes": ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "KB"), (1, "B")),
    "ms": ((86_400_000, "days"), (3_600_000, "h"), (1000, "s"), (1, "ms")),
}


def quantity(value: float, unit: str) -> str:
    """A number to three digits with its unit; bytes (1 GB = 10⁹) and milliseconds in the largest unit that fits."""
    for size, name in _SCALES.get(unit, ()):
        if value >= size:
            return f"{_digits(value / size)} {name}"
    return f"{_digits(value)} {unit}".rstrip()


def _digits(value: float) -> str:
    if value == round(value) and value < 1e15:
        return f"{value:,.0f}"
    decimals = 0 if value >= 99.95 else 1 if value >= 9.995 else 2 if value >= 0.9995 else 3
    return f"{value:,.{decimals}f}"
