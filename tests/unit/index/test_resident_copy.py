"""The copy in memory by itself: what loads, changes and scans do to each other."""

import asyncio
import threading
import tracemalloc
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from clipseek_server.index import resident
from clipseek_server.index.filters import parse_filter
from clipseek_server.index.records import Match, Row
from clipseek_server.index.resident import ResidentCopy
from index_rows import DIMENSION, record, row, vector


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


async def _no_rows(after: str, limit: int) -> Sequence[Row]:
    return []


async def _ids(copy: ResidentCopy) -> list[str]:
    return [record.image_id for record in await copy.page("", 1000, None)]


async def test_writes_during_loading_are_newer_than_pages(
    executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resident, "LOAD_PAGE", 2)
    stored = {image_id: row(image_id, 1, old=True) for image_id in ("a", "b", "c", "d", "e")}
    copy = ResidentCopy(DIMENSION, executor)

    async def read_page(after: str, limit: int) -> Sequence[Row]:
        page = [stored[image_id] for image_id in sorted(stored) if image_id > after][:limit]
        if after == "b":
            # The page is read already: what is written now is newer.
            copy.put([row("c", 2, old=False), row("a", 2, old=False), row("z", 2, old=False)])
            copy.remove(["d", "b", "never"])
        assert not copy.loaded
        return page

    await copy.load(read_page, max_rows=100)
    assert copy.loaded
    assert await _ids(copy) == ["a", "c", "e", "z"]
    assert [found.record.metadata["old"] for found in copy.rows("", "")] == [False, False, True, False]
    np.testing.assert_array_equal(copy.rows("a", "c")[0].vector, vector(2))


async def test_loading_stops_past_the_bound(executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "LOAD_PAGE", 2)
    pages = iter([[row("a"), row("b")], [row("c"), row("d")]])

    async def read_page(after: str, limit: int) -> Sequence[Row]:
        return next(pages)

    copy = ResidentCopy(DIMENSION, executor)
    await copy.load(read_page, max_rows=3)
    assert not copy.loaded


async def test_rows_beyond_one_block(executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "_BLOCK", 4)
    copy = ResidentCopy(DIMENSION, executor)
    await copy.load(_no_rows, max_rows=100)
    copy.put(row(f"{number:02d}", number) for number in range(11))
    copy.remove(["03", "07"])
    copy.put([row("05", 99)])
    found = await copy.search([vector(99), vector(10)], [1, 20], None)
    assert found[0][0].record.image_id == "05"
    assert found[0][0].score == pytest.approx(1.0, abs=1e-6)
    assert sorted(match.record.image_id for match in found[1]) == ["00", "01", "02", "04", "05", "06", "08", "09", "10"]


async def test_a_scan_sees_whole_rows_of_the_time_it_began(executor: ThreadPoolExecutor) -> None:
    copy = ResidentCopy(DIMENSION, executor)
    await copy.load(_no_rows, max_rows=100)
    copy.put(row(image_id, 1, old=True) for image_id in ("a", "b", "c"))
    # The only thread is held, so that the scan begins, as seen from the loop, before the changes and runs after them.
    held = threading.Event()
    executor.submit(held.wait)
    scan = asyncio.create_task(copy.search([vector(1)], [10], parse_filter("metadata.old == true")))
    cancelled = asyncio.create_task(copy.search([vector(1)], [10], None))
    await asyncio.sleep(0)
    cancelled.cancel()
    copy.put([row("a", 2, old=False), row("new", 3, old=False)])
    copy.remove(["b"])
    copy.put([row("newer", 4, old=False)])
    held.set()
    found = (await scan)[0]
    assert [match.record.image_id for match in found] == ["a", "b", "c"]
    assert [match.score for match in found] == pytest.approx([1.0, 1.0, 1.0], abs=1e-6)
    # What the scan kept from being reused is free again.
    copy.put([row("last", 5)])
    assert [match.record.image_id for match in (await copy.search([vector(5)], [1], None))[0]] == ["last"]
    assert await _ids(copy) == ["a", "c", "last", "new", "newer"]


async def test_equal_vectors_score_equal_and_come_by_id(executor: ThreadPoolExecutor) -> None:
    copy = ResidentCopy(DIMENSION, executor)
    await copy.load(_no_rows, max_rows=10_000)
    twins = [f"{number:04d}" for number in range(1000)]
    copy.put(row(image_id, 7) for image_id in reversed(twins))
    copy.put(row(f"other-{number}", number) for number in range(100, 120))
    alone = (await copy.search([vector(7)], [5], None))[0]
    among_others = (await copy.search([vector(number) for number in range(7, 20)], [5] * 13, None))[0]
    assert [match.record.image_id for match in alone] == twins[:5]
    assert alone == among_others
    assert len({match.score for match in alone}) == 1


async def test_many_equal_vectors_cost_no_memory(executor: ThreadPoolExecutor) -> None:
    dimension, twins = 256, [f"{number:05d}" for number in range(20_000)]
    copy = ResidentCopy(dimension, executor)
    await copy.load(_no_rows, max_rows=100_000)
    copy.put(Row(record(image_id), vector(7, dimension)) for image_id in reversed(twins))
    copy.put([Row(record("best"), vector(8, dimension))])
    query = vector(7, dimension) + 2 * vector(8, dimension)
    tracemalloc.start()
    (found,) = await copy.search([query / np.linalg.norm(query)], [5], None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [match.record.image_id for match in found] == ["best", *twins[:4]]
    assert peak < len(twins) * dimension * 8, "less than their vectors, gathered, take"


async def test_slots_are_used_again_while_scans_overlap(executor: ThreadPoolExecutor) -> None:
    copy = ResidentCopy(DIMENSION, executor)
    await copy.load(_no_rows, max_rows=100)
    copy.put(row(image_id, 1) for image_id in ("a", "b", "c"))
    held, scan = await _held_scan(copy, executor)
    for number in range(50):
        copy.put([row("a", number)])
        next_held, next_scan = await _held_scan(copy, executor)
        held.set()
        await scan
        held, scan = next_held, next_scan
    held.set()
    assert (await scan)[0][0].record.image_id == "a"
    assert len(copy._records) <= 6


async def _held_scan(
    copy: ResidentCopy, executor: ThreadPoolExecutor
) -> tuple[threading.Event, asyncio.Task[list[list[Match]]]]:
    """A scan that has begun and goes on until the event is set."""
    held = threading.Event()
    executor.submit(held.wait)
    scan = asyncio.create_task(copy.search([vector(49)], [10], None))
    await asyncio.sleep(0)
    return held, scan


async def test_nothing_to_find(executor: ThreadPoolExecutor) -> None:
    copy = ResidentCopy(DIMENSION, executor)
    await copy.load(_no_rows, max_rows=10)
    assert await copy.search([vector(1)], [5], None) == [[]]
    copy.put([row("a")])
    assert await copy.search([vector(1)], [5], parse_filter("width == 1")) == [[]]
    assert await copy.page("a", 5, None) == []
