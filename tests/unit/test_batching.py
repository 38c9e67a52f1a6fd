import asyncio
import gc
import itertools
import math
import random
import time
from collections.abc import Callable, Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import virtual_time
from clipseek_server import batching, metrics, telemetry
from clipseek_server.batching import BULK_TURN, Batcher
from clipseek_server.errors import DeadlineExceeded, NotServing, Overloaded
from clipseek_server.telemetry import Call, Stage


class Runner:
    """Records batches; each waits for a permit, so that a test decides when the runner is free."""

    def __init__(self) -> None:
        self.batches: list[list[object]] = []
        self.permits = asyncio.Semaphore(0)
        self.busy = asyncio.Event()

    async def __call__(self, items):
        self.batches.append(list(items))
        self.busy.set()
        await self.permits.acquire()
        self.busy.clear()
        return [f"ran {item}" for item in items]

    def free(self, batches: int = 1_000) -> None:
        for _ in range(batches):
            self.permits.release()


@pytest.fixture
def runner() -> Runner:
    return Runner()


def make(runner, **settings) -> Batcher[object, str]:
    return Batcher("test", runner, **{"max_batch": 4, "max_queue": 8, "stage": Stage.INFERENCE} | settings)


def submit_all(batcher, items, call=None) -> list[asyncio.Task[str]]:
    return [asyncio.create_task(batcher.submit(item, call or Call())) for item in items]


async def one_runs(batcher, runner) -> list[asyncio.Task[str]]:
    """Of "a", until the runner is let go on."""
    running = submit_all(batcher, ["a"])
    await runner.busy.wait()
    return running


async def one_runs_and_one_waits(batcher, runner) -> list[asyncio.Task[str]]:
    """Of "a" and "b"; the latter is the first in the queue."""
    running = await one_runs(batcher, runner)
    waiting = submit_all(batcher, ["b"])
    await asyncio.sleep(0)
    return running + waiting


async def test_what_waits_becomes_one_batch_in_order(runner):
    batcher = make(runner)
    first = submit_all(batcher, ["a"])
    await runner.busy.wait()
    rest = submit_all(batcher, ["b", "c", "d", "e", "f"])
    await asyncio.sleep(0)
    runner.free()
    assert await asyncio.gather(*first, *rest) == [f"ran {item}" for item in "abcdef"]
    assert runner.batches == [["a"], ["b", "c", "d", "e"], ["f"]]


async def test_a_full_queue_refuses_interactive_items_and_takes_bulk_ones(runner):
    batcher = make(runner, max_queue=2)
    running = await one_runs(batcher, runner)
    waiting = submit_all(batcher, ["b", "c"])
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await batcher.submit("d", Call())
    bulk = submit_all(batcher, ["e"], Call(bulk=True))
    runner.free()
    assert await asyncio.gather(*running, *waiting, *bulk) == ["ran a", "ran b", "ran c", "ran e"]


async def test_an_item_whose_caller_has_gone_makes_room_and_is_not_run(runner):
    batcher = make(runner, max_queue=1)
    running = await one_runs(batcher, runner)
    gone = submit_all(batcher, ["b"])[0]
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    next_one = submit_all(batcher, ["c"])
    runner.free()
    await asyncio.gather(*running, *next_one)
    assert runner.batches == [["a"], ["c"]]


async def test_an_expired_item_is_refused_at_once_or_dropped_before_its_run(runner):
    batcher = make(runner)
    with pytest.raises(DeadlineExceeded):
        await batcher.submit("late", Call(deadline=time.monotonic() - 1))
    running = await one_runs(batcher, runner)
    call = Call(deadline=time.monotonic() + 1000)
    expiring = submit_all(batcher, ["b"], call)
    await asyncio.sleep(0)
    call.deadline = time.monotonic() - 1
    runner.free()
    with pytest.raises(DeadlineExceeded):
        await expiring[0]
    await running[0]
    assert runner.batches == [["a"]]


async def test_interactive_goes_first_and_bulk_gets_one_batch_in_eight(runner):
    batcher = make(runner, max_batch=1, max_queue=100)
    running = submit_all(batcher, ["first"])
    await runner.busy.wait()
    bulk = submit_all(batcher, ["bulk 1", "bulk 2"], Call(bulk=True))
    interactive = submit_all(batcher, range(20))
    await asyncio.sleep(0)
    runner.free()
    await asyncio.gather(*running, *bulk, *interactive)
    order = [batch[0] for batch in runner.batches]
    assert order.index("bulk 1") == BULK_TURN
    assert order.index("bulk 2") == 2 * BULK_TURN
    assert [item for item in order if isinstance(item, int)] == list(range(20))


async def test_the_classes_never_share_a_batch(runner):
    batcher = make(runner)
    running = await one_runs(batcher, runner)
    rest = submit_all(batcher, ["b"]) + submit_all(batcher, ["c", "d"], Call(bulk=True)) + submit_all(batcher, ["e"])
    await asyncio.sleep(0)
    runner.free()
    await asyncio.gather(*running, *rest)
    assert runner.batches == [["a"], ["b", "e"], ["c", "d"]]


