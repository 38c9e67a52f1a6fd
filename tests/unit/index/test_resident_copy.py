"""The copy in memory by itself: what loads, changes and scans do to each other."""

import asyncio
import threading
import tracemalloc
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from clipseek_server.index import quantised, resident, vectors
from clipseek_server.index.filters import parse_filter
from clipseek_server.index.records import Effort, Match, Row, Vector
from clipseek_server.index.resident import ResidentCopy
from index_rows import DIMENSION, record, row, vector


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


async def _no_pages() -> AsyncIterator[Sequence[Row]]:
    for page in ():
        yield page


async def _ids(copy: ResidentCopy) -> list[str]:
    return [record.image_id for record in await copy.page("", 1000, None)]


async def test_writes_during_loading_are_newer_than_pages(executor: ThreadPoolExecutor) -> None:
    copy = ResidentCopy(DIMENSION, executor)

    async def pages() -> AsyncIterator[Sequence[Row]]:
        yield [row("a", 1, old=True), row("b", 1, old=True)]
        # The next page is read already: what is written now is newer.
        copy.put([row("c", 2, old=False), row("a", 2, old=False), row("z", 2, old=False)])
        copy.remove(["d", "b", "never"])
        yield [row("c", 1, old=True), row("d", 1, old=True)]
        assert not copy.loaded
        yield [row("e", 1, old=True)]

    await copy.load(pages(), max_rows=100)
    assert copy.loaded
    assert await _ids(copy) == ["a", "c", "e", "z"]
    assert [found.record.metadata["old"] for found in copy.rows("", "")] == [False, False, True, False]
    np.testing.assert_array_equal(copy.rows("a", "c")[0].vector, vector(2))


async def test_loading_stops_past_the_bound(executor: ThreadPoolExecutor) -> None:
    read = []

    async def pages() -> AsyncIterator[Sequence[Row]]:
        for page in ([row("a"), row("b")], [row("c"), row("d")], [row("e")]):
            read.append(page)
            yield page

    copy = ResidentCopy(DIMENSION, executor)
    await copy.load(pages(), max_rows=3)
    assert not copy.loaded
    assert len(read) == 2


async def test_rows_beyond_one_block(executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "_BLOCK", 4)
    copy = ResidentCopy(DIMENSION, executor)
    await copy.load(_no_pages(), max_rows=100)
    copy.put(row(f"{number:02d}", number) for number in range(11))
    copy.remove(["03", "07"])
    copy.put([row("05", 99)])
    found = await copy.search([vector(99), vector(10)], [1, 20], None)
    assert found[0][0].record.image_id == "05"
    assert found[0][0].score == pytest.approx(1.0, abs=1e-6)
    assert sorted(match.record.image_id for match in found[1]) == ["00", "01", "02", "04", "05", "06", "08", "09", "10"]


async def test_a_scan_sees_whole_rows_of_the_time_it_began(executor: ThreadPoolExecutor) -> None:
    copy = ResidentCopy(DIMENSION, executor)
    await copy.load(_no_pages(), max_rows=100)
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
    await copy.load(_no_pages(), max_rows=10_000)
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
    await copy.load(_no_pages(), max_rows=100_000)
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
    await copy.load(_no_pages(), max_rows=100)
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
    await copy.load(_no_pages(), max_rows=10)
    assert await copy.search([vector(1)], [5], None) == [[]]
    copy.put([row("a")])
    assert await copy.search([vector(1)], [5], parse_filter("width == 1")) == [[]]
    assert await copy.page("a", 5, None) == []


COUNT, WIDE = 3000, 64


def _cone(count: int, seed: int) -> list[Vector]:
    """Pictures' vectors: about a common middle, mean cosine 0.5."""
    rng = np.random.default_rng(seed)
    own = rng.normal(size=(count, WIDE)) / np.sqrt(WIDE)
    all_ = vector(0, WIDE) + own.astype(np.float32)
    return list(all_ / np.linalg.norm(all_, axis=1, keepdims=True))


