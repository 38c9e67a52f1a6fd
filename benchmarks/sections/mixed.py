"""Mixed: text searches at a constant rate while a bulk import runs at full speed, and on the idle server."""

import threading
from typing import Any

from benchmarks.bench import Bench, milliseconds
from clipseek.bench import ClipseekTarget, ClosedLoop, Load, LoadResult, OpenLoop, generate
from clipseek_server.encoding.bundle import Precision

CAPACITY_SHARE = 0.2
ROWS = 10_000

_STREAMS = 2
"""So that there is no pause when one ends."""
_STREAM_PICTURES = 48


def measure(bench: Bench) -> dict[str, Any]:
    """By precision."""
    return {precision: _measure(bench, precision) for precision in bench.profile.precisions}


def _measure(bench: Bench, precision: Precision) -> dict[str, Any]:
    rows = min(ROWS, max(bench.profile.sizes))
    with bench.server(precision, bench.workspace.data(precision, rows)) as server:
        target = ClipseekTarget(server.address, pictures=bench.workspace.pictures(), bulk_items=_STREAM_PICTURES)
        capacity = bench.load(target, "search_text", ClosedLoop(16)).total.rate
        rate = CAPACITY_SHARE * capacity
        seconds = bench.profile.mixed_searches / rate
        idle = bench.load(target, "search_text", OpenLoop(rate), seconds=seconds)
        imports: list[LoadResult] = []
        # Begins before the searches do, and ends after them.
        beside = Load(shape=ClosedLoop(_STREAMS), mix={"bulk_import": 1}, seconds=seconds + 8, warmup=0.0)
        thread = threading.Thread(target=lambda: imports.append(generate(target, beside)))
        thread.start()
        busy = bench.load(target, "search_text", OpenLoop(rate), seconds=seconds, warmup=4.0)
        thread.join()
    return {
        "rows": rows,
        "engine": "milvus-lite",
        "consistency": "strong",
        "capacity": capacity,
        "rate": rate,
        "searches": busy.total.calls,
        "idle": milliseconds(idle),
        "busy": milliseconds(busy),
        "stages_busy_ms": {name: spent * 1000 for name, spent in busy.total.stages.items()},
        "lateness_p99_ms": busy.lateness.p99 * 1000 if busy.lateness else 0.0,
        "import_rate": imports[0].total.rate,
        "p99_ratio": milliseconds(busy)["p99_ms"] / milliseconds(idle)["p99_ms"],
    }
