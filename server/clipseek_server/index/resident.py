"""A collection's vectors, sorted ids and records in memory, beside Milvus Lite, which is slow to search.

Derived, never the truth: the writer changes it after Milvus and before it acknowledges. Few rows are searched exactly;
of many, a scan of their codes (``quantised``) finds candidates, which are then ranked by their exact scores.
"""

import asyncio
import heapq
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from clipseek_server.index.columns import Columns, Mask
from clipseek_server.index.filters import Filter
from clipseek_server.index.records import Effort, Match, Record, Row, Vector
from clipseek_server.index.vectors import ROUNDING, Matrix, Slots, Vectors
from clipseek_server.telemetry import log

if TYPE_CHECKING:
    from clipseek_server.index.quantised import Codes

Result = TypeVar("Result")

LOAD_PAGE = 1024
"""Rows read at a time while loading: larger pages are no faster."""

_STEP = 256
"""Rows taken over at a time: the event loop is free in between."""

EXACT_BYTES = 8 * 1024 * 1024
"""Up to so many bytes of vectors are searched exactly: 4,096 of 512 numbers, where codes are no faster."""

_CANDIDATES = {Effort.FAST: 100, Effort.DEFAULT: 800, Effort.THOROUGH: 1600}
"""How many candidates an effort ranks by their exact scores, for few hits."""
_CANDIDATES_PER_HIT = {Effort.FAST: 2, Effort.DEFAULT: 16, Effort.THOROUGH: 32}
"""And how many for each hit, where that is more."""

_EXACT_SHARE = 0.25
"""A scan that would give more than this share of the rows as candidates is no faster than an exact one."""

_FIRST_LENGTH = 1024

_FILLED = 2048
"""Rows quantised at a time: 40 ms at 512 dimensions, in a thread."""

_SINGLY = 50
"""Ids taken out of the sorted ones one by one. Each moves all after it: for more, one pass over all is cheaper."""