async def test_one_that_may_not_join_is_first_in_the_next_batch(runner):
    batcher = make(runner, may_join=lambda batch, item: item not in batch)
    running = await one_runs(batcher, runner)
    rest = submit_all(batcher, ["b", "c", "b", "d"])
    await asyncio.sleep(0)
    runner.free()
    await asyncio.gather(*running, *rest)
    assert runner.batches == [["a"], ["b", "c"], ["b", "d"]]


async def test_an_exception_among_the_results_fails_its_item_alone():
    async def run(items):
        return [ValueError(item) if item == "bad" else item for item in items]

    batcher: Batcher[str, str] = Batcher("test", run, max_batch=4, max_queue=8, stage=Stage.INDEX)
    good, bad = submit_all(batcher, ["good", "bad"])
    assert await good == "good"
    with pytest.raises(ValueError, match="bad"):
        await bad


@pytest.mark.parametrize("answer", [RuntimeError("broken"), ["too", "many", "results"]])
async def test_a_run_that_fails_fails_its_batch_and_the_next_one_runs(answer):
    answers = [answer, ["fine"]]

    async def run(items):
        result = answers.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    batcher: Batcher[str, str] = Batcher("test", run, max_batch=1, max_queue=8, stage=Stage.INDEX)
    with pytest.raises(RuntimeError):
        await batcher.submit("a", Call())
    assert await batcher.submit("b", Call()) == "fine"


async def test_waiting_and_running_are_timed():
    async def run(items):
        return items

    batcher: Batcher[str, str] = Batcher("test", run, max_batch=1, max_queue=8, stage=Stage.INDEX)
    call = Call()
    await batcher.submit("a", call)
    assert set(call.seconds) == {Stage.QUEUE, Stage.INDEX}


async def test_a_stage_of_many_items_is_the_time_in_which_one_of_them_was_in_it(clock, runner):
    batcher, call = make(runner, max_batch=2), Call()
    items = submit_all(batcher, range(6), call)
    for _ in range(3):
        await runner.busy.wait()
        runner.busy.clear()
        clock.now += 10.0
        runner.free(1)
    await asyncio.gather(*items)
    clock.now += 5.0
    assert call.elapsed == 35.0
    assert call.seconds == {Stage.QUEUE: 20.0, Stage.INFERENCE: 30.0}


async def test_what_waits_still_is_told_and_what_was_dropped_waits_no_more(clock, runner):
    batcher, call = make(runner, max_batch=1), Call(deadline=1015.0)
    running, waiting = submit_all(batcher, ["a", "b"], call)
    await runner.busy.wait()
    clock.now += 10.0
    assert call.seconds == {Stage.QUEUE: 10.0, Stage.INFERENCE: 10.0}
    clock.now += 10.0
    runner.free()
    await running
    with pytest.raises(DeadlineExceeded):
        await waiting
    clock.now += 10.0
    assert call.seconds == {Stage.QUEUE: 20.0, Stage.INFERENCE: 20.0}


async def test_closing_finishes_what_waits_and_takes_nothing_new(runner):
    batcher = make(runner)
    tasks = submit_all(batcher, ["a", "b", "c", "d", "e"])
    await runner.busy.wait()
    closing = asyncio.create_task(batcher.close())
    await asyncio.sleep(0)
    with pytest.raises(NotServing):
        await batcher.submit("f", Call())
    runner.free()
    await closing
    assert await asyncio.gather(*tasks) == [f"ran {item}" for item in "abcde"]


async def test_nothing_is_lost_doubled_or_leaked_over_many_items():
    async def run(items):
        await asyncio.sleep(0)
        return items

    batcher: Batcher[int, int] = Batcher("test", run, max_batch=7, max_queue=100_000, stage=Stage.INFERENCE, workers=3)
    calls = [Call(), Call(bulk=True)]
    tasks = [asyncio.create_task(batcher.submit(item, calls[item % 2])) for item in range(20_000)]
    for task in tasks[::10]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for item, result in enumerate(results):
        assert isinstance(result, asyncio.CancelledError) if item % 10 == 0 else result == item
    assert batcher.waiting == 0


