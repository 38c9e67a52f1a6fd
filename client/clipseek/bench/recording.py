"""What one process saw, and how those of several become one result."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from clipseek.bench.histogram import Histogram
from clipseek.bench.plan import Done
from clipseek.bench.results import LoadResult, OperationResult, Window, error_share

Key = TypeVar("Key")


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(slots=True)
class OperationRecording:
    """The calls of one operation.

    Attributes:
        latencies: Of the calls that did not fail.
        items: What they did.
        late_items: Those of them that were done after the time.
        errors: Calls and items that failed, by status.
        failed: Calls that failed; of one that did only some of its items, the part that failed.
        stages: Seconds of all calls by stage, as the server measured them.
    """

    latencies: Histogram = field(default_factory=Histogram)
    items: int = 0
    late_items: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    failed: float = 0.0
    stages: Counter[str] = field(default_factory=Counter)

    def add(self, seconds: float, done: Done, *, in_time: bool) -> None:
        """Take in a call that did not fail; what was done after the time is no part of the rate."""
        self.latencies.add(seconds)
        self.items += done.items
        self.late_items += 0 if in_time else done.items
        self.errors.update(done.failures)
        self.failed += error_share(done.failures, done.items)
        self.stages.update(done.stages)

    def fail(self, status: str) -> None:
        """Take in a call that failed."""
        self.errors[status] += 1
        self.failed += 1

    def join(self, other: "OperationRecording") -> None:
        """Take in another recording's calls."""
        self.latencies.join(other.latencies)
        self.items += other.items
        self.late_items += other.late_items
        self.errors.update(other.errors)
        self.failed += other.failed
        self.stages.update(other.stages)

    def result(self, seconds: float) -> OperationResult:
        """What it found in so many seconds."""
        calls = len(self.latencies)
        return OperationResult(
            calls=calls,
            items=self.items,
            errors=dict(self.errors),
            rate=(self.items - self.late_items) / seconds if seconds else 0.0,
            latency=self.latencies.latency(),
            percentiles=self.latencies.percentiles(beyond=self.failed),
            stages={name: spent / calls for name, spent in self.stages.items()} if calls else {},
        )


@dataclass(slots=True)
class Recording:
    """What one process saw.

    Attributes:
        begin: When measuring began, on the clock that all processes share.
        end: When it ended.
        due: Until when calls of an open loop were due.
        window_seconds: How long each window of time is.
        operations: By name.
        windows: All operations' calls, by the window in which they ended (in an open loop: were due).
        lateness: Of the calls of an open loop; of the timers of a closed one.
        cpu_seconds: Of the process, from begin until no more calls were due.
        cores: How many the process may use.
    """

    begin: float
    end: float
    due: float | None = None
    window_seconds: float = 1.0
    operations: dict[str, OperationRecording] = field(default_factory=dict)
    windows: dict[int, OperationRecording] = field(default_factory=dict)
    lateness: Histogram = field(default_factory=Histogram)
    cpu_seconds: float = 0.0
    cores: int = field(default_factory=_usable_cores)

    def add(self, name: str, moment: float, seconds: float, answer: Done | str, *, in_time: bool = True) -> None:
        """Take in a call that belongs to a moment: what it did, or its status if it failed."""
        window = int((moment - self.begin) / self.window_seconds)
        for recording in (_of(self.operations, name), _of(self.windows, window)):
            if isinstance(answer, Done):
                recording.add(seconds, answer, in_time=in_time)
            else:
                recording.fail(answer)


def merge(recordings: Sequence[Recording]) -> LoadResult:
    """One result of at least one recording."""
    begin, end = min(each.begin for each in recordings), max(each.end for each in recordings)
    seconds = end - begin
    operations = _joined([each.operations for each in recordings])
    windows = _joined([each.windows for each in recordings])
    total, lateness = OperationRecording(), Histogram()
    for operation in operations.values():
        total.join(operation)
    for recording in recordings:
        lateness.join(recording.lateness)
    return LoadResult(
        begin=begin,
        operations={name: operation.result(seconds) for name, operation in sorted(operations.items())},
        total=total.result(seconds),
        curve=total.latencies.curve(),
        windows=tuple(
            Window(window * recordings[0].window_seconds, found.result(recordings[0].window_seconds))
            for window, found in sorted(windows.items())
        ),
        seconds=seconds,
        tail_seconds=max((end - each.due for each in recordings if each.due is not None), default=0.0),
        cpu_seconds=sum(each.cpu_seconds for each in recordings),
        open_loop=any(each.due is not None for each in recordings),
        lateness=lateness.latency(),
        processes=len(recordings),
        cores=max(each.cores for each in recordings),
    )


def _joined(several: Sequence[Mapping[Key, OperationRecording]]) -> dict[Key, OperationRecording]:
    found: dict[Key, OperationRecording] = {}
    for recordings in several:
        for key, recording in recordings.items():
            _of(found, key).join(recording)
    return found


def _of(recordings: dict[Key, OperationRecording], key: Key) -> OperationRecording:
    # Not by setdefault: a histogram is made in forty microseconds.
    if (found := recordings.get(key)) is None:
        found = recordings[key] = OperationRecording()
    return found