class ResidentCopy:
    """Rows in memory. Everything but the scans, and the making of codes, runs on the event loop.

    A scan runs in a thread while rows come and go. It sees the rows that were there when it began: a slot that is left
    is not taken again before all scans that began before have ended.

    Args:
        dimension: Length of the vectors.
        executor: Where scans run.
    """

    def __init__(self, dimension: int, executor: Executor) -> None:
        self._executor = executor
        self._exact_rows = EXACT_BYTES // (4 * dimension)
        self._vectors = Vectors(dimension)
        self._columns = Columns(self._record)
        self._records: list[Record | None] = []
        self._alive: Mask = np.zeros(_FIRST_LENGTH, dtype=np.bool_)
        self._slots: dict[str, int] = {}
        self._ids: list[str] = []
        self._free: list[int] = []
        # Slots that were left, each with the number of scans that had begun by then.
        self._left: deque[tuple[int, int]] = deque()
        self._scans_begun = 0
        self._scans: set[int] = set()
        self._written_while_loading: set[str] | None = set()
        self._codes: Codes | None = None
        self._making_codes: asyncio.Task[None] | None = None
        # Slots whose contents changed since the making began.
        self._changed: set[int] = set()
        self._written_since = 0
        self._enough_written = 0

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def loaded(self) -> bool:
        """Whether it holds everything, so that it may answer."""
        return self._written_while_loading is None

    async def load(self, pages: AsyncIterator[Sequence[Row]], max_rows: int) -> None:
        """Fill it from pages of rows, in the order of their ids.

        Rows may be put and removed meanwhile; what is written during loading is newer than any page. It stops early,
        without being loaded, once it holds more than ``max_rows``.
        """
        async for page in pages:
            for begin in range(0, len(page), _STEP):
                self._overlay(page[begin : begin + _STEP])
                await asyncio.sleep(0)
            if len(self) > max_rows:
                return
        self._written_while_loading = None
        self._keep_quantised()

    async def quantised(self) -> None:
        """Return when codes that are being made are there, or cannot be."""
        if self._making_codes is not None:
            await asyncio.wait([self._making_codes])

    def put(self, rows: Iterable[Row]) -> None:
        """Insert or replace rows."""
        for row in rows:
            self._put(row)
            self._note(row.record.image_id)
        self._keep_quantised()

    def remove(self, image_ids: Iterable[str]) -> None:
        """Remove rows; ids without one do not matter."""
        gone = set()
        for image_id in image_ids:
            self._note(image_id)
            slot = self._slots.pop(image_id, None)
            if slot is not None:
                self._leave(slot)
                gone.add(image_id)
        if len(gone) <= _SINGLY:
            for image_id in gone:
                del self._ids[bisect_left(self._ids, image_id)]
        else:
            self._ids = [image_id for image_id in self._ids if image_id not in gone]

    def close(self) -> None:
        """Let the making of codes go no further."""
        if self._making_codes is not None:
            self._making_codes.cancel()

    def rows(self, after: str, last: str) -> list[Row]:
        """The rows with ids greater than ``after``, up to and with ``last``; an empty ``last`` means all of them."""
        end = bisect_right(self._ids, last) if last else len(self._ids)
        slots = [self._slots[image_id] for image_id in self._ids[bisect_right(self._ids, after) : end]]
        return [Row(self._record(slot), self._vectors[slot].copy()) for slot in slots]

    async def page(self, after: str, limit: int, filter: Filter | None) -> list[Record]:
        """At most ``limit`` matching records with ids greater than ``after``, in the order of the ids."""
        start = bisect_right(self._ids, after)
        if filter is None:
            return [self._record(self._slots[image_id]) for image_id in self._ids[start : start + limit]]
        image_ids = self._ids[start:]
        return await self._scan(lambda: self._matching(image_ids, limit, filter))

    async def search(
        self, queries: Sequence[Vector], limits: Sequence[int], filter: Filter | None, effort: Effort = Effort.DEFAULT
    ) -> list[list[Match]]:
        """For each query its nearest matching records, best first, ties by id.

        Exact for ``EXACT``, with a filter, and for up to ``EXACT_BYTES`` of vectors. Otherwise a near record may be
        missed, and which of very many equal ones are found is open; scores are exact all the same.
        """
        alive = self._alive[: len(self._records)].copy()
        count = self._candidates(max(limits), effort)
        codes = self._codes
        if codes is None or count is None or filter is not None:
            return await self._scan(lambda: self._nearest(alive, np.stack(queries), limits, filter))
        return await self._scan(lambda: self._probably_nearest(codes, count, alive, np.stack(queries), limits))

    def _candidates(self, limit: int, effort: Effort) -> int | None:
        """How many candidates are to be ranked; ``None`` for all rows."""
        if effort is Effort.EXACT or len(self) <= self._exact_rows:
            return None
        count = max(_CANDIDATES[effort], limit * _CANDIDATES_PER_HIT[effort])
        return count if count <= len(self) * _EXACT_SHARE else None

    def _put(self, row: Row) -> None:
        image_id = row.record.image_id
        slot = self._free.pop() if self._free else self._new_slot()
        self._vectors.put(slot, row.vector)
        self._columns.put(slot, row.record)
        self._records[slot] = row.record
        self._alive[slot] = True
        self._changed_code(slot)
        old = self._slots.get(image_id)
        self._slots[image_id] = slot
        if old is None:
            insort(self._ids, image_id)
        else:
            self._leave(old)
        self._written_since += 1

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
            self._columns.clear(slot)
            self._changed_code(slot)
            self._free.append(slot)

    def _changed_code(self, slot: int) -> None:
        if self._codes is not None:
            self._write_code(self._codes, slot)
        if self._making_codes is not None:
            self._changed.add(slot)

    def _write_code(self, codes: "Codes", slot: int) -> None:
        if self._alive[slot]:
            codes.put(slot, self._vectors[slot])
        else:
            codes.clear(slot)

    def _keep_quantised(self) -> None:
        """Have codes made when there are enough rows for the first time, and when most of the rows are others."""
        due = self.loaded and len(self) > self._exact_rows and self._written_since >= self._enough_written
        if due and self._making_codes is None:
            self._written_since, self._enough_written = 0, len(self)
            self._making_codes = asyncio.create_task(self._make_codes(), name="quantise")

    async def _make_codes(self) -> None:
        try:
            slots, end = np.flatnonzero(self._alive), len(self._records)
            codes = await asyncio.to_thread(_learn, self._vectors, slots)
            for first in range(0, end, _FILLED):
                await asyncio.to_thread(self._fill, codes, np.arange(first, min(first + _FILLED, end)))
            while self._changed:
                for _ in range(min(_STEP, len(self._changed))):
                    self._write_code(codes, self._changed.pop())
                await asyncio.sleep(0)
            self._codes = codes
        except Exception as error:
            log.warning("vectors cannot be quantised and are searched exactly", error=str(error), exc_info=error)
        finally:
            self._making_codes = None
            self._changed.clear()

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

    def _fill(self, codes: "Codes", slots: Slots) -> None:
        # What is written meanwhile may be read in halves: its code is written again at the end.
        codes.fill(int(slots[0]), self._vectors.take(slots), self._alive[slots])

    def _matching(self, image_ids: Sequence[str], limit: int, filter: Filter) -> list[Record]:
        found: list[Record] = []
        for begin in range(0, len(image_ids), LOAD_PAGE):
            known = (self._slots.get(image_id) for image_id in image_ids[begin : begin + LOAD_PAGE])
            slots = np.array([slot for slot in known if slot is not None], dtype=np.intp)
            matching = slots[self._columns.mask(filter, slots)]
            found += [self._record(slot) for slot in matching[: limit - len(found)].tolist()]
            if len(found) == limit:
                break
        return found

    def _nearest(self, alive: Mask, queries: Matrix, limits: Sequence[int], filter: Filter | None) -> list[list[Match]]:
        slots = np.flatnonzero(alive)
        if filter is not None:
            slots = slots[self._columns.mask(filter, slots)]
        scores = self._vectors.scores(queries, slots)
        return [self._best(slots, *each) for each in zip(scores, queries, limits, strict=True)]

    def _probably_nearest(
        self, codes: "Codes", count: int, alive: Mask, queries: Matrix, limits: Sequence[int]
    ) -> list[list[Match]]:
        found = []
        for query, limit, near in zip(queries, limits, codes.nearest(queries, count), strict=True):
            # What came or went since this began is not of it.
            slots = near[: np.searchsorted(near, len(alive))]
            slots = slots[alive[slots]]
            if len(slots) < limit:
                (best,) = self._nearest(alive, query[None], [limit], None)
            else:
                best = self._best(slots, self._vectors.scores(query[None], slots)[0], query, limit)
            found.append(best)
        return found

    def _best(self, slots: Slots, scores: Vector, query: Vector, limit: int) -> list[Match]:
        limit = min(limit, len(slots))
        if limit == 0:
            return []
        slots = slots[scores >= _largest(scores, limit) - ROUNDING]
        exact = self._vectors.exact_scores(query, slots)
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

    def _image_id(self, slot: int) -> str:
        return self._record(slot).image_id


def _largest(scores: Vector, rank: int) -> np.float32:
    """The score of that rank, 1 being the largest."""
    largest: np.float32 = np.partition(scores, len(scores) - rank)[len(scores) - rank]
    return largest


def _learn(vectors: Vectors, slots: Slots) -> "Codes":
    # Not at the top: with a Milvus server nothing is quantised, and faiss is not loaded.
    from clipseek_server.index.quantised import SAMPLE, Codes

    return Codes(vectors.take(slots[:: -(-len(slots) // SAMPLE)]))
