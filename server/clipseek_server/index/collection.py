"""One generation of a collection: its rows read, written and searched; what waits goes together."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from pymilvus import MilvusClient

from clipseek_server.batching import Batcher
from clipseek_server.config import Settings
from clipseek_server.errors import CollectionGone, IndexUnavailable
from clipseek_server.index.connection import Connection
from clipseek_server.index.filters import Filter, to_milvus
from clipseek_server.index.records import CollectionInfo, Effort, Match, Record, Row, Vector
from clipseek_server.index.resident import ResidentCopy
from clipseek_server.index.schema import (
    RECORD_FIELDS,
    ROW_FIELDS,
    VECTOR_FIELD,
    id_after,
    id_in,
    stored,
    to_entity,
    to_record,
    to_row,
)
from clipseek_server.index.vector_index import METRIC, VectorIndex
from clipseek_server.telemetry import Call, Stage, log

Result = TypeVar("Result")

MAX_IDS = 1000
"""Most ids in one read or delete."""
_MAX_ROWS = 256
_MAX_SEARCHES = 32
_MAX_QUEUE = 4096
_SHARED_LIMIT = 128
"""Searches for up to this many hits go together and fetch as many as the one that wants most."""
_VERIFY_PAGE = 1000


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


class MilvusCollection:
    """A loaded generation. Implements ``catalog.interfaces.CollectionIndex``.

    All rows are written here and nowhere else in this process, one Milvus call at a time: Milvus Lite requires it.
    With Milvus Lite a copy in memory answers searches, pages and counts as soon as it is loaded.
    """

    def __init__(
        self,
        info: CollectionInfo,
        vector_index: VectorIndex,
        connection: Connection,
        settings: Settings,
        executor: Executor,
    ) -> None:
        self.info = info
        self._vector_index = vector_index
        self._connection = connection
        self._settings = settings
        self._epoch = connection.epoch
        self._gone = False
        self._copy = ResidentCopy(info.dimension, executor) if connection.embedded else None
        self._loading = asyncio.create_task(self._load_copy()) if self._copy is not None else None
        self._record_reads = Batcher[_Read, dict[str, Record]](
            "index read",
            partial(self._run_reads, RECORD_FIELDS, to_record),
            max_batch=_MAX_ROWS,
            may_join=_reads_join,
            max_queue=_MAX_QUEUE,
            stage=Stage.INDEX,
        )
        self._row_reads = Batcher[_Read, dict[str, Row]](
            "index read",
            partial(self._run_reads, ROW_FIELDS, to_row),
            max_batch=_MAX_ROWS,
            may_join=_reads_join,
            max_queue=_MAX_QUEUE,
            stage=Stage.INDEX,
        )
        self._writes = Batcher[Row | _Delete, None](
            "index write",
            self._run_writes,
            max_batch=_MAX_ROWS,
            may_join=_writes_join,
            max_queue=_MAX_QUEUE,
            stage=Stage.INDEX,
        )
        self._searches = Batcher[_Search, list[Match]](
            "search",
            self._run_searches,
            max_batch=_MAX_SEARCHES,
            may_join=_searches_join,
            max_queue=_MAX_QUEUE,
            stage=Stage.INDEX,
        )

    @property
    def gone(self) -> bool:
        """Whether the generation was dropped, or Milvus Lite opened anew: the name must be opened again."""
        return self._gone or self._epoch != self._connection.epoch

    async def ready(self) -> None:
        """Return when the copy in memory answers, or will not."""
        if self._loading is not None:
            await asyncio.wait([self._loading])

    async def get(self, image_ids: Sequence[str], call: Call, *, strong: bool = True) -> dict[str, Record]:
        """The records that exist, by id; at most ``MAX_IDS`` ids."""
        self._check()
        return await self._record_reads.submit(_Read(tuple(image_ids), strong), call) if image_ids else {}

    async def get_rows(self, image_ids: Sequence[str], call: Call, *, strong: bool = True) -> dict[str, Row]:
        """As ``get``, with the vectors."""
        self._check()
        return await self._row_reads.submit(_Read(tuple(image_ids), strong), call) if image_ids else {}

    async def upsert(self, row: Row, call: Call) -> None:
        """Write a row; rows that wait go together."""
        self._check()
        if row.vector.shape != (self.info.dimension,) or not np.isfinite(row.vector).all():
            # Milvus Lite takes such vectors without a word.
            raise ValueError(f"a vector of {self.info.dimension} finite numbers is needed, not {row.vector.shape}")
        await self._writes.submit(stored(row), call)

    async def delete(self, image_ids: Sequence[str], call: Call) -> None:
        """Delete rows, at most ``MAX_IDS``; ids without a record do not matter."""
        self._check()
        if image_ids:
            await self._writes.submit(_Delete(tuple(image_ids)), call)

    async def search(
        self, vector: Vector, limit: int, call: Call, *, filter: Filter | None, effort: Effort, strong: bool
    ) -> list[Match]:
        """The nearest records, best first, ties by id; ``EffortNotServed`` where the index cannot."""
        self._check()
        self._vector_index.check(effort)
        return await self._searches.submit(_Search(vector, limit, filter, effort, strong), call)

    async def page(self, after: str, limit: int, call: Call, *, filter: Filter | None, strong: bool) -> list[Record]:
        """At most ``limit`` records with ids greater than ``after``, in the order of the ids; fewer only at the end."""
        self._check()
        call.check_deadline()
        with call.stage(Stage.INDEX):
            if self._copy is not None and self._copy.loaded:
                return await self._copy.page(after, limit, filter)
            return [
                to_record(entity) for entity in await self._milvus_page(after, limit, RECORD_FIELDS, filter, strong)
            ]

    async def count(self, call: Call, *, strong: bool) -> int:
        """How many records there are."""
        self._check()
        call.check_deadline()
        with call.stage(Stage.INDEX):
            if self._copy is not None and self._copy.loaded:
                return len(self._copy)
            found = await self._ask(
                MilvusClient.query, filter="", output_fields=["count(*)"], consistency_level=self._consistency(strong)
            )
            return int(found[0]["count(*)"])

    async def verify_resident(self, call: Call) -> list[str]:
        """Ids whose copy in memory differs from Milvus, page by page; writes meanwhile may show as differences."""
        differing: list[str] = []
        copy = self._copy
        if copy is None or not copy.loaded:
            return differing
        after = ""
        while True:
            call.check_deadline()
            with call.stage(Stage.INDEX):
                stored_rows = await self._milvus_rows(after, _VERIFY_PAGE)
                last = stored_rows[-1].record.image_id if len(stored_rows) == _VERIFY_PAGE else ""
                differing += _differences(stored_rows, copy.rows(after, last))
            if not last:
                return differing
            after = last

    def dismiss(self) -> None:
        """Have everything that waits, and all that comes, fail with ``CollectionGone``."""
        self._gone = True

    async def close(self) -> None:
        """Take nothing new, finish what waits."""
        if self._loading is not None:
            self._loading.cancel()
        for batcher in (self._writes, self._searches, self._record_reads, self._row_reads):
            await batcher.close()

    def _check(self) -> None:
        if self.gone:
            raise CollectionGone(f"the collection {self.info.name!r} does not exist any more")

    def _consistency(self, strong: bool) -> str:
        return "Strong" if strong or self._connection.embedded else "Bounded"

    async def _ask(self, method: Callable[..., Any], **options: object) -> Any:
        return await self._guarded(self._connection.call, method, **options)

    async def _guarded(self, how: Callable[..., Any], method: Callable[..., Any], **options: object) -> Any:
        self._check()
        try:
            return await how(method, self.info.generation, **options)
        except CollectionGone:
            self._gone = True
            raise
        except IndexUnavailable:
            # What Milvus Lite says of a collection that is dropped meanwhile may be anything.
            self._check()
            raise

    async def _run_reads(
        self, fields: list[str], build: Callable[[Mapping[str, Any]], Result], reads: Sequence[_Read]
    ) -> list[dict[str, Result]]:
        wanted = dict.fromkeys(image_id for read in reads for image_id in read.image_ids)
        entities = await self._ask(
            MilvusClient.query,
            filter=id_in(wanted),
            output_fields=fields,
            consistency_level=self._consistency(reads[0].strong),
        )
        found = {entity["image_id"]: build(entity) for entity in entities}
        return [{image_id: found[image_id] for image_id in read.image_ids if image_id in found} for read in reads]

    async def _run_writes(self, writes: Sequence[Row | _Delete]) -> list[None]:
        rows = [write for write in writes if isinstance(write, Row)]
        image_ids = [image_id for write in writes if isinstance(write, _Delete) for image_id in write.image_ids]
        if rows:
            await self._guarded(self._connection.write, MilvusClient.upsert, data=[to_entity(row) for row in rows])
        else:
            await self._guarded(self._connection.write, MilvusClient.delete, filter=id_in(image_ids))
        # No await from here on: a write is in the copy before anybody hears that it was done.
        if self._copy is not None:
            self._copy.put(rows)
            self._copy.remove(image_ids)
            self._bound_copy()
        return [None] * len(writes)

    async def _run_searches(self, searches: Sequence[_Search]) -> list[list[Match]]:
        first = searches[0]
        vectors = [search.vector for search in searches]
        if self._copy is not None and self._copy.loaded:
            return await self._copy.search(vectors, [search.limit for search in searches], first.filter)
        limit = max(search.limit for search in searches)
        found = await self._ask(
            MilvusClient.search,
            data=vectors,
            limit=limit,
            filter=to_milvus(first.filter) if first.filter is not None else "",
            output_fields=RECORD_FIELDS,
            anns_field=VECTOR_FIELD,
            search_params={
                "metric_type": METRIC,
                "params": self._vector_index.search_params(first.effort, limit, self._settings),
            },
            consistency_level=self._consistency(first.strong),
        )
        return [_matches(hits)[: search.limit] for search, hits in zip(searches, found, strict=True)]

    async def _milvus_page(
        self, after: str, limit: int, fields: list[str], filter: Filter | None, strong: bool
    ) -> list[dict[str, Any]]:
        condition = id_after(after) if filter is None else f"{id_after(after)} and ({to_milvus(filter)})"
        # Lite sorts only for an iterator; a server always sorts, and forgets the consistency for an iterator.
        order = {"iterator": "True"} if self._connection.embedded else {}
        found = await self._ask(
            MilvusClient.query,
            filter=condition,
            output_fields=fields,
            limit=limit,
            consistency_level=self._consistency(strong),
            **order,
        )
        return list(found)

    async def _milvus_rows(self, after: str, limit: int) -> list[Row]:
        return [to_row(entity) for entity in await self._milvus_page(after, limit, ROW_FIELDS, None, strong=True)]

    async def _load_copy(self) -> None:
        assert self._copy is not None  # noqa: S101
        try:
            await self._copy.load(self._milvus_rows)
        except (CollectionGone, IndexUnavailable) as error:
            log.warning("collection is not copied into memory", collection=self.info.name, error=error.message)
            self._copy = None
        else:
            self._bound_copy()

    def _bound_copy(self) -> None:
        if self._copy is not None and len(self._copy) > self._settings.resident_max_rows:
            log.warning(
                "collection is too large for memory and searched slowly from now on: it is time for a Milvus server",
                collection=self.info.name,
                resident_max_rows=self._settings.resident_max_rows,
            )
            self._copy = None
            if self._loading is not None:
                self._loading.cancel()


def _reads_join(batch: Sequence[_Read], read: _Read) -> bool:
    ids = sum(len(other.image_ids) for other in batch) + len(read.image_ids)
    return read.strong == batch[0].strong and ids <= MAX_IDS


def _writes_join(batch: Sequence[Row | _Delete], write: Row | _Delete) -> bool:
    # An id twice in one upsert: Lite would keep the last, a server the first.
    if isinstance(write, Row):
        return all(isinstance(other, Row) and other.record.image_id != write.record.image_id for other in batch)
    deletes = [other for other in batch if isinstance(other, _Delete)]
    return len(deletes) == len(batch) and sum(len(other.image_ids) for other in [*deletes, write]) <= MAX_IDS


def _searches_join(batch: Sequence[_Search], search: _Search) -> bool:
    first = batch[0]
    same_size = search.limit == first.limit or max(search.limit, first.limit) <= _SHARED_LIMIT
    same_way = (search.effort, search.strong) == (first.effort, first.strong)
    return same_size and same_way and search.filter == first.filter


def _matches(hits: Sequence[Mapping[str, Any]]) -> list[Match]:
    found = [Match(to_record(hit["entity"]), min(1.0, max(-1.0, float(hit["distance"])))) for hit in hits]
    found.sort(key=lambda match: (-match.score, match.record.image_id))
    return found


def _differences(stored_rows: Sequence[Row], copied_rows: Sequence[Row]) -> list[str]:
    copied = {row.record.image_id: row for row in copied_rows}
    differing = []
    for row in stored_rows:
        other = copied.pop(row.record.image_id, None)
        if other is None or other.record != row.record or not np.array_equal(other.vector, row.vector):
            differing.append(row.record.image_id)
    return sorted([*differing, *copied])
