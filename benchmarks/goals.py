"""What was aimed at, beside what was measured: every ratio is of numbers of one run."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


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
    return [*_pictures(results), *_searches(results), *_others(results), *_peers(results)]


def _at_least(what: str, limit: float, unit: str, measure: Callable[[], float]) -> Goal:
    return Goal(what, f"≥ {limit:g}{unit}", _number(measure), limit, least=True, unit=unit)


def _at_most(what: str, limit: float, unit: str, measure: Callable[[], float]) -> Goal:
    return Goal(what, f"≤ {limit:g}{unit}", _number(measure), limit, least=False, unit=unit)


def _number(measure: Callable[[], float]) -> float | None:
    try:
        return measure()
    except KeyError:
        return None


def _pictures(results: dict[str, Any]) -> Iterator[Goal]:
    for precision, times in (("fp32", 2.0), ("int8", 5.0)):
        yield _at_least(
            f"pictures through gRPC, {precision}: share of what ONNX Runtime and decoding allow",
            0.95,
            "",
            lambda p=precision: results["engine"][p]["grpc"]["share_of_limit"],
        )
        yield _at_most(
            f"pictures through gRPC, {precision}: our overhead per picture",
            2,
            " core-ms",
            lambda p=precision: results["engine"][p]["grpc"]["overhead_cpu_ms"],
        )
        yield _at_least(
            f"pictures, {precision}: throughput against the prototype's way",
            times,
            "x",
            lambda p=precision: (
                _rate(results, "embed_image", f"clipseek {p}") / _rate(results, "embed_image", "prototype")
            ),
        )
        yield _at_least(
            f"bulk import from disk, {precision}: share of what ONNX Runtime and decoding allow",
            0.9,
            "",
            lambda p=precision: results["engine"][p]["import"]["share_of_limit"],
        )


def _searches(results: dict[str, Any]) -> Iterator[Goal]:
    def size(rows: int, precision: str = "fp32") -> dict[str, Any]:
        found: dict[str, Any] = results["scale"]["sizes"][precision][str(rows)]
        return found

    for rows in (10_000, 100_000):
        yield _at_most(
            f"text search, one caller, {rows:,} pictures: p50 beyond the text tower alone",
            3,
            " ms",
            lambda r=rows: size(r)["fresh"]["p50_ms"] - size(r)["text_tower_alone_ms"],
        )
    yield _at_most(
        "of which the wire and our own code",
        1.5,
        " ms",
        lambda: results["engine"]["fp32"]["search"]["wire_ms"] + results["engine"]["fp32"]["search"]["own_code_ms"],
    )
    yield _at_most(
        "the same with a filter that keeps 10% of 100,000: p50 beyond the text tower alone",
        15,
        " ms",
        lambda: size(100_000)["filtered"]["p50_ms"] - size(100_000)["text_tower_alone_ms"],
    )
    yield _at_most("the same text again, 10,000 pictures: p50", 3, " ms", lambda: size(10_000)["cached"]["p50_ms"])
    yield _at_least("the same text again, 16 callers", 800, "/s", lambda: size(10_000)["cached_rate"])
    for precision, latency, rate in (("fp32", 4.0, 8.0), ("int8", 7.0, 12.0)):
        for other in ("prototype, load and release", "prototype"):
            yield _at_least(
                f"text search, {precision}: p50 of one caller against the {other}",
                latency,
                "x lower",
                lambda p=precision, o=other: (
                    _p50(results, "search_text", o) / _p50(results, "search_text", f"clipseek {p}")
                ),
            )
            yield _at_least(
                f"text search, {precision}: throughput at 16 callers against the {other}",
                rate,
                "x",
                lambda p=precision, o=other: (
                    _rate(results, "search_text", f"clipseek {p}") / _rate(results, "search_text", o)
                ),
            )


def _others(results: dict[str, Any]) -> Iterator[Goal]:
    for precision in ("fp32", "int8"):
        yield _at_most(
            f"text search, {precision}: p99 while a bulk import runs, against an idle server",
            4,
            "x",
            lambda p=precision: results["mixed"][p]["p99_ratio"],
        )
    yield _at_most(
        "memory under 64 callers: last quarter of the time against the second",
        1.05,
        "x",
        lambda: results["memory"]["last_quarter_mb"] / results["memory"]["second_quarter_mb"],
    )
    yield _at_most(
        "from serve to SERVING, fp32, 10,000 pictures", 3, " s", lambda: results["engine"]["fp32"]["start_seconds"]
    )


def _peers(results: dict[str, Any]) -> Iterator[Goal]:
    for task, name in (("embed_image", "pictures"), ("embed_text", "sentences")):
        for peer in results.get("peers", {}).get(task, {}):
            if peer.startswith("clipseek"):
                continue
            precision = "int8" if peer.endswith("int8") else "fp32"
            yield _at_least(
                f"{name}, {precision}: throughput against {peer}",
                1,
                "x",
                lambda t=task, o=peer, p=precision: _rate(results, t, f"clipseek {p}") / _rate(results, t, o),
            )
            yield _at_least(
                f"{name}, {precision}: p50 of one caller against {peer}",
                1,
                "x lower",
                lambda t=task, o=peer, p=precision: _p50(results, t, o) / _p50(results, t, f"clipseek {p}"),
            )


def _rate(results: dict[str, Any], task: str, server: str) -> float:
    return float(results["peers"][task][server]["rate"])


def _p50(results: dict[str, Any], task: str, server: str) -> float:
    return float(results["peers"][task][server]["one"]["p50_ms"])
