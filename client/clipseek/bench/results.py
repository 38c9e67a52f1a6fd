"""What a load found."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds that calls took. Percentiles are exact: of all calls, by nearest rank."""

    count: int
    mean: float
    min: float
    p50: float
    p90: float
    p95: float
    p99: float
    p999: float
    max: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Self | None:
        """Of at least one call; ``None`` of none."""
        if not seconds:
            return None
        ranked = sorted(seconds)
        return cls(
            count=len(ranked),
            mean=math.fsum(ranked) / len(ranked),
            min=ranked[0],
            p50=percentile(ranked, 50),
            p90=percentile(ranked, 90),
            p95=percentile(ranked, 95),
            p99=percentile(ranked, 99),
            p999=percentile(ranked, 99.9),
            max=ranked[-1],
        )


def percentile(ranked: Sequence[float], percent: float) -> float:
    """The least value that at least ``percent`` of them do not exceed; of at least one, sorted."""
    # Rounded first: 99.9 / 100 * 1000 is a little more than 999.
    return ranked[max(0, math.ceil(round(percent / 100 * len(ranked), 6)) - 1)]


@dataclass(frozen=True, slots=True)
class OperationResult:
    """One operation's calls, or those of all operations together.

    Attributes:
        calls: Calls that did not fail.
        items: What they did; of most operations one each.
        errors: Calls and items that failed, by status.
        rate: Items a second.
        latency: Of the calls that did not fail; in an open loop from when they were due. ``None`` when there are none.
        stages: Mean seconds of a call by stage, as the server measured them.
    """

    calls: int
    items: int
    errors: Mapping[str, int]
    rate: float
    latency: Latency | None
    stages: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What a load found.

    Attributes:
        operations: By name.
        total: All of them together.
        seconds: How long it was measured: in an open loop and with a number of calls, until the last answer.
        cpu_seconds: CPU time of the generator's processes meanwhile: what it took from a server on the same machine.
        lateness: In an open loop, by how much calls were made later than they were due; it is part of their latency.
            ``None`` in a closed loop.
        processes: How many processes made the calls.
    """

    operations: Mapping[str, OperationResult]
    total: OperationResult
    seconds: float
    cpu_seconds: float
    lateness: Latency | None
    processes: int

    def to_json(self) -> dict[str, Any]:
        """As JSON values; times in seconds."""
        return asdict(self)