class Clock:
    """Time that passes when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(telemetry, "now", lambda: self.now)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return Clock(monkeypatch)


def timed(clock: Clock, batches: list[list[float]], seconds: Callable[[Sequence[float]], float] = sum):
    """A run that takes so many seconds; by default as many as the sum of its items."""

    async def run(items):
        batches.append(list(items))
        await asyncio.sleep(0)
        clock.now += seconds(items)
        return items

    return run


async def late_of_a_burst(batcher, count: int, seconds: float) -> list[DeadlineExceeded]:
    """What those of so many items get, submitted at once, that are not answered within so many seconds."""
    waiting = submit_all(batcher, range(count), Call(deadline=telemetry.now() + seconds))
    results = await asyncio.gather(*waiting, return_exceptions=True)
    return [result for result in results if isinstance(result, DeadlineExceeded)]


async def test_a_batch_takes_no_longer_than_it_may_at_the_measured_pace(clock):
    batches: list[list[float]] = []
    batcher = make(timed(clock, batches), max_batch=100, max_queue=100, weigh=float, max_seconds=10.0)
    await asyncio.gather(*submit_all(batcher, [1.0] * 30))
    assert [len(batch) for batch in batches] == [30]  # nothing is known yet
    batches.clear()
    await asyncio.gather(*submit_all(batcher, [1.0] * 25 + [50.0]))
    assert [len(batch) for batch in batches] == [10, 10, 5, 1]  # what is too long by itself runs alone


async def test_the_pace_follows_the_machine(clock):
    factor = 1.0

    async def run(items):
        clock.now += factor * len(items)
        return items

    sizes: list[int] = []

    async def counted(items):
        sizes.append(len(items))
        return await run(items)

    batcher = make(counted, max_batch=100, max_queue=100, max_seconds=10.0)
    await asyncio.gather(*submit_all(batcher, range(40)))
    factor = 5.0
    for _ in range(4):
        await asyncio.gather(*submit_all(batcher, range(10)))
    sizes.clear()
    await asyncio.gather(*submit_all(batcher, range(10)))
    assert sizes[0] < 5


async def test_what_cannot_be_in_time_is_refused_at_once(clock, runner):
    batcher = make(runner, max_batch=1, max_queue=100)
    running = await one_runs(batcher, runner)
    clock.now += 10.0  # "a" takes ten seconds
    runner.free(1)
    await running[0]
    running = submit_all(batcher, ["b"])
    await runner.busy.wait()

    waiting = submit_all(batcher, ["c"], Call(deadline=clock.now + 5.0))  # the first in the queue: let it try
    await asyncio.sleep(0)
    with pytest.raises(DeadlineExceeded, match="1 wait for the test"):
        await batcher.submit("d", Call(deadline=clock.now + 25.0))  # "b", "c" and "d" take thirty seconds
    waiting += submit_all(batcher, ["e"], Call(deadline=clock.now + 30.0)) + submit_all(batcher, ["f"], Call())
    await asyncio.sleep(0)
    with pytest.raises(DeadlineExceeded):  # what bulk waits for is not what others wait for
        await batcher.submit("g", Call(deadline=clock.now + 35.0))
    waiting += submit_all(batcher, ["h"], Call(deadline=clock.now + 15.0, bulk=True))
    runner.free()
    await asyncio.gather(*running, *waiting)
    assert runner.batches == [["a"], ["b"], ["c"], ["e"], ["f"], ["h"]]


async def test_what_is_dead_is_not_waited_for(clock, runner):
    batcher = make(runner, max_batch=1, max_queue=100)
    batcher.learn(["a"], 1.0)
    running = await one_runs(batcher, runner)
    gone = submit_all(batcher, range(20))
    late = submit_all(batcher, "bcde", Call(deadline=clock.now + 0.9))
    await asyncio.sleep(0)
    for task in gone:
        task.cancel()
    await asyncio.wait(gone)
    clock.now += 0.9
    waiting = submit_all(batcher, ["x"], Call(deadline=clock.now + 1.5))
    await asyncio.sleep(0)
    waiting += submit_all(batcher, ["y"], Call(deadline=clock.now + 2.2))
    await asyncio.sleep(0)
    with pytest.raises(DeadlineExceeded, match="2 wait for the test"):
        await batcher.submit("z", Call(deadline=clock.now + 2.2))
    runner.free()
    assert await asyncio.gather(*running, *waiting) == ["ran a", "ran x", "ran y"]
    assert all(isinstance(each, DeadlineExceeded) for each in await asyncio.gather(*late, return_exceptions=True))


async def test_how_long_a_run_goes_on_already_counts(clock, runner):
    batcher = make(runner, max_batch=1)
    batcher.learn(["a"], 10.0)
    waiting = await one_runs_and_one_waits(batcher, runner)
    with pytest.raises(DeadlineExceeded):
        await batcher.submit("c", Call(deadline=clock.now + 29.0))
    clock.now += 6.0
    waiting += submit_all(batcher, ["d"], Call(deadline=clock.now + 24.0))
    await asyncio.sleep(0)
    runner.free()
    await asyncio.gather(*waiting)


async def test_few_are_not_taken_for_as_slow_as_many(clock, runner):
    """When only runs of many are remembered, as after a rush."""
    batcher = make(runner, max_batch=64, max_queue=100)
    batcher.learn(range(64), 6.4)
    waiting = await one_runs_and_one_waits(batcher, runner)
    waiting += submit_all(batcher, ["c"], Call(deadline=clock.now + 0.5))
    await asyncio.sleep(0)
    with pytest.raises(DeadlineExceeded):
        await batcher.submit("d", Call(deadline=clock.now + 0.35))
    runner.free()
    assert await asyncio.gather(*waiting) == ["ran a", "ran b", "ran c"]


async def test_a_run_of_another_worker_keeps_nobody_waiting_while_one_is_free(clock, runner):
    batcher = make(runner, max_batch=1, workers=2)
    batcher.learn(["a"], 10.0)
    waiting = await one_runs(batcher, runner)
    waiting += submit_all(batcher, ["b", "c"], Call(deadline=clock.now + 11.0))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    with pytest.raises(DeadlineExceeded):
        async with asyncio.timeout(10):
            await batcher.submit("d", Call(deadline=clock.now + 19.0))
    runner.free()
    assert await asyncio.gather(*waiting) == ["ran a", "ran b", "ran c"]


async def test_what_is_being_prepared_comes_before_what_asks_for_a_place_later(clock, runner):
    batcher = make(runner, max_batch=1, max_queue=3)
    batcher.learn(["a"], 10.0)
    waiting = await one_runs_and_one_waits(batcher, runner)
    deadline = clock.now + 35.0
    with batcher.place(Call(deadline=deadline)):
        with pytest.raises(DeadlineExceeded, match="2 wait for the test"), batcher.place(Call(deadline=deadline)):
            pass
        waiting += submit_all(batcher, ["bulk"], Call(bulk=True))
        await asyncio.sleep(0)
        with batcher.place(Call(deadline=deadline, bulk=True)):
            pass
        waiting += submit_all(batcher, ["c"], Call(deadline=deadline))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded), batcher.place(Call()):
            pass
    with batcher.place(Call()):
        pass
    runner.free()
    assert await asyncio.gather(*waiting) == ["ran a", "ran b", "ran bulk", "ran c"]


async def test_the_worker_that_is_free_first_runs_what_comes_next(clock, runner):
    batcher = make(runner, max_batch=1, workers=2)
    batcher.learn(["a"], 10.0)
    waiting = await one_runs(batcher, runner)
    clock.now += 9.0
    waiting += submit_all(batcher, ["b", "c"])
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting += submit_all(batcher, ["d"], Call(deadline=clock.now + 11.5))
    await asyncio.sleep(0)
    runner.free()
    assert await asyncio.gather(*waiting) == ["ran a", "ran b", "ran c", "ran d"]


async def test_one_for_whom_a_batch_has_no_room_waits_for_another_run(clock, runner):
    batcher = make(runner, max_batch=2)
    for count in (1, 2):
        batcher.learn(range(count), 1.0)
    waiting = await one_runs_and_one_waits(batcher, runner)
    waiting += submit_all(batcher, ["c"], Call(deadline=clock.now + 2.5))
    await asyncio.sleep(0)
    with pytest.raises(DeadlineExceeded, match="2 wait for the test"):
        await batcher.submit("d", Call(deadline=clock.now + 2.9))
    runner.free()
    assert await asyncio.gather(*waiting) == ["ran a", "ran b", "ran c"]


async def test_no_run_takes_less_than_its_share_of_a_larger_one(clock, runner):
    batcher = make(runner, max_batch=16)
    for count, seconds in ((8, 0.1), (16, 0.4)):
        batcher.learn(range(count), seconds)
    waiting = await one_runs_and_one_waits(batcher, runner)
    with pytest.raises(DeadlineExceeded, match="1 wait for the test"):
        await batcher.submit("c", Call(deadline=clock.now + 0.07))
    runner.free()
    await asyncio.gather(*waiting)


@pytest.fixture
def virtual_clock(monkeypatch) -> None:
    monkeypatch.setattr(telemetry, "now", lambda: asyncio.get_running_loop().time())


@pytest.mark.usefixtures("virtual_clock")
def test_a_wrong_estimate_mends_itself_while_batches_fill_up():
    """Two items of one call, of which neither is run if the other is refused."""

    async def run(items):
        await asyncio.sleep(0.01 * len(items))
        return items

    async def both(batcher) -> None:
        async with asyncio.TaskGroup() as group:
            for item in "ab":
                group.create_task(batcher.submit(item, Call(deadline=telemetry.now() + 2.0)))

    async def calls() -> None:
        batcher = make(run, max_batch=8, delay=0.005)
        batcher.learn([0.0], 30.0)
        await asyncio.wait([asyncio.create_task(both(batcher))])
        await asyncio.sleep(1.0)  # one of them is run
        for _ in range(100):
            await both(batcher)

    virtual_time.run(calls())


class OpenLoop:
    """Calls that come at random times, with one timeout for all, while each run takes so much and so much an item."""

    def __init__(self, fixed: float, each: float, *, noise: float = 0.0, **settings) -> None:
        self.ran = 0
        self._seconds = lambda count: fixed + each * count
        self._noise = noise
        self._random = random.Random(0)
        self._batcher = make(self._run, max_queue=1000, in_order=False, max_seconds=0.2, **settings)
        for count in (1, 8):
            self._batcher.learn([0.0] * count, self._seconds(count))

    async def _run(self, items):
        self.ran += len(items)
        await asyncio.sleep(self._seconds(len(items)) * (1 + self._noise * self._random.uniform(-1, 1)))
        return items

    async def _call(self, deadline: float) -> bool:
        try:
            async with asyncio.timeout_at(deadline):  # as gRPC cancels it
                await self._batcher.submit(0, Call(deadline=deadline))
        except (DeadlineExceeded, TimeoutError):
            return False
        return True

    async def answered(self, rate: float, seconds: float, allowed: float) -> int:
        """How many are answered in the time that each is allowed, of so many a second for so many seconds."""
        calls = []
        for _ in range(round(rate * seconds)):
            calls.append(asyncio.create_task(self._call(telemetry.now() + allowed)))
            await asyncio.sleep(self._random.expovariate(rate))
        return sum(await asyncio.gather(*calls))


@pytest.mark.usefixtures("virtual_clock")
@pytest.mark.parametrize(
    ("load", "timeout", "noise"), [(1.2, 1.0, 0.0), (2.0, 1.0, 0.0), (2.0, 2.0, 0.0), (2.0, 1.0, 0.2), (4.0, 1.0, 0.0)]
)
def test_under_overload_what_is_run_is_in_time_and_the_runner_is_not_idle(load, timeout, noise):
    """As an int8 picture tower's; none may be late because of those that came later and joined its batch."""
    capacity = 12 / (0.006 + 0.0148 * 12)

    async def overload() -> tuple[int, int]:
        calls = OpenLoop(0.006, 0.0148, noise=noise, max_batch=32)
        return await calls.answered(load * capacity, 10.0, timeout), calls.ran

    in_time, ran = virtual_time.run(overload())
    assert in_time > 0.9 * ran
    assert in_time > 0.9 * 10 * capacity


