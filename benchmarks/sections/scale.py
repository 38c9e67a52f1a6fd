"""Scale: text searches as callers and collections grow, and what the server takes of the memory."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks.bench import Bench, medians, milliseconds, search_milliseconds
from benchmarks.programs import Program
from benchmarks.sections.limit import Alone
from clipseek.bench import ClipseekTarget, ClosedLoop

_MANY = 16
_CACHED = ("a cat asleep on a red chair",)


def measure(bench: Bench) -> dict[str, Any]:
    """By size: searches of one caller, and of many whose text is cached. By callers: searches and pictures."""
    found: dict[str, Any] = {"sizes": {}, "callers": {}}
    for precision in bench.profile.precisions:
        alone = Alone(bench.workspace.bundle(precision))
        for rows in bench.profile.sizes:
            with bench.server(precision, bench.workspace.data(rows)) as server:
                before = server.rss
                found["sizes"].setdefault(precision, {})[str(rows)] = {
                    **of_one_size(bench, server, alone),
                    "rss_mb_at_start": before / 1e6,
                    "rss_mb": server.rss / 1e6,
                    "start_seconds": server.start_seconds,
                }
                if rows == min(10_000, max(bench.profile.sizes)):
                    found["callers"][precision] = {"rows": rows, **of_more_callers(bench, server)}
    return found


def of_one_size(bench: Bench, server: Program, alone: Alone) -> dict[str, Any]:
    """Searches of one caller with new, known and filtered texts, and of many with a known one."""
    return medians([_turn(bench, server, alone) for _ in range(bench.profile.turns // 2 or 1)])


def of_more_callers(
    bench: Bench, server: Program, tasks: Sequence[str] = ("search_text", "embed_image")
) -> dict[str, Any]:
    """By task and callers: rate, latency and memory."""
    target = ClipseekTarget(server.address, pictures=bench.workspace.pictures())
    found: dict[str, Any] = {}
    for task in tasks:
        for callers in bench.profile.callers:
            # Of pictures a round of answers takes long: callers ÷ rate, and a closed loop counts what ends in its time.
            seconds = bench.profile.seconds * (max(1.0, callers / 4) if task == "embed_image" else 1.0)
            turns = 1 if task == "embed_image" else bench.profile.turns // 2 or 1
            measured = []
            for _ in range(turns):
                result = bench.load(target, task, ClosedLoop(callers), seconds=seconds, warmup=max(0.3, seconds / 3))
                measured.append({"rate": result.total.rate, **milliseconds(result), "rss_mb": server.rss / 1e6})
            found.setdefault(task, {})[str(callers)] = medians(measured)
    return found


def _turn(bench: Bench, server: Program, alone: Alone) -> dict[str, Any]:
    seconds = bench.profile.seconds * 2 / 3
    fresh = ClipseekTarget(server.address)
    cached, filtered = replace(fresh, texts=_CACHED), replace(fresh, filter="metadata.group == 3")
    one, many = ClosedLoop(1), ClosedLoop(_MANY)
    many_cached = bench.load(cached, "search_text", many, seconds=seconds)
    return {
        "text_tower_alone_ms": alone.sentences(seconds / 2),
        "fresh": search_milliseconds(bench.load(fresh, "search_text", one, seconds=seconds)),
        "filtered": milliseconds(bench.load(filtered, "search_text", one, seconds=seconds)),
        "cached": milliseconds(bench.load(cached, "search_text", one, seconds=seconds)),
        "cached_rate": many_cached.total.rate,
        "cached_generator_cpu_share": many_cached.cpu_seconds / many_cached.seconds,
    }
