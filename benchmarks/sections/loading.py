"""Loading: what searches feel of it that a large collection is brought into memory after a start."""

import threading
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.bench import Bench, codes_seconds, in_memory
from clipseek.bench import ClipseekTarget, ClosedLoop
from clipseek.bench.results import Window

ROWS = 100_000, 300_000
"""The latter are as many as are brought into memory."""

_ROWS_A_SECOND = 10_000
"""Fewer than are loaded in one."""
_KNOWN = ("a cat asleep on a red chair",)
_LONGEST = 60.0
"""Seconds that it may take."""
_POLL = 0.02


def measure(bench: Bench) -> dict[str, Any]:
    """By size: searches of one caller for a known text, from the moment on that the server serves."""
    sizes = sorted({min(rows, max(bench.profile.sizes)) for rows in ROWS})
    return {str(rows): _measure(bench, rows) for rows in sizes}


def _measure(bench: Bench, rows: int) -> dict[str, Any]:
    with bench.server("fp32", bench.workspace.data(rows), settled=False) as server:
        serves = time.monotonic()
        loaded: list[float] = []

        def watch() -> None:
            while not in_memory(server.log):
                time.sleep(_POLL)
            loaded.append(time.monotonic())

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        target = ClipseekTarget(server.address, texts=_KNOWN)
        seconds = bench.profile.seconds + rows / _ROWS_A_SECOND
        result = bench.load(target, "search_text", ClosedLoop(1), seconds=seconds, warmup=0.0)
        thread.join(_LONGEST)
        if not loaded:
            raise RuntimeError(f"{rows:,} pictures were not loaded in time")
        coded = codes_seconds(server.log)
    alone = {"CLIPSEEK_RESIDENT_MAX_ROWS": "0"}
    with bench.server("fp32", bench.workspace.data(rows), settled=False, environment=alone) as server:
        target = ClipseekTarget(server.address, texts=_KNOWN)
        milvus = bench.load(target, "search_text", ClosedLoop(1), seconds=bench.profile.seconds + 1.0, warmup=2.0)
    end = loaded[0] - result.begin
    # The windows in which one state gave way to the next are of neither.
    return {
        "load_seconds": loaded[0] - serves - coded,
        "codes_seconds": coded,
        "milvus_alone": _of(milvus.windows),
        "from_milvus": _of([window for window in result.windows if window.begin + 1.0 <= end - coded]),
        "without_codes": _of(
            [window for window in result.windows if window.begin > end - coded and window.begin + 1.0 <= end]
        ),
        "in_memory": _of([window for window in result.windows if window.begin > end]),
    }


def _of(windows: Sequence[Window]) -> dict[str, float]:
    """The median second's p50, and the longest of all."""
    latencies = [window.found.latency for window in windows if window.found.latency]
    medians = sorted(latency.p50 for latency in latencies)
    return {
        "calls": sum(window.found.calls for window in windows),
        "p50_ms": medians[len(medians) // 2] * 1000 if medians else 0.0,
        "max_ms": max((latency.max for latency in latencies), default=0.0) * 1000,
    }
