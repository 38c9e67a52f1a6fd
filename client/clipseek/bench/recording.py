"""What one process saw, and how those of several become one result."""

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from clipseek.bench.plan import Done
from clipseek.bench.results import Latency, LoadResult, OperationResult


def _floats() -> "array[float]":
    return array("d")


@dataclass(slots=True)
class OperationRecording:
    """The calls of one operation."""

    latencies: "array[float]" = field(default_factory=_floats)
    items: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    stages: Counter[str] = field(default_factory=Counter)

    def add(self, seconds: float, done: Done) -> None:
        """Take in a call that did not fail."""
        self.latencies.append(seconds)
        self.items += done.items
        self.errors.update(done.failures)
        self.stages.update(done.stages)

    def join(self, other: "OperationRecording") -> None:
        """Take in another recording's calls."""
        self.latencies.extend(other.latencies)
        self.items += other.items
        self.errors.update(other.errors)
        self.stages.update(other.stages)

    def result(self, seconds: float) -> OperationResult:
        """What it found in so many seconds."""
        calls = len(self.latencies)
        return OperationResult(
            calls=calls,
            items=self.items,
            errors=dict(self.errors),
            rate=self.items / seconds if seconds else 0.0,
            latency=Latency.of(self.latencies),
            stages={name: spent / calls for name, spent in self.stages.items()} if calls else {},
        )


@dataclass(slots=True)
class Recording:
    """What one process saw.

    Attributes:
        begin: When measuring began, on the clock that all processes share.
        end: When it ended.
        operations: By name.
        lateness: Of the calls of an open loop.
        cpu_seconds: Of the process, from begin to end.
    """

    begin: float
    end: float
    operations: dict[str, OperationRecording] = field(default_factory=dict)
    lateness: "array[float]" = field(default_factory=_floats)
    cpu_seconds: float = 0.0

    def of(self, name: str) -> OperationRecording:
        """That of one operation."""
        return self.operations.setdefault(name, OperationRecording())


def merge(recordings: Sequence[Recording]) -> LoadResult:
    """One result of at least one recording."""
    seconds = max(each.end for each in recordings) - min(each.begin for each in recordings)
    operations: dict[str, OperationRecording] = {}
    total, lateness = OperationRecording(), _floats()
    for recording in recordings:
        lateness.extend(recording.lateness)
        for name, operation in recording.operations.items():
            operations.setdefault(name, OperationRecording()).join(operation)
            total.join(operation)
    return LoadResult(
        operations={name: operation.result(seconds) for name, operation in operations.items()},
        total=total.result(seconds),
        seconds=seconds,
        cpu_seconds=sum(each.cpu_seconds for each in recordings),
        lateness=Latency.of(lateness),
        processes=len(recordings),
    )
