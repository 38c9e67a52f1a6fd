"""Measure the copy of a collection that answers searches beside Milvus Lite: latency, recall, memory, writes.

    python -m benchmarks.resident --sizes 1000,10000,100000,300000 --output resident.json

``benchmarks/populations.py`` says where the vectors of pictures and texts lie. Recall is of ten hits against an exact
search. One caller; times include the records of the hits.
"""

import argparse
import asyncio
import gc
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import facts
from benchmarks.populations import KINDS, Matrix, Population, population
from benchmarks.programs import resident_bytes
from clipseek_server.index.filters import Filter, parse_filter
from clipseek_server.index.records import Effort, Match, Record, Row
from clipseek_server.index.resident import LOAD_PAGE, ResidentCopy

HITS = 10
FILTER = 'metadata.album == "album 3"'
"""Holds for one record in ten."""
FILTER_ON_TEXTS = 'metadata.caption like "a picture with the number 1%"'
"""About the same, by texts that are all different."""


@dataclass(frozen=True)
class Measured:
    """One line of the table; milliseconds."""

    kind: str
    rows: int
    queries: str
    search: str
    p50: float
    p99: float
    recall: float | None


def _row(number: int, vector: Matrix) -> Row:
    """A picture's row with metadata as people give it."""
    record = Record(
        image_id=f"pic-{number:08d}",
        content_sha256=f"{number:064x}",
        blob_key=f"0123456789abcdef/pic-{number:08d}/{number:016x}",
        media_type="image/jpeg",
        width=100 + number // 10 % 1100,
        height=768,
        size_bytes=100_000 + number,
        create_time=1_700_000_000_000_000 + number * 1_000_003,
        update_time=1_700_000_000_000_000 + number * 1_000_003,
        metadata={
            "album": f"album {number % 10}",
            "year": 1990 + number % 37,
            "caption": f"a picture with the number {number}",
        },
    )
    return Row(record, vector)


def _measured(kind: str, size: int, real: Path | None, searches: int) -> tuple[list[Measured], dict[str, float]]:
    with ThreadPoolExecutor(1) as executor:
        return asyncio.run(_measure(kind, size, real, executor, searches))