@pytest.mark.usefixtures("virtual_clock")
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_batches_stay_large_enough_where_a_run_costs_much_however_small_it_is(noise):
    """And an overload is over when it is over: those that wait then are not served in small batches for ever."""
    capacity, timeout = 64 / (0.008 + 0.0005 * 64), 0.1

    async def loads() -> list[float]:
        calls = OpenLoop(0.008, 0.0005, noise=noise, max_batch=64)
        return [
            await calls.answered(load * capacity, 2.0, timeout) / (min(load, 1.0) * capacity * 2.0)
            for load in (0.9, 2.0, 0.6, 0.9)
        ]

    nearly_full, overload, *after = virtual_time.run(loads())
    assert min(nearly_full, *after) > 0.98
    assert overload > (0.85 if noise else 0.98)


async def test_who_would_be_late_in_its_batch_makes_room_for_others(clock, runner):
    batcher = make(runner, max_batch=4)
    for count in (1, 4):
        batcher.learn(range(count), float(count))
    running = await one_runs(batcher, runner)
    late = submit_all(batcher, ["b", "c"], Call(deadline=clock.now + 3.5))
    waiting = submit_all(batcher, "defghi")
    await asyncio.sleep(0)
    runner.free()
    assert await asyncio.gather(*running, *waiting) == [f"ran {item}" for item in "adefghi"]
    assert runner.batches == [["a"], ["d", "e", "f", "g"], ["h", "i"]]
    for each in late:
        with pytest.raises(DeadlineExceeded, match="during the run"):
            await each


