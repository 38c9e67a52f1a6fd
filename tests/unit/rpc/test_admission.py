import asyncio

import pytest

from clipseek_server.errors import Overloaded
from clipseek_server.rpc.admission import ByteBudget, StreamLimit


def budget(total: int = 100, **settings) -> ByteBudget:
    return ByteBudget(total, **{"max_waiting": 2, "patience": 60.0} | settings)


async def test_what_is_taken_comes_back_once():
    shared = budget()
    lease = await shared.take(60, bulk=False)
    lease.shrink(10)
    assert shared.free == 90
    lease.release()
    lease.release()
    assert shared.free == 100


async def test_who_finds_too_little_waits_in_line():
    shared = budget()
    first = await shared.take(80, bulk=False)
    large = asyncio.create_task(shared.take(50, bulk=False))
    small = asyncio.create_task(shared.take(10, bulk=False))
    await asyncio.sleep(0)
    assert not small.done()  # it would fit, but the large one came first
    first.release()
    await asyncio.gather(large, small)
    assert shared.free == 40


async def test_a_long_line_is_refused():
    shared = budget()
    await shared.take(100, bulk=False)
    waiting = [asyncio.create_task(shared.take(1, bulk=False)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await shared.take(1, bulk=False)
    for task in waiting:
        task.cancel()


async def test_interactive_callers_lose_patience_and_bulk_does_not():
    shared = budget(patience=0.0)
    lease = await shared.take(100, bulk=False)
    bulk = asyncio.create_task(shared.take(5, bulk=True))
    with pytest.raises(Overloaded):
        await shared.take(1, bulk=False)
    lease.release()
    await bulk
    assert shared.free == 95


async def test_bulk_leaves_half_to_the_others():
    shared = budget()
    lease = await shared.take(50, bulk=True)
    more = asyncio.create_task(shared.take(1, bulk=True))
    await asyncio.sleep(0)
    interactive = await shared.take(50, bulk=False)  # it does not stand behind the bulk that may not have it
    assert shared.free == 0
    interactive.release()
    await asyncio.sleep(0)
    assert not more.done()
    lease.shrink(20)
    (await more).release()
    lease.release()
    assert shared.free == 100
    (await shared.take(50, bulk=True)).release()


async def test_one_who_leaves_the_line_lets_the_next_through():
    shared = budget()
    await shared.take(50, bulk=False)
    large = asyncio.create_task(shared.take(80, bulk=False))
    small = asyncio.create_task(shared.take(10, bulk=False))
    await asyncio.sleep(0)
    large.cancel()
    await small
    assert shared.free == 40


async def test_one_who_is_cancelled_as_the_turn_comes_takes_nothing():
    shared = budget()
    lease = await shared.take(100, bulk=False)
    waiting = asyncio.create_task(shared.take(30, bulk=False))
    await asyncio.sleep(0)
    lease.release()
    waiting.cancel()
    await asyncio.wait([waiting])
    assert shared.free == 100


def test_streams_are_counted():
    limit = StreamLimit(1, "streams")
    with limit.open(), pytest.raises(Overloaded), limit.open():
        pass
    with limit.open():
        pass