async def _measure(
    kind: str, size: int, real: Path | None, executor: ThreadPoolExecutor, searches: int
) -> tuple[list[Measured], dict[str, float]]:
    drawn = population(kind, size, real)
    copy = ResidentCopy(drawn.dimension, executor)
    before = resident_bytes(os.getpid())
    await copy.load(_pages(drawn, size), max_rows=size)
    numbers: dict[str, float] = {}
    begun = time.perf_counter()
    if copy._making_codes is not None:
        await copy._making_codes
    numbers["quantise_s"] = time.perf_counter() - begun
    gc.collect()
    numbers["bytes_per_row"] = (resident_bytes(os.getpid()) - before) / size
    some = np.stack([row.vector for row in copy.rows("", "")[:: max(1, size // searches)][:searches]])
    found = []
    for name, queries in (("pictures", drawn.near(some)), ("texts", drawn.texts(some))):
        found += await _searches(copy, kind, size, name, queries, numbers)
    numbers |= await _writes(copy, drawn, size)
    copy.close()
    return found, numbers


async def _pages(drawn: Population, size: int) -> AsyncIterator[list[Row]]:
    for begin in range(0, size, LOAD_PAGE):
        vectors = drawn.pictures(min(LOAD_PAGE, size - begin))
        yield [_row(begin + number, vector) for number, vector in enumerate(vectors)]


async def _searches(
    copy: ResidentCopy, kind: str, size: int, name: str, queries: Matrix, numbers: dict[str, float]
) -> list[Measured]:
    exact = [await copy.search([query], [HITS], None, Effort.EXACT) for query in queries]
    numbers[f"best_cosine_{name}"] = float(np.mean([found[0][0].score for found in exact]))
    ways: list[tuple[str, Filter | None, Effort]] = [
        ("exact", None, Effort.EXACT),
        ("fast", None, Effort.FAST),
        ("default", None, Effort.DEFAULT),
        ("thorough", None, Effort.THOROUGH),
        ("filter, 10% left", parse_filter(FILTER), Effort.DEFAULT),
        ("filter on texts, 11% left", parse_filter(FILTER_ON_TEXTS), Effort.DEFAULT),
    ]
    measured = []
    for search, condition, effort in ways:
        times, right = [], 0
        for query, (best,) in zip(queries, exact, strict=True):
            begun = time.perf_counter()
            (found,) = await copy.search([query], [HITS], condition, effort)
            times.append((time.perf_counter() - begun) * 1e3)
            right += len(_ids(found) & _ids(best))
        recall = None if condition else right / HITS / len(queries)
        p50, p99 = np.percentile(times, [50, 99]).tolist()
        measured.append(Measured(kind, size, name, search, p50, p99, recall))
    return measured


def _ids(found: list[Match]) -> set[str]:
    return {match.record.image_id for match in found}


async def _writes(copy: ResidentCopy, drawn: Population, size: int) -> dict[str, float]:
    """Microseconds that one write holds up the event loop."""
    count = min(size, 1000)
    rows = [_row(number * (size // count), vector) for number, vector in enumerate(drawn.pictures(count))]
    return {
        "update_us": _median(copy.put, [[row] for row in rows]),
        "remove_us": _median(copy.remove, [[row.record.image_id] for row in rows]),
        "insert_us": _median(copy.put, [[row] for row in rows]),
    }


def _median(function: Callable[[Any], None], arguments: list[Any]) -> float:
    times = []
    for argument in arguments:
        begun = time.perf_counter()
        function(argument)
        times.append((time.perf_counter() - begun) * 1e6)
    return float(np.median(times))


def options(name: str, description: str | None, *, sizes: str) -> argparse.ArgumentParser:
    """What to measure of which pictures, and where to write it: the options of ``python -m benchmarks.NAME``."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sizes", type=_sizes, default=sizes, help="rows (default: %(default)s)")
    parser.add_argument("--kinds", type=_kinds, default="clustered,spread", help="of pictures (default: %(default)s)")
    parser.add_argument("--real", type=Path, help="for --kinds real: what python -m benchmarks.embeddings wrote")
    parser.add_argument("--searches", type=int, default=200, help="pictures, and as many texts (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="the JSON file")
    return parser


def _sizes(text: str) -> list[int]:
    return [int(size) for size in text.split(",")]


def _kinds(text: str) -> list[str]:
    kinds = text.split(",")
    if not set(kinds) <= set(KINDS):
        raise argparse.ArgumentTypeError(f"takes {', '.join(KINDS)}")
    return kinds


def main() -> None:
    """Print a table and write it as JSON."""
    arguments = options("resident", __doc__, sizes="1000,10000,30000,100000").parse_args()
    lines: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    # A process for each: what one leaves behind is no memory of the next.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as processes:
        for kind in arguments.kinds:
            for size in arguments.sizes:
                measured, numbers = processes.submit(_measured, kind, size, arguments.real, arguments.searches).result()
                for line in measured:
                    times = f"p50 {line.p50:6.2f} ms  p99 {line.p99:6.2f} ms"
                    recall = "" if line.recall is None else f"  recall {line.recall:.4f}"
                    print(f"{kind:10}{size:8,} {line.queries:9}{line.search:26}{times}{recall}")
                print(" " * 19 + ", ".join(f"{name} {value:,.3g}" for name, value in numbers.items()), flush=True)
                lines += [asdict(line) for line in measured]
                others.append({"kind": kind, "rows": size, **numbers})
    if arguments.output:
        found = {"machine": facts(Path()), "searches": lines, "copies": others}
        arguments.output.write_text(json.dumps({"resident": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