async def test_where_no_others_wait_only_as_many_are_dropped_as_make_the_rest_late(clock, runner):
    batcher = make(runner, max_batch=8)
    for count in (1, 8):
        batcher.learn(range(count), float(count))
    running = await one_runs(batcher, runner)
    waiting = []
    for item, seconds in {"b": 4.5, "c": 4.3, "d": 4.5, "e": 20.0, "f": 20.0}.items():
        waiting += submit_all(batcher, [item], Call(deadline=clock.now + seconds))
    await asyncio.sleep(0)
    runner.free()
    results = await asyncio.gather(*running, *waiting, return_exceptions=True)
    assert runner.batches == [["a"], ["b", "d", "e", "f"]]
    assert [isinstance(result, DeadlineExceeded) for result in results] == [False, False, True, False, False, False]


async def test_no_more_are_dropped_than_make_the_others_late(clock, runner):
    batcher = make(runner, max_batch=4)
    for count in (1, 4):
        batcher.learn(range(count), float(count))
    running = await one_runs(batcher, runner)
    waiting = []
    for item, seconds in {"b": 1.5, "c": 1.5, "d": 1.5, "e": 3.5, "f": 3.7, "g": 20.0, "h": 20.0}.items():
        waiting += submit_all(batcher, [item], Call(deadline=clock.now + 10.0 + seconds))
    await asyncio.sleep(0)
    clock.now += 10.0
    runner.free()
    await asyncio.gather(*running, *waiting, return_exceptions=True)
    assert runner.batches == [["a"], ["f", "g", "h"]]


async def test_one_that_would_be_late_alone_makes_room_too(clock, runner):
    batcher = make(runner, max_batch=1)
    batcher.learn(["a"], 10.0)
    running = await one_runs(batcher, runner)
    late = submit_all(batcher, ["b"], Call(deadline=clock.now + 19.0))
    waiting = submit_all(batcher, ["c"])
    await asyncio.sleep(0)
    clock.now += 10.0
    runner.free()
    await asyncio.gather(*running, *waiting)
    assert runner.batches == [["a"], ["c"]]
    with pytest.raises(DeadlineExceeded, match="during the run"):
        await late[0]


