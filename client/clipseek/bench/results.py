"""What a load found."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds that calls took; percentiles are right to 0.1 %. ``count`` says of how many calls."""

    count: int
    mean: float
    min: float
    p50: float
    p90: float
    p95: float
    p99: float
    p999: float
    max: float

    @property
    def unsure(self) -> tuple[str, ...]:
        """The percentiles above which fewer than ten of the calls lie: these few decide them."""
        return tuple(name for name, share in SHARES_ABOVE.items() if self.count < enough_calls(share))


SHARES_ABOVE = {"p50": 0.5, "p90": 0.1, "p95": 0.05, "p99": 0.01, "p999": 0.001}
"""Of all calls, how many may lie above a percentile."""

_ENOUGH_ABOVE = 10


def enough_calls(share_above: float) -> int:
    """Of so many calls ten lie above a percentile."""
    return round(_ENOUGH_ABOVE / share_above)


class Point(NamedTuple):
    """A percentile, in [0, 100], and the seconds that so many of the calls did not exceed."""

    percentile: float
    seconds: float


@dataclass(frozen=True, slots=True)
class OperationResult:
    """One operation's calls, or those of all operations together.

    Attributes:
        calls: Calls that did not fail; in a closed loop those too that ended after the time.
        items: What they did; of most operations one each.
        errors: Calls and items that failed, by status.
        rate: Items a second, of what was done in the time.
        latency: Of the calls that did not fail; in an open loop from when they were due. ``None`` when there are none.
        percentiles: Seconds by percentile of all calls, where one that failed took longer than any other; those that
            lie among the failed are left out.
        stages: Mean seconds of a call by stage, as the server measured them.
    """

    calls: int
    items: int
    errors: Mapping[str, int]
    rate: float
    latency: Latency | None
    percentiles: Mapping[str, float]
    stages: Mapping[str, float]

    @property
    def error_share(self) -> float:
        """Of items, in [0, 1]; a call that failed as a whole counts as one."""
        return error_share(self.errors, self.items)

    @property
    def seconds_outside(self) -> float | None:
        """Mean seconds of a call that are not on the server's clock; ``None`` where the server says none of its own.

        They pass in the generator, on the way, and in a busy server before it takes the call up.
        """
        if self.latency is None or "total" not in self.stages:
            return None
        return self.latency.mean - self.stages["total"]


def error_share(errors: Mapping[str, int], items: int) -> float:
    """Of what failed by status, among that and the items that did not."""
    failed = sum(errors.values())
    return failed / (failed + items) if failed else 0.0


class Window(NamedTuple):
    """A part of the time: its first second, and all operations' calls that ended (in an open loop: were due) in it."""

    begin: float
    found: OperationResult


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What a load found.

    Attributes:
        begin: When measuring began, on the machine's monotonic clock.
        operations: By name.
        total: All of them together.
        curve: Percentiles of all of them together.
        windows: How it went over time; windows without calls are left out.
        seconds: How long it was measured: in an open loop and with a number of calls, until the last answer.
        tail_seconds: In an open loop, how much of that came after the time in which calls were due.
        cpu_seconds: CPU time of the generator's processes, without the tail: what it took from a server on the same
            machine.
        open_loop: Whether calls came when they were due, or when the one before was answered.
        lateness: In an open loop, by how much calls were made later than they were due; it is part of their latency. In
            a closed loop, by how much timers of every 50 ms were late: answers may wait for their turn as long.
            ``None`` where the time was too short for one.
        processes: How many processes made the calls.
        cores: How many cores they may use.
    """

    begin: float
    operations: Mapping[str, OperationResult]
    total: OperationResult
    curve: tuple[Point, ...]
    windows: tuple[Window, ...]
    seconds: float
    tail_seconds: float
    cpu_seconds: float
    open_loop: bool
    lateness: Latency | None
    processes: int
    cores: int

    @property
    def _due_seconds(self) -> float:
        return self.seconds - self.tail_seconds

    @property
    def _judged(self) -> str:
        """The percentile that objectives bound, where there is enough to tell: few late calls may yet spoil it."""
        return "p95" if self.lateness is None or "p99" in self.lateness.unsure else "p99"

    @property
    def is_generator_busy(self) -> bool:
        """Whether the generator itself may be what was measured: its processes had little time left, or were late."""
        busy = self.cpu_seconds > _BUSY_SHARE * self._due_seconds * min(self.processes, self.cores)
        latency = self.total.latency
        if self.lateness is None or latency is None:
            return busy
        late, long = (getattr(each, self._judged) for each in (self.lateness, latency))
        shortest = _LATE_SECONDS if self.open_loop else _LATE_TIMER_SECONDS
        return busy or late > max(shortest, _LATE_SHARE * long)

    @property
    def about_generator(self) -> str:
        """What it used itself, in words, and whether that spoils the numbers."""
        cores = self.cpu_seconds / self._due_seconds if self._due_seconds else 0.0
        what = "calls" if self.open_loop else "timers"
        late = ""
        if self.lateness is not None:
            milliseconds = getattr(self.lateness, self._judged) * 1000
            late = f"; its {what} were late by {milliseconds:.1f} ms ({self._judged})"
        more = "more processes or another machine" if self.processes < self.cores else "another machine"
        busy = f" It could not keep up: these numbers are its own; give it {more}." if self.is_generator_busy else ""
        return f"The generator used {cores:.2f} cores in {self.processes} process(es){late}.{busy}"

    @property
    def about_latencies(self) -> str:
        """How much of them is not the server's, in words; empty where that is no more than a tenth."""
        parts = [
            f"{outside * 1000:.1f} of {found.latency.mean * 1000:.1f} ms ({name})"
            for name, found in self.operations.items()
            if (outside := found.seconds_outside) is not None
            and found.latency is not None
            and outside > _OUTSIDE_SHARE * found.latency.mean
        ]
        if not parts:
            return ""
        return (
            f"Of these latencies {', '.join(parts)} in the mean are not on the server's clock: they pass in the "
            "generator itself, on the way, and before a busy server takes a call up."
        )

    @property
    def about_percentiles(self) -> str:
        """Which of them few calls decide, in words; empty where none."""
        latency = self.total.latency
        if latency is None or not latency.unsure:
            return ""
        above = ", ".join(latency.unsure).replace("p999", "p99.9")
        return f"fewer than ten of {latency.count:,} calls lie above {above}: these say little"

    @property
    def notes(self) -> Mapping[str, str]:
        """All that is to be said of the numbers, by its name in JSON; empty where there is nothing."""
        return {
            "about_latencies": self.about_latencies,
            "about_generator": self.about_generator,
            "about_percentiles": self.about_percentiles,
        }

    def to_json(self) -> dict[str, Any]:
        """As JSON values; times in seconds."""
        return {
            **asdict(self),
            "is_generator_busy": self.is_generator_busy,
            **self.notes,
        }


_BUSY_SHARE = 0.8
_LATE_SHARE = 0.1
_LATE_SECONDS = 0.002
# Unlike an answer a timer may come while a server computes on the same cores: measured up to 3 ms late (p95) there.
_LATE_TIMER_SECONDS = 0.005
_OUTSIDE_SHARE = 0.1
