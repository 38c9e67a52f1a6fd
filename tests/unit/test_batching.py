import asyncio
import time

import pytest

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
    running = submit_all(batcher, ["a"])
    await runner.busy.wait()
    waiting = submit_all(batcher, ["b", "c"])
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await batcher.submit("d", Call())
    bulk = submit_all(batcher, ["e"], Call(bulk=True))
    runner.free()
    assert await asyncio.gather(*running, *waiting, *bulk) == ["ran a", "ran b", "ran c", "ran e"]


async def test_an_item_whose_caller_has_gone_makes_room_and_is_not_run(runner):
    batcher = make(runner, max_queue=1)
    running = submit_all(batcher, ["a"])
    await runner.busy.wait()
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
    running = submit_all(batcher, ["a"])
    await runner.busy.wait()
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
    running = submit_all(batcher, ["a"])
    await runner.busy.wait()
    rest = submit_all(batcher, ["b"]) + submit_all(batcher, ["c", "d"], Call(bulk=True)) + submit_all(batcher, ["e"])
    await asyncio.sleep(0)
    runner.free()
    await asyncio.gather(*running, *rest)
    assert runner.batches == [["a"], ["b", "e"], ["c", "d"]]


async def test_one_that_may_not_join_is_first_in_the_next_batch(runner):
    batcher = make(runner, may_join=lambda batch, item: item not in batch)
    running = submit_all(batcher, ["a"])
    await runner.busy.wait()
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