async def test_a_long_queue_of_late_ones_is_gone_through_once(clock, runner, monkeypatch):
    asked, is_wanted = 0, batching._Waiting.is_wanted

    def count(waiting, now) -> bool:
        nonlocal asked
        asked += 1
        return is_wanted(waiting, now)

    batcher = make(runner, max_batch=128, max_queue=4096, may_join=lambda *_: False)
    running = await one_runs(batcher, runner)
    late = submit_all(batcher, range(1000), Call(deadline=clock.now + 11.0))
    last = submit_all(batcher, ["last"])
    await asyncio.sleep(0)
    clock.now += 10.0  # "a" takes as long
    monkeypatch.setattr(batching._Waiting, "is_wanted", count)
    runner.free()
    assert await asyncio.gather(*running, *last) == ["ran a", "ran last"]
    assert runner.batches == [["a"], ["last"]]
    assert all(isinstance(each, DeadlineExceeded) for each in await asyncio.gather(*late, return_exceptions=True))
    assert asked < 10 * 1001


async def test_a_deadline_may_pass_while_a_batch_is_formed(clock, runner, monkeypatch):
    late = Batcher._late

    def slow(batcher, batch, now):
        clock.now += 1.0
        return late(batcher, batch, now)

    batcher = make(runner, max_batch=2)
    running = await one_runs(batcher, runner)
    interactive = submit_all(batcher, "bcde", Call(deadline=clock.now + 10.5))
    bulk = submit_all(batcher, ["f"], Call(bulk=True))
    await asyncio.sleep(0)
    clock.now += 10.0  # "a" takes as long
    monkeypatch.setattr(Batcher, "_late", slow)
    runner.free()
    async with asyncio.timeout(10):
        results = await asyncio.gather(*running, *bulk, *interactive, return_exceptions=True)
    assert results[:2] == ["ran a", "ran f"]
    assert [isinstance(result, DeadlineExceeded) for result in results[2:]] == [True, True, True, False]
    assert batcher.waiting == 0


async def test_the_last_one_is_run_though_it_would_be_late(clock, runner):
    """Otherwise an estimate that is wrong would never be mended. Who has gone does not count."""
    batcher = make(runner, max_batch=2)
    batcher.learn(["a"], 1000.0)
    running = await one_runs(batcher, runner)
    waiting = submit_all(batcher, ["b"], Call(deadline=clock.now + 1500.0))
    gone = submit_all(batcher, "cd")
    await asyncio.sleep(0)
    for task in gone:
        task.cancel()
    clock.now += 1000.0
    runner.free()
    await asyncio.gather(*running, *waiting)
    assert runner.batches == [["a"], ["b"]]


async def test_a_wrong_estimate_mends_itself(clock, runner):
    """However slow the last run was: the queue runs empty, and the first one after it is always let in."""
    batcher = make(runner, max_batch=1)
    first = submit_all(batcher, ["a"])
    await runner.busy.wait()
    clock.now += 1e6
    runner.free()
    await first[0]
    for item in range(200):
        assert await batcher.submit(item, Call(deadline=clock.now + 1.0)) == f"ran {item}"
    assert batcher._pace.seconds(1.0) < 0.01


async def test_what_goes_together_is_in_time_together(clock):
    """A read of a Milvus server takes as long for one id as for many."""
    batcher = make(timed(clock, [], lambda _: 0.2), max_batch=128, max_queue=128)
    for item in range(3):
        await batcher.submit(item, Call())
    waiting = submit_all(batcher, range(64), Call(deadline=clock.now + 1.0))
    assert await asyncio.gather(*waiting) == list(range(64))


@pytest.mark.parametrize(
    ("fixed", "each", "sizes", "deadline", "least", "most"),
    [
        pytest.param(0.01, 0.05, [1, 4], 1.0, 15, 19, id="runs of two sizes are known"),
        pytest.param(0.01, 0.05, [3] * 400, 1.0, 15, 25, id="one size, as under saturation"),
        pytest.param(0.0, 1.0, [1], 3.0, 3, 3, id="one alone takes longer than a batch may"),
        pytest.param(0.3, 1.0, [1, 2], 13.0, 10, 10, id="the same, by two sizes"),
    ],
)
async def test_of_a_burst_those_are_refused_that_batches_cannot_reach_in_time(
    clock, fixed, each, sizes, deadline, least, most
):
    """As a picture tower's: a little for each run, and much for each picture."""
    batches: list[list[float]] = []
    run = timed(clock, batches, lambda items: fixed + each * len(items))
    batcher = make(run, max_batch=32, max_queue=100, max_seconds=0.2)
    for count in sizes:
        batcher.learn([0.0] * count, fixed + each * count)
    late = await late_of_a_burst(batcher, 64, deadline)
    refused = [error for error in late if "wait for the test already" in str(error)]
    assert least <= 64 - len(refused) <= most
    assert sum(map(len, batches)) >= least


async def test_what_overtakes_does_not_wait_for_what_it_overtakes(clock, runner):
    """A short text goes along with the short one that is the next, whatever long ones wait behind that."""
    batcher = make(
        runner, max_queue=100, weigh=len, in_order=False, may_join=lambda batch, text: len(text) == len(batch[0])
    )
    batcher.learn(["a"], 1.0)
    batcher.learn(["a"] * 4, 4.0)
    waiting = submit_all(batcher, ["running"])
    await runner.busy.wait()
    waiting += submit_all(batcher, ["a", *["long" * 10] * 10])
    await asyncio.sleep(0)
    waiting += submit_all(batcher, ["b"], Call(deadline=clock.now + 9.5))  # with what runs
    await asyncio.sleep(0)
    with pytest.raises(DeadlineExceeded, match="11 wait for the test"):
        await batcher.submit("long" * 10, Call(deadline=clock.now + 400.0))
    runner.free()
    await asyncio.gather(*waiting)
    assert runner.batches[1] == ["a", "b"]


