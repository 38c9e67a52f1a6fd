import asyncio

import pytest

from clipseek_server.catalog.concurrency import KeyedLocks, WriteGates, gather, uninterrupted
from clipseek_server.errors import CollectionHeld


async def test_one_id_at_a_time_and_other_ids_at_once():
    locks, inside = KeyedLocks(), []
    release = asyncio.Event()

    async def work(key, name):
        async with locks.hold(key):
            inside.append(name)
            await release.wait()

    tasks = [asyncio.create_task(work(*each)) for each in [("a", 1), ("a", 2), ("b", 3)]]
    await asyncio.sleep(0)
    assert inside == [1, 3]
    release.set()
    await asyncio.gather(*tasks)
    assert inside == [1, 3, 2]
    assert not locks._locks


async def test_many_ids_are_taken_without_a_circle():
    locks = KeyedLocks()

    async def work(ids):
        async with locks.hold_all("uid", ids):
            await asyncio.sleep(0)

    await asyncio.wait_for(asyncio.gather(*(work(ids) for ids in [["a", "b"], ["b", "a"], ["b", "a", "b"]] * 20)), 5)
    assert not locks._locks


async def test_holding_waits_for_writers_and_refuses_new_ones():
    gates, events = WriteGates(), []
    finish = asyncio.Event()

    async def write():
        async with gates.writing("c"):
            await finish.wait()
            events.append("written")

    async def hold():
        async with gates.holding("c"):
            events.append("held")

    writer = asyncio.create_task(write())
    await asyncio.sleep(0)
    holder = asyncio.create_task(hold())
    await asyncio.sleep(0)
    with pytest.raises(CollectionHeld, match="rebuilt or deleted"):
        async with gates.writing("c"):
            pass
    with pytest.raises(CollectionHeld):
        async with gates.holding("c"):
            pass
    async with gates.writing("another"):
        pass
    finish.set()
    await asyncio.gather(writer, holder)
    assert events == ["written", "held"]
    async with gates.writing("c"):
        pass


async def test_an_uninterrupted_write_ends_before_its_caller():
    events = []
    go = asyncio.Event()

    async def write():
        await go.wait()
        events.append("written")

    async def call():
        try:
            await uninterrupted(write())
        finally:
            events.append("caller gone")

    task = asyncio.create_task(call())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    assert events == []
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert events == ["written", "caller gone"]


async def test_the_first_error_cancels_the_others():
    cancelled = []

    async def fail():
        raise ValueError

    async def wait():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    with pytest.raises(ValueError):
        await gather([wait(), fail()])
    await asyncio.sleep(0)
    assert cancelled == [True]
