"""What a server must achieve for a rate to count: ``p99<50ms,errors<0.1%``."""

import math
import re
from dataclasses import dataclass

from clipseek.bench.results import SHARES_ABOVE, LoadResult, OperationResult, enough_calls

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_PERCENTILES = {"p50": "p50", "p90": "p90", "p95": "p95", "p99": "p99", "p99.9": "p999", "mean": "mean", "max": "max"}
_PART = re.compile(r"(?:(?P<operation>[a-z_]+)\.)?(?P<what>[a-z0-9.]+)<(?P<limit>\d+(?:\.\d+)?)(?P<unit>us|ms|s|%)")


@dataclass(frozen=True)
class Condition:
    """One part of an objective.

    Attributes:
        text: As it was given.
        what: ``errors``, or the field of ``Latency`` that is bounded.
        limit: A share in [0, 1] of errors, or seconds; to stay below.
        operation: Whose; empty for all together.
    """

    text: str
    what: str
    limit: float
    operation: str = ""

    def measured(self, result: LoadResult) -> float | None:
        """What is bounded; ``None`` when there is nothing to measure it of.

        A call that failed took longer than any limit: a percentile that lies among those is infinite, and so are mean
        and maximum where one failed.
        """
        found = self._found(result)
        if found is None:
            return None
        if self.what == "errors":
            return found.error_share
        if found.latency is None:
            return None
        if self.what in SHARES_ABOVE:
            return found.percentiles.get(self.what, math.inf)
        return math.inf if found.errors else float(getattr(found.latency, self.what))

    def holds(self, result: LoadResult) -> bool:
        """Whether it does; nothing to measure is not enough."""
        measured = self.measured(result)
        return measured is not None and measured < self.limit

    def enough_seconds(self, result: LoadResult) -> float | None:
        """How long to measure for ten calls above the percentile; ``None`` when it was long enough.

        Fewer decide by chance.
        """
        found = self._found(result)
        if found is None or found.latency is None or self.what not in found.latency.unsure:
            return None
        return result.seconds * enough_calls(SHARES_ABOVE[self.what]) / found.latency.count

    def _found(self, result: LoadResult) -> OperationResult | None:
        return result.operations.get(self.operation) if self.operation else result.total


@dataclass(frozen=True)
class Objective:
    """All of its conditions must hold."""

    conditions: tuple[Condition, ...]

    @classmethod
    def parse(cls, text: str) -> "Objective":
        """``WHAT<LIMIT``, more of them after commas.

        ``WHAT`` is ``errors`` (in %), ``p50``, ``p90``, ``p95``, ``p99``, ``p99.9``, ``mean`` or ``max`` (in us, ms or
        s), of one operation where its name stands before it: ``search_text.p99<50ms``.

        Raises:
            ValueError: It is not of that form.
        """
        return cls(tuple(_condition(part.strip()) for part in text.split(",")))

    @property
    def operations(self) -> frozenset[str]:
        """Those that its conditions name."""
        return frozenset(condition.operation for condition in self.conditions if condition.operation)

    def broken_by(self, result: LoadResult) -> tuple[Condition, ...]:
        """The conditions that do not hold."""
        return tuple(condition for condition in self.conditions if not condition.holds(result))

    def __str__(self) -> str:
        return ",".join(condition.text for condition in self.conditions)


def _condition(text: str) -> Condition:
    found = _PART.fullmatch(text.replace(" ", ""))
    what = found["what"] if found else ""
    is_share = found is not None and found["unit"] == "%"
    if found is None or (what != "errors" and what not in _PERCENTILES) or is_share != (what == "errors"):
        raise ValueError(f"an objective is e.g. p99<50ms,errors<0.1%; {text!r} is no part of one")
    limit = float(found["limit"]) * (0.01 if is_share else _UNITS[found["unit"]])
    return Condition(text, "errors" if what == "errors" else _PERCENTILES[what], limit, found["operation"] or "")