async def test_what_small_runs_take_by_now_counts_for_larger_ones_too(clock, runner):
    batcher = make(runner, max_batch=16)
    batcher.learn([0.0] * 16, 0.2)
    for _ in range(20):
        batcher.learn([0.0], 10.0)  # the machine has become slower since
    waiting = await one_runs_and_one_waits(batcher, runner)
    with pytest.raises(DeadlineExceeded, match="1 wait for the test"):
        await batcher.submit("c", Call(deadline=clock.now + 5.0))
    runner.free()
    await asyncio.gather(*waiting)


async def test_a_small_run_that_stalled_is_no_measure_of_later_ones(clock, runner):
    batcher = make(runner, max_batch=16)
    batcher.learn([0.0], 100.0)
    batcher.learn([0.0] * 16, 0.2)
    waiting = await one_runs_and_one_waits(batcher, runner)
    waiting += submit_all(batcher, ["c"], Call(deadline=clock.now + 1.0))
    await asyncio.sleep(0)
    runner.free()
    assert await asyncio.gather(*waiting) == ["ran a", "ran b", "ran c"]


async def test_a_size_that_was_slow_once_is_forgotten(clock):
    batcher = make(timed(clock, [], lambda _: 0.01), max_batch=64, max_queue=64)
    batcher.learn([0.0] * 64, 1e6)
    for item in range(5):
        await batcher.submit(item, Call())
    assert len(await late_of_a_burst(batcher, 64, 1.0)) > 50
    for item in range(30):
        await batcher.submit(item, Call())
    assert await late_of_a_burst(batcher, 64, 1.0) == []


async def test_one_run_that_stalled_does_not_keep_others_out(clock):
    seconds = 0.2
    batcher = make(timed(clock, [], lambda _: seconds), max_batch=64, max_queue=64)
    for count in (1, 64) * 3:
        assert await late_of_a_burst(batcher, count, 1.0) == []
    seconds = 5.0
    await asyncio.gather(*submit_all(batcher, range(64)))
    seconds = 0.2
    for _ in range(3):
        assert await late_of_a_burst(batcher, 64, 0.5) == []


async def test_others_may_overtake_what_does_not_fit_where_order_is_no_matter(runner):
    """Short and long texts: the longest waiting one leads each batch, and takes its like along."""
    batcher = make(runner, max_batch=3, in_order=False, may_join=lambda batch, item: len(item) == len(batch[0]))
    running = submit_all(batcher, ["-"])
    await runner.busy.wait()
    rest = submit_all(batcher, ["a", "bbb", "c", "dd", "e", "fff", "g"])
    await asyncio.sleep(0)
    runner.free()
    await asyncio.gather(*running, *rest)
    assert runner.batches == [["-"], ["a", "c", "e"], ["bbb", "fff"], ["dd"], ["g"]]


async def test_a_free_runner_waits_for_more_if_told_to():
    batches: list[list[int]] = []

    async def run(items):
        batches.append(list(items))
        return items

    batcher: Batcher[int, int] = Batcher("test", run, max_batch=3, max_queue=8, stage=Stage.INFERENCE, delay=1000.0)
    first = submit_all(batcher, [1])
    for _ in range(10):
        await asyncio.sleep(0)
    assert batches == []
    rest = submit_all(batcher, [2, 3])  # full: runs at once
    await asyncio.gather(*first, *rest)
    last = submit_all(batcher, [4])
    await asyncio.sleep(0)
    await batcher.close()
    assert [*batches, *(await asyncio.gather(*last))] == [[1, 2, 3], [4], 4]

    brief: Batcher[int, int] = Batcher("test", run, max_batch=3, max_queue=8, stage=Stage.INFERENCE, delay=0.01)
    assert await brief.submit(5, Call()) == 5


