"""One process's share of a load: when its calls are made and which of them count.

The clock is the event loop's; on one machine all processes have the same.
"""

import asyncio
import itertools
import math
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import grpc

from clipseek.bench.plan import ClosedLoop, Done, Load, OpenLoop, Operation
from clipseek.bench.recording import Recording
from clipseek.errors import ClipseekError

_EARLY = 0.001
"""Seconds. An event loop sleeps whole milliseconds, and rather longer than shorter: up to so much."""

_TIMER_SECONDS = 0.05
"""Between the timers by which a closed loop sees how late it is: too few to cost anything."""


@dataclass(frozen=True, slots=True)
class Share:
    """The part of one of several processes.

    Attributes:
        index: Which of them, from 0.
        of: How many there are.
    """

    index: int = 0
    of: int = 1

    def part(self, total: int) -> int:
        """How many of so many are this one's."""
        return total // self.of + (self.index < total % self.of)


async def run_share(operations: Mapping[str, Operation], load: Load, share: Share, start: float) -> Recording:
    """Make the share's calls, the first at ``start`` on the loop's clock; returns when all are answered."""
    begin = start + load.warmup
    recording = Recording(begin=begin, end=begin + load.seconds, window_seconds=load.window_seconds)
    caller = _Caller(operations, load, share, recording)
    loop = asyncio.get_running_loop()
    cpu: list[float] = []
    timers = [loop.call_at(moment, lambda: cpu.append(time.process_time())) for moment in (begin, recording.end)]
    await _sleep_until(start)
    if isinstance(load.shape, ClosedLoop):
        await caller.closed(load.shape, begin)
    else:
        await caller.open(load.shape, start, begin)
    for timer in timers:
        timer.cancel()
    now = time.process_time()
    # Where the calls came to their end sooner, now is the end of what was measured.
    cpu_at_begin, cpu_at_end = [*cpu, now, now][:2]
    recording.cpu_seconds = cpu_at_end - cpu_at_begin
    return recording


class _Caller:
    def __init__(self, operations: Mapping[str, Operation], load: Load, share: Share, recording: Recording) -> None:
        self._operations = operations
        self._load = load
        self._share = share
        self._recording = recording
        self._names = list(load.mix)
        self._weights = list(itertools.accumulate(load.mix.values()))
        self._random = random.Random(f"{load.seed} {share.index}")  # noqa: S311 -- no secrets here
        self._loop = asyncio.get_running_loop()

    async def closed(self, shape: ClosedLoop, begin: float) -> None:
        """The share's callers, until the time is up or the calls are made."""
        end, numbers = self._recording.end, self._numbers()
        last, last_moment = begin, math.nextafter(end, begin)

        async def call_again_and_again() -> None:
            nonlocal last
            while self._loop.time() < end and (number := next(numbers, None)) is not None:
                since = self._loop.time()
                name, answer = await self._call(number)
                now = self._loop.time()
                if now >= begin:
                    # What ends when the time is up is no part of the rate. Its latency is of the others, though: left
                    # out, a server that stands still would look as fast as before.
                    self._recording.add(name, min(now, last_moment), now - since, answer, in_time=now <= end)
                    last = min(now, end)

        timers = asyncio.create_task(self._note_lateness(begin, end))
        async with asyncio.TaskGroup() as callers:
            for _ in range(self._share.part(shape.callers)):
                callers.create_task(call_again_and_again())
        timers.cancel()
        if self._load.calls is not None:
            self._recording.end = min(end, last)

    async def _note_lateness(self, begin: float, end: float) -> None:
        """How late the loop is for what is due, as in an open loop: an answer waits for its turn as long."""
        for number in itertools.count(1):
            if (due := begin + number * _TIMER_SECONDS) >= end:
                break
            await _sleep_until(due - _EARLY)
            self._recording.lateness.add(max(0.0, self._loop.time() - due))

    async def open(self, shape: OpenLoop, start: float, begin: float) -> None:
        """The share's calls, each when it is due, whether or not those before it are answered."""
        end, numbers = self._recording.end, self._numbers()
        self._recording.due = end

        async def call(number: int, due: float) -> None:
            begun = self._loop.time()
            name, answer = await self._call(number)
            if due >= begin:
                now = self._loop.time()
                self._recording.add(name, due, now - min(due, begun), answer)
                self._recording.lateness.add(max(0.0, begun - due))
                self._recording.end = max(self._recording.end, now)

        async with asyncio.TaskGroup() as calls:
            for number, due in zip(numbers, self._arrivals(shape, start), strict=False):
                if due >= end:
                    break
                await _sleep_until(due - _EARLY)
                calls.create_task(call(number, due))

    def _arrivals(self, shape: OpenLoop, start: float) -> Iterator[float]:
        """When the share's calls are due. Of Poisson's arrivals a part, and parts together, are Poisson's again."""
        if shape.arrivals == "constant":
            for count in itertools.count():
                yield start + (count * self._share.of + self._share.index) / shape.rate
        gaps = random.Random(f"{self._load.seed} {self._share.index} arrivals")  # noqa: S311 -- no secrets here
        due = start
        while True:
            due += gaps.expovariate(shape.rate / self._share.of)
            yield due

    def _numbers(self) -> Iterator[int]:
        numbers = itertools.count(self._load.first + self._share.index, self._share.of)
        return numbers if self._load.calls is None else itertools.islice(numbers, self._share.part(self._load.calls))

    async def _call(self, number: int) -> tuple[str, Done | str]:
        """Which operation it was, and what came of it: an error as its status."""
        (name,) = self._random.choices(self._names, cum_weights=self._weights)
        try:
            return name, await self._operations[name](number)
        except Exception as error:
            return name, status_of(error)


def status_of(error: Exception) -> str:
    """What an error counts as: its gRPC status, or what kind of exception it is."""
    if isinstance(error, ClipseekError):
        return str(error.code.name)
    if isinstance(error, grpc.aio.AioRpcError):
        return str(error.code().name)
    return type(error).__name__


async def _sleep_until(moment: float) -> None:
    loop = asyncio.get_running_loop()
    # Also when it is too late already: those that wait for an answer must get their turn.
    await asyncio.sleep(max(0.0, moment - loop.time()))
