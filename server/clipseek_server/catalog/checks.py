"""Check: do records, vectors, stored bytes and the copy in memory fit together? It reports and changes nothing."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import Enum, auto

import numpy as np

from clipseek_server.catalog.concurrency import gather
from clipseek_server.catalog.interfaces import CollectionIndex, ImageStore, Index
from clipseek_server.images.blobs import split_blob_key
from clipseek_server.index.records import Record, Row
from clipseek_server.telemetry import Call

PAGE = 256
LENGTH_TOLERANCE = 1e-3


class Fault(Enum):
    """As ``clipseek.v1.DifferenceKind``."""

    MISSING_BYTES = auto()
    CORRUPT_BYTES = auto()
    BAD_VECTOR = auto()
    STALE_RESIDENT_COPY = auto()
    ORPHANED_BYTES = auto()


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that does not fit."""

    fault: Fault
    image_id: str
    message: str


@dataclass(frozen=True, slots=True)
class Report:
    """What was found since the last report, and how far the check is."""

    differences: list[Difference]
    images_checked: int
    images_total: int


class Checks:
    """Checks collections."""

    def __init__(self, index: Index, store: ImageStore) -> None:
        self._index = index
        self._store = store

    async def check(self, name: str, call: Call, *, verify_bytes: bool) -> AsyncIterator[Report]:
        """Compare everything that is stored about a collection; the last report has only the counts.

        Raises:
            CollectionNotFound: There is none of that name.
        """
        collection = await self._index.open(name)
        total = await collection.count(call, strong=True)
        checked, after = 0, ""
        while page := await collection.page(after, PAGE, call, filter=None, strong=True):
            rows = await collection.get_rows([record.image_id for record in page], call)
            found = await gather(self._check_row(row, verify_bytes=verify_bytes) for row in rows.values())
            checked += len(page)
            after = page[-1].image_id
            yield Report([difference for differences in found for difference in differences], checked, total)
        stale = [
            Difference(Fault.STALE_RESIDENT_COPY, image_id, "the copy in memory differs from Milvus")
            for image_id in await collection.verify_resident(call)
        ]
        if stale:
            yield Report(stale, checked, total)
        orphans = await self._orphans(collection, call)
        if orphans:
            yield Report(orphans, checked, total)
        yield Report([], checked, total)

    async def _check_row(self, row: Row, *, verify_bytes: bool) -> list[Difference]:
        record = row.record
        differences = []
        length = float(np.linalg.norm(row.vector))
        if not abs(length - 1) <= LENGTH_TOLERANCE:  # also false for NaN
            differences.append(Difference(Fault.BAD_VECTOR, record.image_id, f"the vector's length is {length:g}"))
        if not verify_bytes:
            if not await self._store.exists(record.blob_key):
                differences.append(_missing(record))
            return differences
        data = await self._store.get(record.blob_key)
        if data is None:
            differences.append(_missing(record))
        elif await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest()) != record.content_sha256:
            differences.append(Difference(Fault.CORRUPT_BYTES, record.image_id, "the bytes' hash has changed"))
        return differences

    async def _orphans(self, collection: CollectionIndex, call: Call) -> list[Difference]:
        keys: dict[str, str] = {}
        async for blob in self._store.list(collection.info.uid):
            _, image_id, blob_key = split_blob_key(blob.key)
            keys[blob_key] = image_id
        image_ids = list(dict.fromkeys(keys.values()))
        named: set[str] = set()
        for start in range(0, len(image_ids), PAGE):
            records = await collection.get(image_ids[start : start + PAGE], call)
            named.update(record.blob_key for record in records.values())
        return [
            Difference(Fault.ORPHANED_BYTES, image_id, "no record names these bytes")
            for blob_key, image_id in keys.items()
            if blob_key not in named
        ]


def _missing(record: Record) -> Difference:
    return Difference(Fault.MISSING_BYTES, record.image_id, "the image store does not have its bytes")
