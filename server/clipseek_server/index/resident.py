"""A collection's vectors, sorted ids and records in memory, beside Milvus Lite, which is slow to search.

Derived, never the truth: the writer changes it after Milvus and before it acknowledges.
"""

import asyncio
import heapq
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Executor
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from clipseek_server.index.filters import Filter, predicate
from clipseek_server.index.records import Match, Record, Row, Vector

Result = TypeVar("Result")
Mask = npt.NDArray[np.bool_]

LOAD_PAGE = 1024
"""Rows read at a time while loading. Each page costs Milvus Lite a pass over all rows; larger ones hold up the event
loop for longer (80 ms at worst here, 240 with 4,096) and are no faster."""

_STEP = 256
"""Rows taken over at a time: the event loop is free in between."""

_BLOCK = 4096
"""Vectors are kept in blocks of this many, so that growing copies nothing."""

_ROUNDING = 1e-5
"""More than two float32 products of the same vectors may differ by, whatever order they were summed in."""


class ResidentCopy:
    """Rows in memory. Everything but the scans runs on the event loop.

    A scan runs in a thread while rows come and go. It sees the rows that were there when it began: a slot that is left
    is not taken again before all scans that began before have ended.

    Args:
        dimension: Length of the vectors.
        executor: Where scans run.
    """

    def __init__(self, dimension: int, executor: Executor) -> None:
        self._dimension = dimension
        self._executor = executor
        self._blocks: list[npt.NDArray[np.float32]] = []
        self._records: list[Record | None] = []
        self._alive: Mask = np.zeros(_BLOCK, dtype=np.bool_)
        self._slots: dict[str, int] = {}
        self._ids: list[str] = []
        self._free: list[int] = []
        # Slots that were left, each with the number of scans that had begun by then.
        self._left: deque[tuple[int, int]] = deque()
        self._scans_begun = 0
        self._scans: set[int] = set()
        self._written_while_loading: set[str] | None = set()

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def loaded(self) -> bool:
        """Whether it holds everything, so that it may answer."""
        return self._written_while_loading is None

    async def load(self, read_page: Callable[[str, int], Awaitable[Sequence[Row]]], max_rows: int) -> None:
        """Fill it from ``read_page(after, limit)``: rows in the order of their ids, fewer than ``limit`` at the end.

        Rows may be put and removed meanwhile; what is written during loading is newer than any page. It stops early,
        without being loaded, once it holds more than ``max_rows``.
        """
        after, full = "", True
        while full:
            page = await read_page(after, LOAD_PAGE)
            for begin in range(0, len(page), _STEP):
                self._overlay(page[begin : begin + _STEP])
                await asyncio.sleep(0)
            if len(self) > max_rows:
                return
            full = len(page) == LOAD_PAGE
            after = page[-1].record.image_id if page else after
        self._written_while_loading = None

    def put(self, rows: Iterable[Row]) -> None:
        """Insert or replace rows."""
        for row in rows:
            self._put(row)
            self._note(row.record.image_id)

    def remove(self, image_ids: Iterable[str]) -> None:
        """Remove rows; ids without one do not matter."""
        for image_id in image_ids:
            self._note(image_id)
            slot = self._slots.pop(image_id, None)
            if slot is not None:
                self._leave(slot)
                del self._ids[bisect_left(self._ids, image_id)]

    def rows(self, after: str, last: str) -> list[Row]:
        """The rows with ids greater than ``after``, up to and with ``last``; an empty ``last`` means all of them."""
        end = bisect_right(self._ids, last) if last else len(self._ids)
        slots = [self._slots[image_id] for image_id in self._ids[bisect_right(self._ids, after) : end]]
        return [Row(self._record(slot), self._vector(slot).copy()) for slot in slots]

    async def page(self, after: str, limit: int, filter: Filter | None) -> list[Record]:
        """At most ``limit`` matching records with ids greater than ``after``, in the order of the ids."""
        start = bisect_right(self._ids, after)
        if filter is None:
            return [self._record(self._slots[image_id]) for image_id in self._ids[start : start + limit]]
        image_ids = self._ids[start:]
        return await self._scan(lambda: self._matching(image_ids, limit, filter))

    async def search(
        self, queries: Sequence[Vector], limits: Sequence[int], filter: Filter | None
    ) -> list[list[Match]]:
        """For each query its nearest matching records, best first, ties by id; exact."""
        alive = self._alive[: len(self._records)].copy()
        return await self._scan(lambda: self._nearest(alive, np.stack(queries), limits, filter))

    def _put(self, row: Row) -> None:
        image_id = row.record.image_id
        slot = self._free.pop() if self._free else self._new_slot()
        self._vector(slot)[:] = row.vector
        self._records[slot] = row.record
        self._alive[slot] = True
        old = self._slots.get(image_id)
        self._slots[image_id] = slot
        if old is None:
            insort(self._ids, image_id)
        else:
            self._leave(old)

    def _overlay(self, page: Sequence[Row]) -> None:
        written = self._written_while_loading or set()
        for row in page:
            if row.record.image_id not in written:
                self._put(row)

    def _note(self, image_id: str) -> None:
        if self._written_while_loading is not None:
            self._written_while_loading.add(image_id)

    def _new_slot(self) -> int:
        slot = len(self._records)
        self._records.append(None)
        if slot % _BLOCK == 0:
            self._blocks.append(np.zeros((_BLOCK, self._dimension), dtype=np.float32))
        if slot == len(self._alive):
            self._alive = np.concatenate([self._alive, np.zeros_like(self._alive)])
        return slot

    def _leave(self, slot: int) -> None:
        self._alive[slot] = False
        self._left.append((self._scans_begun, slot))
        self._free_left()

    def _free_left(self) -> None:
        oldest = min(self._scans, default=self._scans_begun)
        while self._left and self._left[0][0] <= oldest:
            _, slot = self._left.popleft()
            self._records[slot] = None
            self._free.append(slot)

    def _vector(self, slot: int) -> Vector:
        vector: Vector = self._blocks[slot // _BLOCK][slot % _BLOCK]
        return vector

    def _record(self, slot: int) -> Record:
        record = self._records[slot]
        assert record is not None  # noqa: S101
        return record

    async def _scan(self, function: Callable[[], Result]) -> Result:
        loop = asyncio.get_running_loop()
        number = self._scans_begun
        scan = self._executor.submit(function)
        self._scans_begun += 1
        self._scans.add(number)
        # The thread goes on when the caller is cancelled: only its own end counts.
        scan.add_done_callback(lambda _: loop.call_soon_threadsafe(self._end_scan, number))
        return await asyncio.wrap_future(scan)

    def _end_scan(self, number: int) -> None:
        self._scans.remove(number)
        self._free_left()

    # What runs in threads.

    def _matching(self, image_ids: Sequence[str], limit: int, filter: Filter) -> list[Record]:
        matches = predicate(filter)
        found: list[Record] = []
        for image_id in image_ids:
            slot = self._slots.get(image_id)
            if slot is not None and matches(record := self._record(slot)):
                found.append(record)
                if len(found) == limit:
                    break
        return found

    def _nearest(
        self, wanted: Mask, queries: npt.NDArray[np.float32], limits: Sequence[int], filter: Filter | None
    ) -> list[list[Match]]:
        if filter is not None:
            matches = predicate(filter)
            for slot in np.flatnonzero(wanted).tolist():
                wanted[slot] = matches(self._record(slot))
        scores = np.empty((len(queries), len(wanted)), dtype=np.float32)
        for number, block in enumerate(self._blocks[: -(-len(wanted) // _BLOCK)]):
            part = scores[:, number * _BLOCK : (number + 1) * _BLOCK]
            np.matmul(queries, block[: part.shape[1]].T, out=part)
        scores[:, ~wanted] = -np.inf
        count = int(np.count_nonzero(wanted))
        return [
            self._best(row, query, min(limit, count)) for row, query, limit in zip(scores, queries, limits, strict=True)
        ]

    def _best(self, scores: Vector, query: Vector, limit: int) -> list[Match]:
        if limit == 0:
            return []
        slots = np.flatnonzero(scores >= _largest(scores, limit) - _ROUNDING)
        exact = self._exact_scores(slots, query)
        last = _largest(exact, limit)
        better = exact > last
        found = [
            Match(self._record(slot), score)
            for slot, score in zip(slots[better].tolist(), exact[better].tolist(), strict=True)
        ]
        found.sort(key=lambda match: (-match.score, match.record.image_id))
        # There may be very many of the last score, and few of them are wanted.
        ties = heapq.nsmallest(limit - len(found), slots[exact == last].tolist(), key=self._image_id)
        return found + [Match(self._record(slot), float(last)) for slot in ties]

    def _exact_scores(self, slots: npt.NDArray[np.intp], query: Vector) -> Vector:
        """The scores of slots in rising order, in which equal vectors score equal."""
        exact = np.empty(len(slots), dtype=np.float32)
        numbers = slots // _BLOCK
        for number in np.unique(numbers):
            here = numbers == number
            vectors = self._blocks[number][slots[here] % _BLOCK].astype(np.float64)
            # A product's last bits depend on where in the matrix a row lies: summed one by one.
            exact[here] = np.clip(np.einsum("ij,j->i", vectors, query.astype(np.float64)), -1.0, 1.0)
        return exact

    def _image_id(self, slot: int) -> str:
        return self._record(slot).image_id


def _largest(scores: Vector, rank: int) -> np.float32:
    """The score of that rank, 1 being the largest."""
    largest: np.float32 = np.partition(scores, len(scores) - rank)[len(scores) - rank]
    return largest
