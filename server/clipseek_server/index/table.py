"""The rows of one generation in Milvus."""

import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pymilvus import MilvusClient

from clipseek_server.config import Settings
from clipseek_server.errors import CollectionGone, IndexUnavailable
from clipseek_server.index.connection import Connection
from clipseek_server.index.filters import Filter, to_milvus
from clipseek_server.index.records import Effort, Match, Record, Row, Vector
from clipseek_server.index.schema import (
    RECORD_FIELDS,
    ROW_FIELDS,
    VECTOR_FIELD,
    id_after,
    id_in,
    to_entity,
    to_record,
    to_row,
)
from clipseek_server.index.vector_index import METRIC, VectorIndex

if TYPE_CHECKING:
    from clipseek_server.index.consistent_lite import ConsistentCollection

Result = TypeVar("Result")


class Table:
    """Reads, writes and searches one generation, each in one Milvus call.

    Every method raises ``CollectionGone`` when the generation was dropped or Milvus Lite opened anew, and
    ``IndexUnavailable`` when Milvus does not answer. ``strong`` reads see all acknowledged writes; with
    Milvus Lite all do. Not to be written by two callers at a time.
    """

    def __init__(self, physical: str, vector_index: VectorIndex, connection: Connection, settings: Settings) -> None:
        self._physical = physical
        self._vector_index = vector_index
        self._connection = connection
        self._settings = settings
        self._epoch = connection.epoch
        self._gone = False

    @property
    def gone(self) -> bool:
        """Whether every call fails with ``CollectionGone``."""
        return self._gone or self._epoch != self._connection.epoch

    def check(self) -> None:
        """Raise ``CollectionGone`` if it is gone."""
        if self.gone:
            raise CollectionGone("the collection does not exist any more")

    def dismiss(self) -> None:
        """Have every call fail with ``CollectionGone`` from now on."""
        self._gone = True

    async def upsert(self, rows: Sequence[Row]) -> None:
        """Write rows; no id twice: Milvus Lite would keep the last, a server the first."""
        await self._guarded(self._connection.write, MilvusClient.upsert, data=[to_entity(row) for row in rows])

    async def delete(self, image_ids: Iterable[str]) -> None:
        """Delete rows; ids without one do not matter."""
        await self._guarded(self._connection.write, MilvusClient.delete, filter=id_in(image_ids))

    async def records(self, image_ids: Iterable[str], *, strong: bool) -> dict[str, Record]:
        """The records that exist, by id."""
        found = await self._query(to_record, id_in(image_ids), RECORD_FIELDS, strong=strong)
        return {record.image_id: record for record in found}

    async def rows(self, image_ids: Iterable[str], *, strong: bool) -> dict[str, Row]:
        """The rows that exist, by id."""
        found = await self._query(to_row, id_in(image_ids), ROW_FIELDS, strong=strong)
        return {row.record.image_id: row for row in found}

    async def record_page(
        self,
        after: str,
        limit: int,
        *,
        filter: Filter | None,
        strong: bool,
    ) -> list[Record]:
        """At most ``limit`` matching records with ids greater than ``after``, in their order; fewer only at the end."""
        condition = id_after(after) if filter is None else f"{id_after(after)} and ({to_milvus(filter)})"
        return await self._query(to_record, condition, RECORD_FIELDS, strong=strong, limit=limit, **self._order())

    async def row_page(self, after: str, limit: int) -> list[Row]:
        """At most ``limit`` rows with ids greater than ``after``, in their order; fewer only at the end."""
        return await self._query(to_row, id_after(after), ROW_FIELDS, strong=True, limit=limit, **self._order())

    async def scan(self, size: int) -> AsyncIterator[list[Row]]:
        """All rows as they are now, in the order of their ids, so many at a time. With Milvus Lite alone."""
        pages = await self._guarded(self._connection.call_lite, _begin_scan, size=size)
        while page := await self._guarded(self._connection.call_lite, _next_page, pages=pages):
            yield page

    async def count(self, *, strong: bool) -> int:
        """How many rows there are."""
        (found,) = await self._query(dict, "", ["count(*)"], strong=strong)
        return int(found["count(*)"])

    async def search(
        self,
        vectors: Sequence[Vector],
        limit: int,
        *,
        filter: Filter | None,
        effort: Effort,
        strong: bool,
    ) -> list[list[Match]]:
        """For each vector its nearest records, best first, ties by id."""
        found: list[list[Match]] = await self._guarded(
            self._connection.call,
            _search,
            data=list(vectors),
            limit=limit,
            filter=to_milvus(filter) if filter is not None else "",
            output_fields=RECORD_FIELDS,
            anns_field=VECTOR_FIELD,
            search_params={
                "metric_type": METRIC,
                "params": self._vector_index.search_params(effort, limit, self._settings, filtered=filter is not None),
            },
            consistency_level=self._consistency(strong),
        )
        if not all(found):
            await self._check_there()
        return found

    async def _query(
        self,
        build: Callable[[Mapping[str, Any]], Result],
        condition: str,
        fields: list[str],
        *,
        strong: bool,
        **options: object,
    ) -> list[Result]:
        found: list[Result] = await self._guarded(
            self._connection.call,
            _query,
            build=build,
            filter=condition,
            output_fields=fields,
            consistency_level=self._consistency(strong),
            **options,
        )
        if not found:
            await self._check_there()
        return found

    async def _check_there(self) -> None:
        """Raise ``CollectionGone`` if it is not: while a server drops it, reads find nothing before they fail."""
        if not self._connection.embedded:
            await self._guarded(self._connection.call, MilvusClient.describe_collection)

    async def _guarded(self, how: Callable[..., Any], method: Callable[..., Any], **options: object) -> Any:
        self.check()
        try:
            return await how(method, self._physical, **options)
        except CollectionGone:
            self._gone = True
            raise
        except IndexUnavailable:
            # What Milvus Lite says of a collection that is dropped meanwhile may be anything.
            self.check()
            raise

    def _consistency(self, strong: bool) -> str:
        return "Strong" if strong or self._connection.embedded else "Bounded"

    def _order(self) -> dict[str, object]:
        # Lite sorts only for an iterator; a server always sorts, and forgets the consistency for an iterator.
        return {"iterator": "True"} if self._connection.embedded else {}


# These run in threads, so that thousands of rows are not built on the event loop.


def _query(
    client: Any, physical: str, *, build: Callable[[Mapping[str, Any]], Result], **options: object
) -> list[Result]:
    return [build(entity) for entity in client.query(physical, **options)]


def _begin_scan(collection: "ConsistentCollection", *, size: int) -> Iterator[list[dict[str, Any]]]:
    return collection.pages(RECORD_FIELDS, size)


def _next_page(_: "ConsistentCollection", *, pages: Iterator[list[dict[str, Any]]]) -> list[Row]:
    return [to_row({**entity, "metadata": json.loads(entity["metadata"])}) for entity in next(pages, [])]


def _search(client: Any, physical: str, **options: object) -> list[list[Match]]:
    found = []
    for hits in client.search(physical, **options):
        matches = [Match(to_record(hit["entity"]), min(1.0, max(-1.0, float(hit["distance"])))) for hit in hits]
        matches.sort(key=lambda match: (-match.score, match.record.image_id))
        found.append(matches)
    return found