class BatcherMachine(RuleBasedStateMachine):
    """Whatever comes, goes, expires and fails: each item is run at most once, answered exactly once, in bounds."""

    workers = 1
    in_order = True

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.batches: list[list[int]] = []
        self.permits: list[asyncio.Future[bool]] = []
        self.tasks: dict[int, asyncio.Task[int]] = {}
        self.calls: dict[int, Call] = {}
        self.cancelled: set[int] = set()
        self.failed: set[int] = set()
        self.length = self.queue_length()
        self.batcher: Batcher[int, int] = self.loop.run_until_complete(self.make())

    @staticmethod
    def queue_length() -> float:
        return metrics.QUEUE_LENGTH.labels("test")._value.get()

    async def make(self) -> Batcher[int, int]:
        return Batcher(
            "test",
            self.run_batch,
            max_batch=3,
            max_queue=5,
            stage=Stage.INFERENCE,
            workers=self.workers,
            may_join=self.may_join,
            in_order=self.in_order,
        )

    def may_join(self, batch, item) -> bool:
        return True

    async def run_batch(self, items):
        self.batches.append(list(items))
        permit = self.loop.create_future()
        self.permits.append(permit)
        if not await permit:
            self.failed |= {*items}
            raise RuntimeError("broken")
        return [-item for item in items]

    def turn(self) -> None:
        async def turns() -> None:
            for _ in range(8):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())

    @rule(bulk=st.booleans(), hurry=st.booleans())
    def submit(self, bulk: bool, hurry: bool) -> None:
        number = len(self.tasks)
        self.calls[number] = Call(bulk=bulk, deadline=telemetry.now() + 1000.0 if hurry else None)
        self.tasks[number] = self.loop.create_task(self.batcher.submit(number, self.calls[number]))
        self.turn()

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def cancel(self, data) -> None:
        number = data.draw(st.sampled_from(sorted(self.tasks)))
        if self.tasks[number].cancel():
            self.cancelled.add(number)
        self.turn()

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def expire(self, data) -> None:
        number = data.draw(st.sampled_from(sorted(self.tasks)))
        self.calls[number].deadline = 0.0

    @rule(items=st.integers(1, 3))
    def expect_runs_to_be_slow(self, items: int) -> None:
        self.batcher.learn([0] * items, 1e6)

    @precondition(lambda self: self.permits)
    @rule(well=st.booleans())
    def finish_a_batch(self, well: bool) -> None:
        self.permits.pop(0).set_result(well)
        self.turn()

    @precondition(lambda self: self.permits)
    @rule()
    def finish_the_last_batch(self) -> None:
        self.permits.pop().set_result(True)
        self.turn()

    @invariant()
    def holds(self) -> None:
        ran = [item for batch in self.batches for item in batch]
        assert len(ran) == len({*ran})
        assert all(len(batch) <= 3 for batch in self.batches)
        assert all(len({self.calls[item].bulk for item in batch}) == 1 for batch in self.batches)
        assert all(self.may_join(batch[:1], item) for batch in self.batches for item in batch)
        assert len(self.permits) <= self.workers
        for bulk in (False, True):
            batches = [batch for batch in self.batches if self.calls[batch[0]].bulk is bulk]
            # The one that waits longest leads a batch.
            leaders = [batch[0] for batch in batches]
            assert all(
                leader < min(itertools.chain(*batches[at + 1 :]), default=math.inf) for at, leader in enumerate(leaders)
            )
            order = [item for batch in batches for item in batch]
            assert order == sorted(order) or not self.in_order
        if not self.permits:
            assert self.batcher.waiting == 0

    def teardown(self) -> None:
        while self.permits:
            self.permits.pop(0).set_result(True)
            self.turn()
        ran = {item for batch in self.batches for item in batch}
        for number, task in self.tasks.items():
            assert task.done()
            if task.cancelled():
                assert number in self.cancelled
            elif number in self.failed:
                assert isinstance(task.exception(), RuntimeError)
            elif task.exception() is None:
                assert number in ran
                assert task.result() == -number
            else:
                assert number not in ran
                assert isinstance(task.exception(), DeadlineExceeded | Overloaded)
        assert self.batcher.waiting == 0
        assert self.queue_length() == self.length
        self.loop.close()


test_any_history = BatcherMachine.TestCase
test_any_history.settings = settings(max_examples=100, stateful_step_count=40)


class TowerMachine(BatcherMachine):
    """The same where several batches run, and only items of one kind go together: others are overtaken."""

    workers = 2
    in_order = False

    def may_join(self, batch, item) -> bool:
        return item % 2 == batch[0] % 2


test_any_history_of_several_kinds = TowerMachine.TestCase
test_any_history_of_several_kinds.settings = settings(max_examples=100, stateful_step_count=40)


async def test_bulk_gets_its_share_and_interactive_goes_first_under_load():
    """Both queues are never empty: of any eight batches in a row one is bulk, and no more than that."""
    order: list[bool] = []

    async def run(items):
        order.append(items[0] < 0)
        await asyncio.sleep(0)
        return items

    batcher: Batcher[int, int] = Batcher("test", run, max_batch=4, max_queue=1000, stage=Stage.INFERENCE)
    interactive = submit_all(batcher, range(800))
    bulk = submit_all(batcher, range(-200, 0), Call(bulk=True))
    await asyncio.gather(*interactive, *bulk)
    contested = order[: 200 + 200 // (BULK_TURN - 1)]
    for begin in range(len(contested) - BULK_TURN):
        assert sum(contested[begin : begin + BULK_TURN]) == 1


async def test_nothing_is_kept_after_many_items():
    async def run(items):
        return items

    batcher: Batcher[bytes, bytes] = Batcher("test", run, max_batch=64, max_queue=2000, stage=Stage.INFERENCE)
    await asyncio.gather(*submit_all(batcher, [b""] * 1000))
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(100):
        await asyncio.gather(*submit_all(batcher, [b""] * 1000))
    gc.collect()
    assert len(gc.get_objects()) - before < 1000
    assert batcher._running == []
    assert len(batcher._runs._sizes) <= 7
