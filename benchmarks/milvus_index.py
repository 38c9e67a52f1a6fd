"""Measure the indexes of a Milvus server, to choose their settings: build time, latency, recall.

A server without docker, of the ``milvus`` package that the development environment brings; one start in about eight
hangs, then kill it and start it again::

    .venv/bin/milvus-server --data build/milvus

    .venv/bin/python -m benchmarks.milvus_index --uri http://127.0.0.1:19530 --sizes 10000,100000 --output index.json

``benchmarks/populations.py`` says where the vectors lie; half the queries are pictures, half texts. Recall is of ten
hits against an exact search, also of the texts with a filter that keeps one row in a hundred. One caller, one query a
call, ids alone; times include pymilvus'. Small segments are merged before the indexes are built, as Milvus itself
does sooner or later: each segment has an index of its own.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pymilvus import DataType, MilvusClient

from benchmarks import resident
from benchmarks.goals import RECALLS
from benchmarks.machine import facts
from benchmarks.populations import Matrix, Population, population
from benchmarks.resident import HITS
from clipseek_server.config import IndexType, Settings
from clipseek_server.index.schema import VECTOR_FIELD
from clipseek_server.index.vector_index import METRIC

COLLECTION = "clipseek_benchmark_index"
_GROUPS = 100
"""Of rows, one of which the filter keeps."""
_BATCH = 4000
_WARM_UP = 20
_ROWS_OF_A_CLUSTER = 39
"""Milvus makes no more clusters than give each so many rows, whatever is asked for."""
_INDEXED_ROWS = 1024
"""Segments with fewer rows never get an index."""
_PATIENCE_SECONDS = 2 * 3600.0


@dataclass(frozen=True)
class Build:
    """An index to build, and the settings to search it with."""

    type: IndexType
    params: dict[str, int] = field(default_factory=dict)
    searches: tuple[dict[str, int], ...] = ({},)


@dataclass(frozen=True)
class Measured:
    """One line of the table; build time in seconds, of a search milliseconds."""

    kind: str
    rows: int
    index: str
    segments: int
    build_s: float
    search: str
    p50: float
    p99: float
    recall_pictures: float
    recall_texts: float
    p50_filtered: float
    recall_filtered: float

    @property
    def recall(self) -> float:
        """The worse one, without a filter."""
        return min(self.recall_pictures, self.recall_texts)


class Exact:
    """The nearest of vectors that are seen block by block and not kept."""

    def __init__(self, queries: Matrix) -> None:
        self._queries = queries
        self._scores = np.full((len(queries), HITS), -np.inf, np.float32)
        self.ids: npt.NDArray[np.int64] = np.full((len(queries), HITS), -1)

    def see(self, ids: npt.NDArray[np.int64], vectors: Matrix) -> None:
        """Look at unit vectors and their ids."""
        ids = np.broadcast_to(ids, (len(self._queries), len(vectors)))
        scores = np.hstack([self._scores, self._queries @ vectors.T])
        best = np.argpartition(-scores, HITS - 1, axis=1)[:, :HITS]
        self._scores = np.take_along_axis(scores, best, axis=1)
        self.ids = np.take_along_axis(np.hstack([self.ids, ids]), best, axis=1)


@dataclass(frozen=True)
class Queries:
    """What to search with, and the ids that should be found: int64 ``[queries, HITS]``."""

    vectors: Matrix
    nearest: npt.NDArray[np.int64]
    filter: str = ""


def main() -> None:
    """Print a table, writing it as JSON after each index, and the fastest settings that are good enough."""
    parser = resident.options("milvus_index", __doc__, sizes="10000,100000")
    parser.add_argument("--uri", default="http://127.0.0.1:19530", help="of the server (default: %(default)s)")
    parser.add_argument("--token", default="", help="USER:PASSWORD or an API key, where the server asks for it")
    parser.add_argument("--indexes", type=re.compile, default="", help="only those whose name has this regex in it")
    options = parser.parse_args()

    client = MilvusClient(options.uri, token=options.token)
    machine = {**facts(Path()), "milvus": client.get_server_version()}
    lines: list[Measured] = []
    try:
        for kind in options.kinds:
            for size in options.sizes:
                drawn = population(kind, size, options.real)
                for found in _measure(client, kind, drawn, size, options.indexes, options.searches):
                    lines += found
                    if options.output:
                        _write(options.output, machine, lines)
    finally:
        client.drop_collection(COLLECTION)
        client.close()
    for kind in options.kinds:
        for size in options.sizes:
            _print_fastest(kind, size, [line for line in lines if (line.kind, line.rows) == (kind, size)])


def _measure(
    client: MilvusClient, kind: str, drawn: Population, size: int, indexes: re.Pattern[str], searches: int
) -> Iterator[list[Measured]]:
    """The lines of each index."""
    queries = _fill(client, kind, drawn, size, searches)
    _merge_all(client, size)
    for build in _builds(size):
        index = " ".join([build.type, *_named(build.params)])
        if not indexes.search(index):
            continue
        seconds = _rebuild(client, build, size)
        segments = _load(client, build, size)
        lines = []
        for search in build.searches:
            (times, of_pictures), (others, of_texts), (filtered, of_filtered) = (
                _search(client, each, search) for each in queries
            )
            p50, p99 = np.percentile([*times, *others], [50, 99]).tolist()
            recalls = of_pictures, of_texts, float(np.median(filtered)), of_filtered
            line = Measured(kind, size, index, segments, seconds, " ".join(_named(search)), p50, p99, *recalls)
            print(_text(line), flush=True)
            lines.append(line)
        yield lines


def _builds(rows: int) -> list[Build]:
    default = Settings().ivf_nlist
    # The prototype looked into five clusters of 1,024.
    probes, candidates = (5, 8, 16, 32, 64, 128, 256, 512, 1024), (32, 64, 128, 256, 512, 1024)
    return [
        Build("FLAT"),
        *(
            Build("IVF_FLAT", {"nlist": nlist}, tuple({"nprobe": nprobe} for nprobe in probes if nprobe <= nlist))
            for nlist in (128, 1024, 4096)
            if nlist == default or nlist * _ROWS_OF_A_CLUSTER <= rows
        ),
        *(
            Build("HNSW", {"M": m, "efConstruction": construction}, tuple({"ef": ef} for ef in candidates))
            for m, construction in ((16, 200), (32, 300))
        ),
    ]


def _fill(client: MilvusClient, kind: str, drawn: Population, size: int, searches: int) -> list[Queries]:
    """Make the collection, anew; the vectors are the same whatever was measured before.

    Returns:
        Pictures, texts, and the texts with a filter.
    """
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("group", DataType.INT64)
    schema.add_field(VECTOR_FIELD, DataType.FLOAT_VECTOR, dim=drawn.dimension)
    client.drop_collection(COLLECTION)
    client.create_collection(COLLECTION, schema=schema, consistency_level="Bounded")

    block = drawn.pictures(min(_BATCH, size))
    some = block[:searches]
    near, texts = drawn.near(some), drawn.texts(some)
    exact, exact_filtered = Exact(np.vstack([near, texts])), Exact(texts)
    count, begun = 0, time.perf_counter()
    while True:
        ids = np.arange(count, count + len(block))
        groups = ids % _GROUPS
        rows = zip(ids.tolist(), groups.tolist(), block, strict=True)
        client.insert(COLLECTION, [{"id": row, "group": group, VECTOR_FIELD: vector} for row, group, vector in rows])
        exact.see(ids, block)
        exact_filtered.see(ids[groups == 0], block[groups == 0])
        count += len(block)
        print(f"{kind} {size:,}: {count:,} rows inserted in {time.perf_counter() - begun:.0f} s", flush=True)
        if count == size:
            break
        block = drawn.pictures(min(_BATCH, size - count))
    # Growing segments have no index.
    client.flush(COLLECTION)
    nearest, nearest_texts = np.split(exact.ids, 2)
    filtered = Queries(texts, exact_filtered.ids, "group == 0")
    return [Queries(near, nearest), Queries(texts, nearest_texts), filtered]


def _merge_all(client: MilvusClient, size: int) -> None:
    # Milvus merges only segments that have an index.
    _rebuild(client, Build("FLAT"), size)
    merge_segments(client, COLLECTION)


def _rebuild(client: MilvusClient, build: Build, size: int) -> float:
    """Replace the index; returns the seconds that took until all rows were indexed."""
    client.release_collection(COLLECTION)
    client.drop_index(COLLECTION, VECTOR_FIELD)
    params = MilvusClient.prepare_index_params()
    params.add_index(
        VECTOR_FIELD, index_name=VECTOR_FIELD, index_type=build.type, metric_type=METRIC, params=build.params
    )

    def built() -> bool:
        described = client.describe_index(COLLECTION, VECTOR_FIELD)
        if described["state"] == "Failed":
            raise RuntimeError(f"Milvus could not build {build.type}")
        return bool(described["state"] == "Finished" and described["indexed_rows"] >= size)

    begun = time.perf_counter()
    # pymilvus would look only each half second.
    client.create_index(COLLECTION, params, sync=False)
    _wait(f"to build {build.type}", built)
    return time.perf_counter() - begun


def _load(client: MilvusClient, build: Build, size: int) -> int:
    """Have it loaded with its index; returns how many segments it has."""
    client.load_collection(COLLECTION)
    # FLAT is no index to Milvus.
    return wait_for_index(client, COLLECTION, size, least=size + 1 if build.type == "FLAT" else _INDEXED_ROWS)


def _search(client: MilvusClient, queries: Queries, params: dict[str, int]) -> tuple[list[float], float]:
    """Milliseconds of each search, and the recall."""
    for query in queries.vectors[:_WARM_UP]:
        _found(client, query, queries.filter, params)
    times, right = [], 0
    for query, best in zip(queries.vectors, queries.nearest.tolist(), strict=True):
        begun = time.perf_counter()
        found = _found(client, query, queries.filter, params)
        times.append((time.perf_counter() - begun) * 1e3)
        right += len(set(best) & {hit["id"] for hit in found})
    return times, right / queries.nearest.size


def _found(client: MilvusClient, query: Matrix, condition: str, params: dict[str, int]) -> Any:
    (hits,) = client.search(
        COLLECTION,
        data=[query],
        limit=HITS,
        filter=condition,
        anns_field=VECTOR_FIELD,
        output_fields=["id"],
        search_params={"metric_type": METRIC, "params": params},
        consistency_level="Bounded",
    )
    return hits


def merge_segments(client: MilvusClient, collection: str) -> None:
    """Have small segments merged now, and wait for that."""
    job = client.compact(collection)
    _wait("to merge segments", lambda: bool(client.get_compaction_state(job) == "Completed"))


def wait_for_index(client: MilvusClient, collection: str, size: int, *, least: int = _INDEXED_ROWS) -> int:
    """Wait until so many rows are loaded with their index; returns how many segments they are.

    Args:
        client: Of the server.
        collection: It must be loaded.
        size: Its rows.
        least: Segments with fewer rows need no index.
    """
    segments: list[Any] = []

    def indexed() -> bool:
        segments[:] = client.list_loaded_segments(collection)
        return sum(segment.num_rows for segment in segments) == size and all(
            segment.state_name == "Sealed" and (segment.index_name or segment.num_rows < least) for segment in segments
        )

    _wait("to load the index", indexed)
    return len(segments)


def _wait(what: str, done: Callable[[], bool]) -> None:
    end = time.monotonic() + _PATIENCE_SECONDS
    while not done():
        if time.monotonic() > end:
            raise TimeoutError(f"Milvus took more than {_PATIENCE_SECONDS:.0f} s {what}")
        time.sleep(0.05)


def _named(params: dict[str, int]) -> list[str]:
    return [f"{name}={value}" for name, value in params.items()]


def _text(line: Measured) -> str:
    return (
        f"{line.kind:10}{line.rows:10,}  {line.index:30}{line.segments:3} segments, {line.build_s:6.1f} s  "
        f"{line.search:12}p50 {line.p50:6.2f} ms  p99 {line.p99:6.2f} ms  "
        f"recall: pictures {line.recall_pictures:.4f}, texts {line.recall_texts:.4f}, "
        f"with the filter {line.recall_filtered:.4f} (p50 {line.p50_filtered:.2f} ms)"
    )


def _print_fastest(kind: str, size: int, lines: list[Measured]) -> None:
    for goal in RECALLS:
        enough = [line for line in lines if line.recall >= goal]
        if enough:
            print(f"recall >= {goal}: {_text(min(enough, key=lambda line: line.p50))}")
        else:
            print(f"recall >= {goal}: {kind} {size:,}: none")


def _write(path: Path, machine: dict[str, Any], lines: list[Measured]) -> None:
    found = {"machine": machine, "searches": [asdict(line) for line in lines]}
    path.write_text(json.dumps({"milvus_index": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
