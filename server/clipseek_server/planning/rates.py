"""What was measured, as ``benchmarks/results/*.json`` has it: a test compares each number with its file."""

from dataclasses import dataclass
from typing import Literal

Precision = Literal["fp32", "int8"]
Effort = Literal["default", "fast"]
PlannedIndex = Literal["FLAT", "IVF_FLAT", "HNSW"]

CORES = 2
"""Of each machine that was measured: rates and times are those of all of them."""

MEASURED_DIMENSION = 512
"""Of the vectors that were measured."""

RECORD_BYTES = 183
"""Of a record that was measured, about: ids were eleven characters long, keys eighteen, metadata forty as JSON."""

THUMBNAIL_KB = 8.4
"""Of the measured pictures' thumbnails, mean."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A number and where it is.

    Attributes:
        value: To four digits, in the file's unit.
        file: Below ``benchmarks/results``.
        path: Keys in it, separated by ``/``.
    """

    value: float
    file: str
    path: str

    @property
    def source(self) -> str:
        """For people."""
        return f"{self.file}: {self.path}"

    @property
    def core_ms(self) -> float:
        """Core-milliseconds of one, where the value is a rate of all cores."""
        return 1000 * CORES / self.value


def _cpu(value: float, path: str) -> Measured:
    return Measured(value, "cpu.json", path)


def _by_size(precision: Precision, name: str, values: dict[int, float]) -> dict[int, Measured]:
    return {rows: _cpu(value, f"scale/sizes/{precision}/{rows}/{name}") for rows, value in values.items()}


IMPORTED: dict[Precision, Measured] = {
    "fp32": _cpu(16.4, "engine/fp32/import/rate"),
    "int8": _cpu(35.44, "engine/int8/import/rate"),
}
"""Pictures a second of a bulk import from disk: decoding, thumbnail, embedding, storing, indexing."""

SEARCHED_ROWS = 10_000

TEXT_SEARCHES: dict[Precision, Measured] = {
    "fp32": _cpu(164.9, "scale/callers/fp32/search_text/32/rate"),
    "int8": _cpu(380.6, "scale/callers/int8/search_text/64/rate"),
}
"""Searches a second by new texts, ``SEARCHED_ROWS`` pictures in memory: the most of any number of callers."""

PICTURES_EMBEDDED: dict[Precision, Measured] = {
    "fp32": _cpu(18.6, "scale/callers/fp32/embed_image/8/rate"),
    "int8": _cpu(47.6, "scale/callers/int8/embed_image/16/rate"),
}
"""Pictures a second through gRPC: likewise."""

KNOWN_TEXTS: dict[Precision, dict[int, Measured]] = {
    "fp32": _by_size("fp32", "cached_rate", {1_000: 1322.0, 10_000: 980.1, 100_000: 611.6, 300_000: 316.2}),
    "int8": _by_size("int8", "cached_rate", {1_000: 1306.0, 10_000: 934.4, 100_000: 531.6, 300_000: 311.1}),
}
"""Searches a second by one known text, 16 callers, by pictures in memory: no model runs, so this is what one event loop
and the scan allow."""

PROCESS_MB: dict[Precision, dict[int, Measured]] = {
    "fp32": _by_size("fp32", "rss_mb_at_start", {1_000: 1120.0, 10_000: 1256.0, 100_000: 1926.0, 300_000: 3262.0}),
    "int8": _by_size("int8", "rss_mb_at_start", {1_000: 719.4, 10_000: 881.4, 100_000: 1471.0, 300_000: 2969.0}),
}
"""Memory of the server's process once it has started, by pictures in memory; searches made it grow no larger."""


def _with_milvus(name: str, values: dict[int, float]) -> dict[int, Measured]:
    return {rows: _cpu(value, f"milvus/{rows}/{name}") for rows, value in values.items()}


MILVUS_KNOWN_TEXTS = _with_milvus("cached_rate", {10_000: 376.8, 100_000: 257.4, 1_000_000: 48.15})
"""As ``KNOWN_TEXTS``, through a Milvus server on the same cores: fp32, ``IVF_FLAT`` with the settings' defaults."""

MILVUS_NEW_TEXTS = _cpu(115.0, "milvus/10000/callers/64/rate")
"""Searches a second by new texts, ``SEARCHED_ROWS`` pictures in that Milvus: the most of any number of callers."""

MILVUS_MB = _with_milvus("milvus_rss_mb", {10_000: 468.5, 100_000: 687.0, 1_000_000: 3277.0})
"""Memory of that Milvus, a single process, by rows."""

MILVUS_SEGMENTS = _with_milvus("segments", {1_000_000: 7})
"""How many it kept them in once it had come to rest, each with an index of its own."""


@dataclass(frozen=True, slots=True)
class IndexTimes:
    """One index of a Milvus server with one setting of its search, in ``milvus_index.json``.

    Attributes:
        index: As it is named there.
        search: As it is named there.
        p50_ms: By rows: milliseconds of one caller's search without a filter.
        recall_texts: By rows: the share of a text's ten nearest that it found.
    """

    index: str
    search: str
    p50_ms: dict[int, float]
    recall_texts: dict[int, float]


IVF_NPROBE: dict[Effort, int] = {"default": 256, "fast": 64}
"""Clusters of 1,024 that a search without a filter looked into."""

_IVF, _HNSW = "IVF_FLAT nlist=1024", "HNSW M=32 efConstruction=300"
_FLAT_TIMES = IndexTimes(
    "FLAT", "", {10_000: 5.403, 100_000: 14.75, 1_000_000: 69.74}, {10_000: 1.0, 100_000: 1.0, 1_000_000: 1.0}
)

INDEX_TIMES: dict[tuple[PlannedIndex, Effort], IndexTimes] = {
    ("FLAT", "default"): _FLAT_TIMES,
    ("FLAT", "fast"): _FLAT_TIMES,
    ("IVF_FLAT", "default"): IndexTimes(
        _IVF,
        f"nprobe={IVF_NPROBE['default']}",
        {10_000: 4.97, 100_000: 8.397, 1_000_000: 21.79},
        {10_000: 1.0, 100_000: 0.991, 1_000_000: 0.992},
    ),
    ("IVF_FLAT", "fast"): IndexTimes(
        _IVF,
        f"nprobe={IVF_NPROBE['fast']}",
        {10_000: 2.211, 100_000: 4.347, 1_000_000: 8.878},
        {10_000: 0.977, 100_000: 0.8875, 1_000_000: 0.91},
    ),
    ("HNSW", "default"): IndexTimes(
        _HNSW,
        "ef=1024",
        {10_000: 4.548, 100_000: 8.589, 1_000_000: 24.91},
        {10_000: 1.0, 100_000: 0.9775, 1_000_000: 0.955},
    ),
    ("HNSW", "fast"): IndexTimes(
        _HNSW,
        "ef=256",
        {10_000: 3.326, 100_000: 4.273, 1_000_000: 12.1},
        {10_000: 0.9935, 100_000: 0.902, 1_000_000: 0.846},
    ),
}
"""What the settings' defaults do, and a quarter of them, which is effort FAST."""
