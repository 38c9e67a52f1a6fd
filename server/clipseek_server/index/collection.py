"""One generation of a collection: what waits goes together, and with Milvus Lite memory answers searches."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from clipseek_server.batching import Batcher
from clipseek_server.errors import CollectionGone, IndexUnavailable
from clipseek_server.index.filters import Filter, to_text
from clipseek_server.index.holds import Holds
from clipseek_server.index.records import CollectionInfo, Effort, Match, Record, Row, Vector
from clipseek_server.index.resident import LOAD_PAGE, ResidentCopy
from clipseek_server.index.schema import stored
from clipseek_server.index.table import Table
from clipseek_server.index.vector_index import VectorIndex
from clipseek_server.telemetry import Call, Stage, log, now

Found = TypeVar("Found")

MAX_IDS = 1000
"""Most ids in one read or delete."""
_MAX_BATCH = 128
"""Most writes or reads that go together. Each that joins is compared with all before it."""
_MAX_SEARCHES = 32
_AT_A_TIME = 4
"""Calls of a Milvus server for searches that cannot go together, as for reads that wait for all writes and others."""
_MAX_QUEUE = 4096
_SHARED_LIMIT = 128
"""Searches for up to this many hits go together and fetch as many as the one that wants most."""
_VERIFY_PAGE = 1000

_FIRST_PAUSE = 1.0
"""Seconds until a copy that could not be loaded is loaded again; each failure doubles them."""
_LONGEST_PAUSE = 60.0


@dataclass(frozen=True, slots=True)
class _Read:
    image_ids: tuple[str, ...]
    strong: bool


@dataclass(frozen=True, slots=True)
class _Delete:
    image_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Search:
    vector: Vector
    limit: int
    filter: Filter | None
    effort: Effort
    strong: bool
    filter_text: str | None
    """Searches with the same one go together. The filters themselves would not do: True equals 1 in Python."""


class MilvusCollection:
    """A loaded generation. Implements ``catalog.interfaces.CollectionIndex``.

    All its rows are written here and nowhere else in this process, one Milvus call at a time: Milvus Lite requires it.

    Args:
        info: What it is.
        table: Its rows.
        vector_index: What its searches may ask for.
        holds: What other servers may do to its writes; ``None`` where there are none.
        resident_max_rows: Keep a copy in memory up to this many rows; ``None`` for no copy.
        executor: Where the copy is searched.
    """

    def __init__(
        self,
        info: CollectionInfo,
        table: Table,
        vector_index: VectorIndex,
        *,
        holds: Holds | None,
        resident_max_rows: int | None,
        executor: Executor,
    ) -> None:
        self.info = info
        self._table = table
        self._vector_index = vector_index
        self._holds = holds
        self._max_rows = resident_max_rows or 0
        self._executor = executor
        self._copy: ResidentCopy | None = None
        self._load_tried = asyncio.Event()
        self._loading: asyncio.Task[None] | None = None
        if resident_max_rows is not None:
            self._loading = asyncio.create_task(self._load(), name=f"load-{info.generation}")
            self._loading.add_done_callback(lambda _: self._load_tried.set())
        self._writing = asyncio.Lock()
        # Milvus Lite does one thing after the other anyway, and a copy in memory keeps a core busy for each scan.
        at_a_time = 1 if holds is None else _AT_A_TIME
        self._record_reads = _reader(self._table.records, at_a_time)
        self._row_reads = _reader(self._table.rows, at_a_time)
        self._writes = Batcher[Row | _Delete, None](
            "index write",
            self._run_writes,
            max_batch=_MAX_BATCH,
            max_queue=_MAX_QUEUE,
            stage=Stage.INDEX,
            may_join=_writes_join,
        )
        self._plain_searches = self._searcher(1)
        self._other_searches = self._searcher(at_a_time)

    @property
    def gone(self) -> bool:
        """Whether the generation was dropped, or Milvus Lite opened anew: the name must be opened again."""
        return self._table.gone

    @property
    def resident(self) -> bool:
        """Whether memory answers searches, pages and counts."""
        return self._copy is not None and self._copy.loaded

    async def ready(self) -> None:
        """Return when memory answers, as fast as it ever will, or cannot for now."""
        if self._loading is not None:
            await self._load_tried.wait()

    async def get(self, image_ids: Sequence[str], call: Call, *, strong: bool = True) -> dict[str, Record]:
        """The records that exist, by id; at most ``MAX_IDS`` ids."""
        self._table.check()
        return await self._record_reads.submit(_Read(tuple(image_ids), strong), call) if image_ids else {}

    async def get_rows(self, image_ids: Sequence[str], call: Call, *, strong: bool = True) -> dict[str, Row]:
        """As ``get``, with the vectors."""
        self._table.check()
        return await self._row_reads.submit(_Read(tuple(image_ids), strong), call) if image_ids else {}

    async def upsert(self, row: Row, call: Call) -> None:
        """Write a row; ``ValueError`` for a vector of another length, or that is not finite."""
        self._table.check()
        if row.vector.shape != (self.info.dimension,) or not np.isfinite(row.vector).all():
            # Milvus Lite takes such vectors without a word.
            raise ValueError(f"a vector of {self.info.dimension} finite numbers is needed, not {row.vector.shape}")
        await self._writes.submit(stored(row), call)

    async def delete(self, image_ids: Sequence[str], call: Call) -> None:
        """Delete rows, at most ``MAX_IDS``; ids without a record do not matter."""
        self._table.check()
        if image_ids:
            await self._writes.submit(_Delete(tuple(image_ids)), call)

    async def search(
        self,
        vector: Vector,
        limit: int,
        call: Call,
        *,
        filter: Filter | None,
        effort: Effort,
        strong: bool,
    ) -> list[Match]:
        """The nearest records, best first, ties by id; ``EffortNotServed`` where the index cannot."""
        self._table.check()
        self._vector_index.check(effort)
        text = to_text(filter) if filter is not None else None
        # Most are of one kind and go together; what may take many times as long must not hold them up.
        waits = strong and self._holds is not None
        plain = filter is None and effort is not Effort.EXACT and not waits
        searches = self._plain_searches if plain else self._other_searches
        return await searches.submit(_Search(vector, limit, filter, effort, strong, text), call)

    async def page(
        self,
        after: str,
        limit: int,
        call: Call,
        *,
        filter: Filter | None,
        strong: bool,
    ) -> list[Record]:
        """At most ``limit`` records with ids greater than ``after``, in the order of the ids; fewer only at the end."""
        self._table.check()
        call.check_deadline()
        with call.stage(Stage.INDEX):
            if self._copy is not None and self._copy.loaded:
                return await self._copy.page(after, limit, filter)
            return await self._table.record_page(after, limit, filter=filter, strong=strong)

    async def count(self, call: Call, *, strong: bool) -> int:
        """How many records there are."""
        self._table.check()
        call.check_deadline()
        with call.stage(Stage.INDEX):
            if self._copy is not None and self._copy.loaded:
                return len(self._copy)
            return await self._table.count(strong=strong)

    async def verify_resident(self, call: Call) -> list[str]:
        """Ids whose copy in memory differs from Milvus. Writes wait while a page is compared."""
        differing: list[str] = []
        copy, after = self._copy, ""
        while copy is not None and copy.loaded:
            call.check_deadline()
            async with self._writing:
                with call.stage(Stage.INDEX):
                    rows = await self._table.row_page(after, _VERIFY_PAGE)
                last = rows[-1].record.image_id if len(rows) == _VERIFY_PAGE else ""
                differing += _differences(rows, copy.rows(after, last))
            if not last:
                break
            after = last
        return differing

    def dismiss(self) -> None:
        """Have everything that waits, and all that comes, fail with ``CollectionGone``."""
        self._table.dismiss()

    async def close(self) -> None:
        """Take nothing new, finish what waits."""
        if self._loading is not None:
            self._loading.cancel()
        for batcher in (
            self._writes,
            self._plain_searches,
            self._other_searches,
            self._record_reads,
            self._row_reads,
        ):
            await batcher.close()
        if self._copy is not None:
            self._copy.close()

    def _searcher(self, at_a_time: int) -> Batcher[_Search, list[Match]]:
        return Batcher(
            "search",
            self._run_searches,
            max_batch=_MAX_SEARCHES,
            max_queue=_MAX_QUEUE,
            stage=Stage.INDEX,
            workers=at_a_time,
            may_join=_searches_join,
        )

    async def _run_writes(self, writes: Sequence[Row | _Delete]) -> list[None]:
        async with self._writing:
            await self._write(writes)
        return [None] * len(writes)

    async def _write(self, writes: Sequence[Row | _Delete]) -> None:
        rows = [write for write in writes if isinstance(write, Row)]
        image_ids = [image_id for write in writes if isinstance(write, _Delete) for image_id in write.image_ids]
        if rows:
            await self._table.upsert(rows)
        else:
            await self._table.delete(image_ids)
        if self._holds is not None:
            # What is written is not done yet: a server that rebuilds may have read before it.
            try:
                await self._holds.check(self.info.name, self.info.generation)
            except CollectionGone:
                self.dismiss()
                raise
        # No await from here on: a write is in the copy before anybody hears that it was done.
        if self._copy is not None:
            self._copy.put(rows)
            self._copy.remove(image_ids)
            self._bound()

    async def _run_searches(self, searches: Sequence[_Search]) -> list[list[Match]]:
        first = searches[0]
        vectors = [search.vector for search in searches]
        if self._copy is not None and self._copy.loaded:
            limits = [search.limit for search in searches]
            return await self._copy.search(vectors, limits, first.filter, first.effort)
        limit = max(search.limit for search in searches)
        found = await self._table.search(vectors, limit, filter=first.filter, effort=first.effort, strong=first.strong)
        return [matches[: search.limit] for search, matches in zip(searches, found, strict=True)]

    async def _load(self) -> None:
        pause = _FIRST_PAUSE
        while not await self._try_to_load(pause):
            self._load_tried.set()
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _try_to_load(self, pause: float) -> bool:
        """Returns whether it is settled; if not, it is to be tried again after so many seconds."""
        begin = now()
        # Before the rows are read: what is written from now on is not among them.
        self._copy = copy = ResidentCopy(self.info.dimension, self._executor)
        try:
            await copy.load(self._table.scan(LOAD_PAGE), self._max_rows)
            if copy.loaded:
                answers = now()
                await copy.quantised()
                log.info(
                    "collection is in memory",
                    collection=self.info.name,
                    rows=len(copy),
                    seconds=round(answers - begin, 2),
                    codes_seconds=round(now() - answers, 2),
                )
        except Exception as error:
            # Whatever it was: a copy that is not loaded would remember all that is written, for ever.
            self._copy = None
            again = isinstance(error, IndexUnavailable)
            log.warning(
                "collection is not copied into memory and searched slowly",
                collection=self.info.name,
                error=str(error),
                again_in_seconds=pause if again else None,
                exc_info=None if again or isinstance(error, CollectionGone) else error,
            )
            return not again
        self._bound()
        return True

    def _bound(self) -> None:
        if self._copy is not None and len(self._copy) > self._max_rows:
            log.warning(
                "collection is too large for memory and searched slowly from now on: it is time for a Milvus server",
                collection=self.info.name,
                resident_max_rows=self._max_rows,
            )
            self._copy.close()
            self._copy = None


def _reader(fetch: Callable[..., Awaitable[dict[str, Found]]], at_a_time: int) -> Batcher[_Read, dict[str, Found]]:
    async def run(reads: Sequence[_Read]) -> list[dict[str, Found]]:
        wanted = dict.fromkeys(image_id for read in reads for image_id in read.image_ids)
        found = await fetch(wanted, strong=reads[0].strong)
        return [{image_id: found[image_id] for image_id in read.image_ids if image_id in found} for read in reads]

    return Batcher(
        "index read",
        run,
        max_batch=_MAX_BATCH,
        max_queue=_MAX_QUEUE,
        stage=Stage.INDEX,
        workers=at_a_time,
        may_join=_reads_join,
    )


def _reads_join(batch: Sequence[_Read], read: _Read) -> bool:
    ids = sum(len(other.image_ids) for other in batch) + len(read.image_ids)
    return read.strong == batch[0].strong and ids <= MAX_IDS


def _writes_join(batch: Sequence[Row | _Delete], write: Row | _Delete) -> bool:
    if isinstance(write, Row):
        return all(isinstance(other, Row) and other.record.image_id != write.record.image_id for other in batch)
    deletes = [other for other in batch if isinstance(other, _Delete)]
    return len(deletes) == len(batch) and sum(len(other.image_ids) for other in [*deletes, write]) <= MAX_IDS


def _searches_join(batch: Sequence[_Search], search: _Search) -> bool:
    first = batch[0]
    same_size = search.limit == first.limit or max(search.limit, first.limit) <= _SHARED_LIMIT
    same_kind = (search.effort, search.strong, search.filter_text) == (first.effort, first.strong, first.filter_text)
    return same_size and same_kind


def _differences(rows: Sequence[Row], copied_rows: Sequence[Row]) -> list[str]:
    copied = {row.record.image_id: row for row in copied_rows}
    differing = []
    for row in rows:
        other = copied.pop(row.record.image_id, None)
        if other is None or other.record != row.record or not np.array_equal(other.vector, row.vector):
            differing.append(row.record.image_id)
    return sorted([*differing, *copied])
