"""Two runs side by side, and whether they differ by more than each differs from itself."""

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from clipseek.bench.results import error_share

_METRICS: Mapping[str, Callable[[Mapping[str, Any]], float | None]] = {
    "errors %": lambda found: 100 * error_share(found["errors"], found["items"]),
    "/s": lambda found: found["rate"],
    "p50 ms": lambda found: _milliseconds(found, "p50"),
    "p95 ms": lambda found: _milliseconds(found, "p95"),
    "p99 ms": lambda found: _milliseconds(found, "p99"),
    "p99.9 ms": lambda found: _milliseconds(found, "p999"),
}


@dataclass(frozen=True)
class Difference:
    """One number of two runs.

    Attributes:
        what: Operation and metric.
        before: In the first run.
        after: In the second.
        is_clear: Whether the middle halves of their windows lie apart; ``None`` when there are too few to say, or a
            generator could not keep up, so that the number is its own.
    """

    what: str
    before: float
    after: float
    is_clear: bool | None

    @property
    def ratio(self) -> float | None:
        """After to before; ``None`` where there is nothing to compare with."""
        return self.after / self.before if self.before else None


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Difference]:
    """The numbers that both runs, as ``report.to_json`` keeps them, have of the same loads.

    Raises:
        ValueError: They have none.
    """
    others = {result["load"]: result for result in after["results"]}
    both = [(result, others[result["load"]]) for result in before["results"] if result["load"] in others]
    searched = "search" in before and "search" in after
    if not both and not searched:
        raise ValueError("the two have no load in common: measure the same --callers, --rate or --slo again")
    if searched:
        yield Difference("highest rate /s", before["search"]["rate"], after["search"]["rate"], None)
    for one, other in both:
        yield from _differences(one, other)


def different_settings(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """In words, what was set otherwise: then the numbers may differ because of that."""
    # Files of before it was always kept lack a seed of 0.
    before, after = {"seed": 0, **before}, {"seed": 0, **after}
    names = (before.keys() | after.keys()) - {"measured", "results", "search", "metrics", "format"}
    return [
        f"{name}: {before.get(name)} and {after.get(name)}"
        for name in sorted(names)
        if before.get(name) != after.get(name)
    ]


def busy_loads(document: Mapping[str, Any]) -> list[str]:
    """The loads of a run in which the generator itself could not keep up."""
    return [result["load"] for result in document["results"] if _is_busy(result)]


def _is_busy(result: Mapping[str, Any]) -> bool:
    # Files of before it was kept say nothing of it.
    return bool(result.get("is_generator_busy"))


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[Difference]:
    load, busy = one["load"], _is_busy(one) or _is_busy(other)
    for name in one["operations"]:
        for metric, take in _METRICS.items() if name in other["operations"] else ():
            value, new = take(one["operations"][name]), take(other["operations"][name])
            if value is not None and new is not None:
                yield Difference(f"{load}: {name} {metric}", value, new, None)
    for metric, take in _METRICS.items():
        value, new = take(one["total"]), take(other["total"])
        if value is not None and new is not None:
            is_clear = None if busy else _apart(_windows(one, take), _windows(other, take))
            yield Difference(f"{load}: all {metric}", value, new, is_clear)


_ENOUGH_WINDOWS = 5


def _apart(before: list[float], after: list[float]) -> bool | None:
    if min(len(before), len(after)) < _ENOUGH_WINDOWS:
        return None
    (low, _, high), (new_low, _, new_high) = statistics.quantiles(before, n=4), statistics.quantiles(after, n=4)
    return new_low > high or new_high < low


def _windows(result: Mapping[str, Any], take: Callable[[Mapping[str, Any]], float | None]) -> list[float]:
    return [value for _, found in result["windows"] if (value := take(found)) is not None]


def _milliseconds(found: Mapping[str, Any], key: str) -> float | None:
    return found["latency"][key] * 1000 if found["latency"] else None