def _texts(count: int, seed: int) -> list[Vector]:
    """Queries outside the pictures' cone."""
    rng = np.random.default_rng(seed)
    all_ = vector(1, WIDE) + (0.4 * rng.normal(size=(count, WIDE)) / np.sqrt(WIDE)).astype(np.float32)
    return list(all_ / np.linalg.norm(all_, axis=1, keepdims=True))


@pytest.fixture
def few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """From 1,000 rows on there are codes."""
    monkeypatch.setattr(resident, "EXACT_BYTES", 1000 * WIDE * 4)


async def _large(executor: ThreadPoolExecutor) -> ResidentCopy:
    copy = ResidentCopy(WIDE, executor)
    await copy.load(_no_pages(), max_rows=10_000)
    copy.put(Row(record(f"{number:04d}"), each) for number, each in enumerate(_cone(COUNT, seed=2)))
    await _quantised(copy)
    return copy


async def _quantised(copy: ResidentCopy) -> None:
    assert copy._making_codes is not None
    await copy._making_codes
    assert copy._codes is not None


@pytest.mark.parametrize("queries", [_cone(50, seed=3), _texts(50, seed=4)], ids=["pictures", "texts"])
async def test_the_quantised_scan_finds_what_the_exact_one_finds(
    executor: ThreadPoolExecutor, few_are_many: None, queries: list[Vector]
) -> None:
    copy = await _large(executor)
    exact = await copy.search(queries, [10] * 50, None, Effort.EXACT)
    recall = {}
    for effort in (Effort.FAST, Effort.DEFAULT):
        found = await copy.search(queries, [10] * 50, None, effort)
        for matches in found:
            assert matches == sorted(matches, key=lambda match: (-match.score, match.record.image_id))
        # A match is the same only if its score is the exact one.
        both = zip(found, exact, strict=True)
        recall[effort] = np.mean([match in best for matches, best in both for match in matches])
    assert recall[Effort.FAST] >= 0.9
    assert recall[Effort.DEFAULT] >= 0.99
    # Alone, or with others that want more: the same.
    (alone,) = await copy.search(queries[:1], [10], None)
    assert alone == found[0]


