"""Memory under many callers of every kind, sampled each second."""

import threading
import time
from typing import Any

from benchmarks.bench import Bench
from clipseek.bench import ClipseekTarget, ClosedLoop, Load, generate

CALLERS = 64
ROWS = 10_000

_MIX = {"search_text": 6.0, "search_image": 2.0, "embed_image": 1.0, "insert": 1.0}


def measure(bench: Bench) -> dict[str, Any]:
    """At int8: it does the most."""
    rows, seconds = min(ROWS, max(bench.profile.sizes)), bench.profile.memory_seconds
    samples: list[float] = []
    with bench.server("int8", bench.workspace.data(rows)) as server:
        done = threading.Event()

        def sample() -> None:
            while not done.wait(1.0):
                samples.append(server.rss / 1e6)

        target = ClipseekTarget(server.address, pictures=bench.workspace.pictures())
        thread = threading.Thread(target=sample)
        thread.start()
        begin = time.monotonic()
        try:
            result = generate(target, Load(shape=ClosedLoop(CALLERS), mix=_MIX, seconds=seconds, warmup=0.0))
        finally:
            done.set()
            thread.join()
        peak = server.peak_rss / 1e6
    return {
        "callers": CALLERS,
        "mix": _MIX,
        "seconds": time.monotonic() - begin,
        "calls": result.total.calls,
        "errors": dict(result.total.errors),
        "rss_mb": samples,
        "peak_mb": peak,
        # The second and the last quarter: flat if they are the same.
        "second_quarter_mb": _mean(samples[len(samples) // 4 : len(samples) // 2]),
        "last_quarter_mb": _mean(samples[len(samples) * 3 // 4 :]),
    }


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
