"""What was aimed at, beside what was measured: every ratio is of numbers of one run."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

RECALLS = (0.98, 0.995)
"""What an index should find of the ten nearest, at the default effort and at THOROUGH; of pictures and of texts."""


@dataclass(frozen=True)
class Goal:
    """One line of the table.

    Attributes:
        what: What is measured.
        aim: The goal, for people.
        measured: The number; ``None`` when it was not measured.
        limit: The goal as a number.
        least: Whether it is the least that will do; otherwise it is the most.
        unit: Of the numbers.
    """

    what: str
    aim: str
    measured: float | None
    limit: float
    least: bool
    unit: str = ""

    @property
    def met(self) -> bool | None:
        """``None`` when it was not measured."""
        if self.measured is None:
            return None
        return self.measured >= self.limit if self.least else self.measured <= self.limit


def goals(results: dict[str, Any]) -> list[Goal]:
    """All of them; what a run left out has no number."""
    found = _Numbers(results)
    return [*_pictures(found), *_searches(found), *_resident(results), *_others(found), *_peers(found)]


class _Numbers:
    """The numbers of results; one that is not there is ``None``, and so is what is made of it."""

    def __init__(self, results: dict[str, Any]) -> None:
        self.results = results

    def at(self, *path: str) -> float | None:
        value: Any = self.results
        for name in path:
            if not isinstance(value, dict) or name not in value:
                return None
            value = value[name]
        return float(value)

    def ratio(self, one: tuple[str, ...], other: tuple[str, ...]) -> float | None:
        above, below = self.at(*one), self.at(*other)
        return None if above is None or not below else above / below

    def difference(self, one: tuple[str, ...], other: tuple[str, ...]) -> float | None:
        more, less = self.at(*one), self.at(*other)
        return None if more is None or less is None else more - less


def _at_least(what: str, limit: float, unit: str, measured: float | None) -> Goal:
    return Goal(what, f"≥ {limit:g}{unit}", measured, limit, least=True, unit=unit)


def _at_most(what: str, limit: float, unit: str, measured: float | None) -> Goal:
    return Goal(what, f"≤ {limit:g}{unit}", measured, limit, least=False, unit=unit)


def _pictures(found: _Numbers) -> Iterator[Goal]:
    for precision, times in (("fp32", 2.0), ("int8", 5.0)):
        share = found.at("engine", precision, "grpc", "share_of_limit")
        yield _at_least(f"pictures through gRPC, {precision}: share of what is possible", 0.95, "", share)
        overhead = found.at("engine", precision, "grpc", "overhead_cpu_ms")
        what = f"pictures through gRPC, {precision}: the server's CPU beyond ONNX Runtime's and the decoders' alone"
        yield _at_most(what, 2, " core-ms", overhead)
        faster = found.ratio(_rate("embed_image", f"clipseek {precision}"), _rate("embed_image", "prototype"))
        yield _at_least(f"pictures, {precision}: throughput against the prototype's way", times, "x", faster)
        imported = found.at("engine", precision, "import", "share_of_limit")
        yield _at_least(f"bulk import from disk, {precision}: share of what is possible", 0.9, "", imported)


def _searches(found: _Numbers) -> Iterator[Goal]:
    for precision in ("fp32", "int8"):
        sizes = "scale", "sizes", precision
        for rows in ("10000", "100000"):
            size = *sizes, rows
            beyond = found.difference((*size, "fresh", "p50_ms"), (*size, "text_tower_alone_ms"))
            what = f"text search, {precision}, one caller, {int(rows):,} pictures: p50 beyond the text tower alone"
            yield _at_most(what, 3, " ms", beyond)
        wire = found.at("engine", precision, "search", "wire_and_own_code_ms")
        yield _at_most(f"text search, {precision}: the wire and our own code", 1.5, " ms", wire)
        size = *sizes, "100000"
        beyond = found.difference((*size, "filtered", "p50_ms"), (*size, "text_tower_alone_ms"))
        what = f"text search, {precision}, a filter that keeps 10% of 100,000: p50 beyond the text tower alone"
        yield _at_most(what, 15, " ms", beyond)
        size = *sizes, "10000"
        again = found.at(*size, "cached", "p50_ms")
        yield _at_most(f"the same text again, {precision}, 10,000 pictures: p50", 3, " ms", again)
        rate = found.at(*size, "cached_rate")
        yield _at_least(f"the same text again, {precision}, 16 callers", 800, "/s", rate)
    for precision, lower, higher in (("fp32", 4.0, 8.0), ("int8", 7.0, 12.0)):
        ours = f"clipseek {precision}"
        for other in ("prototype, load and release", "prototype"):
            what = f"text search, {precision}, against the {other}"
            latency = found.ratio(_p50("search_text", other), _p50("search_text", ours))
            yield _at_least(f"{what}: p50 of one caller", lower, "x lower", latency)
            rate = found.ratio(_rate("search_text", ours), _rate("search_text", other))
            yield _at_least(f"{what}: throughput of 16 callers", higher, "x", rate)


def _resident(results: dict[str, Any]) -> Iterator[Goal]:
    searches = results.get("resident", {}).get("searches", [])
    found = [each for each in searches if each["rows"] == 100_000 and each["search"] == "default"]
    what = "searches in memory among 100,000, the worst of pictures and texts of each kind"
    yield _at_least(f"{what}: recall@10", 0.99, "", min((each["recall"] for each in found), default=None))
    yield _at_most(f"{what}: p50", 3, " ms", max((each["p50"] for each in found), default=None))


def _others(found: _Numbers) -> Iterator[Goal]:
    for precision in ("fp32", "int8"):
        ratio = found.at("mixed", precision, "p99_ratio")
        searches, turns = (found.at("mixed", precision, name) for name in ("searches", "turns"))
        of = f", of {searches:,.0f} searches" if searches else ""
        of += f" in {turns:.0f} turns" if turns else ""
        yield _at_most(f"text search, {precision}: p99 during a bulk import ÷ on an idle server{of}", 4, "x", ratio)
    growth = found.ratio(("memory", "last_quarter_mb"), ("memory", "second_quarter_mb"))
    long = f" for {seconds:.0f} s" if (seconds := found.at("memory", "seconds")) else ""
    yield _at_most(f"memory under 64 callers{long}: last quarter of the time ÷ second", 1.05, "x", growth)
    start = found.at("engine", "fp32", "start_seconds")
    yield _at_most("from serve to SERVING, fp32, 10,000 pictures", 3, " s", start)


def _peers(found: _Numbers) -> Iterator[Goal]:
    for task, items in (("embed_image", "pictures"), ("embed_text", "sentences")):
        for peer in found.results.get("peers", {}).get(task, {}):
            if peer.startswith("clipseek"):
                continue
            precision = "int8" if peer.endswith("int8") else "fp32"
            ours = f"clipseek {precision}"
            what = f"{items}, {precision}, against {peer}"
            yield _at_least(f"{what}: throughput", 1, "x", found.ratio(_rate(task, ours), _rate(task, peer)))
            for callers, name in (("one", "one caller"), ("many", "16 callers")):
                latency = found.ratio(_p50(task, peer, callers), _p50(task, ours, callers))
                yield _at_least(f"{what}: p50 of {name}", 1, "x lower", latency)


def _rate(task: str, server: str) -> tuple[str, ...]:
    return "peers", task, server, "rate"


def _p50(task: str, server: str, callers: str = "one") -> tuple[str, ...]:
    return "peers", task, server, callers, "p50_ms"
