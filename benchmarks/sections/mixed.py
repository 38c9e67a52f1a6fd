"""Mixed: text searches at a constant rate on the idle server and while a bulk import runs, turn about."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from benchmarks.bench import Bench, medians, milliseconds
from benchmarks.programs import Program
from clipseek.bench import ClipseekTarget, ClosedLoop, OpenLoop
from clipseek_server.encoding.bundle import Precision

CAPACITY_SHARE = 0.2
ROWS = 10_000

_HEAD_START = 4.0
"""Most seconds that the import runs before the searches count."""


def measure(bench: Bench) -> dict[str, Any]:
    """By precision."""
    return {precision: _measure(bench, precision) for precision in bench.profile.precisions}


def _measure(bench: Bench, precision: Precision) -> dict[str, Any]:
    rows, turns = min(ROWS, max(bench.profile.sizes)), bench.profile.turns
    with bench.server(precision, bench.workspace.data(rows)) as server:
        target = ClipseekTarget(server.address, pictures=bench.workspace.pictures())
        capacity = bench.load(target, "search_text", ClosedLoop(16)).total.rate
        pictures = bench.load(target, "embed_image", ClosedLoop(16), **bench.long).total.rate  # type: ignore[arg-type]  # seconds and warm-up
        rate = CAPACITY_SHARE * capacity
        seconds = bench.profile.mixed_searches / rate / turns
        measured = [_turn(bench, server, target, rate, seconds, pictures) for _ in range(turns)]
    return {
        "rows": rows,
        "engine": "milvus-lite",
        "consistency": "strong",
        "capacity": capacity,
        "rate": rate,
        "turns": turns,
        **medians(measured),
        "searches": sum(turn["searches"] for turn in measured),
    }


def _turn(
    bench: Bench, server: Program, target: ClipseekTarget, rate: float, seconds: float, pictures: float
) -> dict[str, Any]:
    head_start = min(_HEAD_START, 3 * bench.profile.seconds)
    idle = bench.load(target, "search_text", OpenLoop(rate), seconds=seconds)
    # One stream, as long as the searches take and longer, since they slow it down.
    items = round(pictures * (seconds + 2 * head_start))
    with ThreadPoolExecutor(1) as beside:
        importing = beside.submit(bench.load, replace(target, bulk_items=items), "bulk_import", ClosedLoop(1), calls=1)
        time.sleep(head_start)
        before = server.batch_counts("picture tower")[0]
        busy = bench.load(target, "search_text", OpenLoop(rate), seconds=seconds)
        imported = server.batch_counts("picture tower")[0] - before
        if importing.done():
            raise RuntimeError(f"the import ended before the searches did: {importing.exception() or 'too short'}")
        importing.result()
    return {
        "searches": busy.total.calls,
        "idle": milliseconds(idle),
        "busy": milliseconds(busy),
        "stages_busy_ms": {name: spent * 1000 for name, spent in busy.total.stages.items()},
        "lateness_p99_ms": busy.lateness.p99 * 1000 if busy.lateness else 0.0,
        "import_rate": imported / busy.seconds,
        "p99_ratio": milliseconds(busy)["p99_ms"] / milliseconds(idle)["p99_ms"],
    }