async def test_what_is_exact_scans_all_rows(
    executor: ThreadPoolExecutor, few_are_many: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = await _large(executor)
    monkeypatch.setattr(quantised.Codes, "nearest", None)
    (query,) = _texts(1, seed=5)
    (exact,) = await copy.search([query], [300], None, Effort.EXACT)
    scores = sorted((float(np.dot(row.vector, query)) for row in copy.rows("", "")), reverse=True)
    assert [match.score for match in exact] == pytest.approx(scores[:300], abs=1e-5)
    # So many hits that their candidates would be a quarter of the rows; and with a filter.
    assert (await copy.search([query], [300], None))[0] == exact
    assert (await copy.search([query], [10], parse_filter("width == 640")))[0] == exact[:10]
    copy.remove([f"{number:04d}" for number in range(2000)])
    assert len((await copy.search([query], [10], None))[0]) == 10


async def test_writes_are_found_at_once_before_while_and_after_codes_are_made(
    executor: ThreadPoolExecutor, few_are_many: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled, go_on = threading.Event(), threading.Event()
    fill = quantised.Codes.fill

    def held_fill(codes: quantised.Codes, *arguments: object) -> None:
        fill(codes, *arguments)  # type: ignore[arg-type]
        filled.set()
        go_on.wait(20)

    monkeypatch.setattr(quantised.Codes, "fill", held_fill)
    copy = ResidentCopy(WIDE, executor)
    await copy.load(_no_pages(), max_rows=10_000)
    copy.put(Row(record(f"{number:04d}"), each) for number, each in enumerate(_cone(COUNT, seed=2)))
    new = _cone(10, seed=6)

    async def change(number: int) -> None:
        """One new row, one that gets another vector, one that goes and leaves its slot to the next."""
        copy.put([Row(record(f"new-{number}"), new[number])])
        copy.put([Row(record(f"{number:04d}"), new[number + 1])])
        copy.remove([f"{number + 100:04d}"])
        for written in range(0, number + 1, 2):
            found = [match.record.image_id for match in (await copy.search([new[written]], [2], None))[0]]
            assert f"new-{written}" in found
        assert f"{number:04d}" in [
            match.record.image_id for match in (await copy.search([new[number + 1]], [2], None))[0]
        ]

    await change(0)
    await asyncio.to_thread(filled.wait)
    await change(2)
    assert copy._codes is None
    go_on.set()
    await _quantised(copy)
    await change(4)
    await change(6)
    gone = {f"{number + 100:04d}" for number in (0, 2, 4, 6)}
    found = await copy.search(_cone(COUNT, seed=2)[100:107], [5] * 7, None)
    assert not gone & {match.record.image_id for matches in found for match in matches}


async def test_what_was_near_and_is_removed_hides_nothing(executor: ThreadPoolExecutor, few_are_many: None) -> None:
    copy = await _large(executor)
    near = _cone(1, seed=7)[0]
    twins = [f"twin-{number:04d}" for number in range(1000)]
    copy.put(Row(record(image_id), near) for image_id in twins)
    assert {match.record.image_id for match in (await copy.search([near], [10], None))[0]} <= set(twins)
    copy.remove(twins)
    (exact,) = await copy.search([near], [10], None, Effort.EXACT)
    assert (await copy.search([near], [10], None))[0] == exact


async def test_a_quantised_scan_sees_whole_rows_of_the_time_it_began(
    executor: ThreadPoolExecutor, few_are_many: None
) -> None:
    copy = await _large(executor)
    here, there = _cone(2, seed=8)
    copy.put(Row(record(image_id, old=True), here) for image_id in ("a", "b", "c"))
    held = threading.Event()
    executor.submit(held.wait)
    scan = asyncio.create_task(copy.search([here], [3], None))
    await asyncio.sleep(0)
    copy.put([Row(record("a", old=False), there), Row(record("new"), here)])
    copy.remove(["b"])
    copy.put([Row(record("newer"), here)])
    held.set()
    found = (await scan)[0]
    assert [match.record.image_id for match in found] == ["a", "b", "c"]
    assert [match.score for match in found] == pytest.approx([1.0, 1.0, 1.0], abs=1e-6)
    assert [match.record.image_id for match in (await copy.search([here], [3], None))[0]] == ["c", "new", "newer"]


async def test_codes_are_made_anew_when_most_rows_are_others(executor: ThreadPoolExecutor, few_are_many: None) -> None:
    copy = await _large(executor)
    first = copy._codes
    others = [-each for each in _cone(COUNT, seed=9)]
    copy.put(Row(record(f"{number:04d}"), each) for number, each in enumerate(others[:-1]))
    assert copy._making_codes is None
    copy.put([Row(record(f"{COUNT - 1:04d}"), others[-1])])
    await _quantised(copy)
    assert copy._codes is not first
    queries = [-each for each in _cone(20, seed=3)]
    exact = await copy.search(queries, [10] * 20, None, Effort.EXACT)
    found = await copy.search(queries, [10] * 20, None)
    assert sum(match in best for each, best in zip(found, exact, strict=True) for match in each) >= 198


async def test_without_codes_searches_are_exact(
    executor: ThreadPoolExecutor, few_are_many: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no codes")

    monkeypatch.setattr(quantised.Codes, "fill", fail)
    copy = ResidentCopy(WIDE, executor)
    await copy.load(_no_pages(), max_rows=10_000)
    copy.put(Row(record(f"{number:04d}"), each) for number, each in enumerate(_cone(COUNT, seed=2)))
    making = copy._making_codes
    assert making is not None
    await making
    assert copy._codes is None
    queries = _texts(3, seed=4)
    assert await copy.search(queries, [10] * 3, None) == await copy.search(queries, [10] * 3, None, Effort.EXACT)


async def test_the_making_of_codes_ends_with_the_copy(executor: ThreadPoolExecutor, few_are_many: None) -> None:
    copy = ResidentCopy(WIDE, executor)
    await copy.load(_no_pages(), max_rows=10_000)
    copy.put(Row(record(f"{number:04d}"), each) for number, each in enumerate(_cone(COUNT, seed=2)))
    making = copy._making_codes
    assert making is not None
    copy.close()
    with pytest.raises(asyncio.CancelledError):
        await making
    assert copy._codes is None
