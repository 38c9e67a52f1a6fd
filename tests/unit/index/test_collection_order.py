"""Which searches and reads of a collection on a Milvus server go together, and which wait for which.

The table stands for Milvus here: how long its answers take is up to the test.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import numpy as np
import pytest

from clipseek_server.index.collection import MilvusCollection
from clipseek_server.index.filters import parse_filter
from clipseek_server.index.records import CollectionInfo, Effort
from clipseek_server.telemetry import Call


class SlowTable:
    """Answers nothing; calls that are ``held`` wait."""

    gone = False

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.changed = asyncio.Condition()
        self.running = 0
        self.calls: list[tuple[bool, int]] = []

    def check(self) -> None: ...

    async def search(self, vectors: Sequence[Any], limit: int, *, filter: Any, effort: Effort, strong: bool) -> Any:
        await self._wait(strong or filter is not None, strong, len(vectors))
        return [[] for _ in vectors]

    async def records(self, image_ids: Any, *, strong: bool) -> Any:
        await self._wait(strong, strong, len(image_ids))
        return {}

    rows = records

    async def _wait(self, held: bool, strong: bool, size: int) -> None:
        self.calls.append((strong, size))
        await self._now_running(self.running + 1)
        if held:
            await self.open.wait()
        await self._now_running(self.running - 1)

    async def _now_running(self, count: int) -> None:
        async with self.changed:
            self.running = count
            self.changed.notify_all()


class AnyEffort:
    def check(self, effort: Effort) -> None: ...


@pytest.fixture
async def table() -> SlowTable:
    return SlowTable()


@pytest.fixture
async def collection(table: SlowTable) -> AsyncIterator[MilvusCollection]:
    info = cast(CollectionInfo, type("Info", (), {"dimension": 4, "name": "x", "generation": "g"}))
    made = MilvusCollection(
        info,
        cast(Any, table),
        cast(Any, AnyEffort()),
        holds=cast(Any, object()),
        resident_max_rows=None,
        executor=cast(Any, None),
    )
    yield made
    table.open.set()
    await made.close()


def search(collection: MilvusCollection, text: str = "", *, strong: bool = False) -> "asyncio.Task[Any]":
    condition = parse_filter(text) if text else None
    vector = np.zeros(4, np.float32)
    return asyncio.create_task(
        collection.search(vector, 5, Call(), filter=condition, effort=Effort.DEFAULT, strong=strong)
    )


async def until_running(table: SlowTable, count: int) -> None:
    async with asyncio.timeout(10), table.changed:
        await table.changed.wait_for(lambda: table.running == count)


async def test_a_search_that_waits_for_all_writes_holds_up_no_other(
    collection: MilvusCollection, table: SlowTable
) -> None:
    strong = search(collection, strong=True)
    await until_running(table, 1)
    async with asyncio.timeout(10):
        assert await search(collection) == []
    assert not strong.done()


async def test_searches_with_different_filters_run_side_by_side(collection: MilvusCollection, table: SlowTable) -> None:
    for number in range(4):
        search(collection, f"metadata.n == {number}")
    await until_running(table, 4)


async def test_a_read_that_waits_for_all_writes_holds_up_no_other(
    collection: MilvusCollection, table: SlowTable
) -> None:
    strong = asyncio.create_task(collection.get(["a"], Call()))
    await until_running(table, 1)
    async with asyncio.timeout(10):
        assert await collection.get(["b"], Call(), strong=False) == {}
    assert not strong.done()


async def test_searches_of_one_kind_that_wait_go_together(collection: MilvusCollection, table: SlowTable) -> None:
    searches = [search(collection) for _ in range(9)]
    assert await asyncio.gather(*searches) == [[]] * 9
    assert table.calls == [(False, 9)]
