"""Check: do records, vectors, stored bytes and the copy in memory fit together? It reports and changes nothing."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto

import numpy as np

from clipseek_server.catalog.collections import Collections
from clipseek_server.catalog.concurrency import gather
from clipseek_server.catalog.interfaces import CollectionIndex, ImageStore
from clipseek_server.catalog.walks import unnamed_keys
from clipseek_server.images.blobs import split_blob_key
from clipseek_server.index.records import Record, Row
from clipseek_server.telemetry import Call

PAGE = 256
"""Records, or stored keys, that are compared at a time."""

MAX_DIFFERENCES = 500
"""In one report, which becomes one message; a page has at most two each."""

HASHES = 8
"""Pictures that are read at a time."""

HASH_CHUNK_BYTES = 1024 * 1024
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

    def __init__(self, collections: Collections, store: ImageStore) -> None:
        self._collections = collections
        self._store = store
        self._hashing = asyncio.Semaphore(HASHES)

    async def check(self, name: str, call: Call, *, verify_bytes: bool) -> AsyncIterator[Report]:
        """Compare everything that is stored about a collection; the last report has only the counts.

        It goes on where it was when the collection is rebuilt meanwhile, and writes meanwhile do no harm.

        Raises:
            CollectionNotFound: There is none of that name.
        """
        read = self._collections.read
        total = await read(name, lambda collection: collection.count(call, strong=True))
        checked, after = 0, ""

        async def next_page(collection: CollectionIndex) -> tuple[list[Record], dict[str, Row]]:
            page = await collection.page(after, PAGE, call, filter=None, strong=True)
            return page, await collection.get_rows([record.image_id for record in page], call)

        while (found := await read(name, next_page))[0]:
            page, rows = found
            differing = await gather(self._check_row(row, verify_bytes=verify_bytes) for row in rows.values())
            checked, after = checked + len(page), page[-1].image_id
            yield Report([difference for differences in differing for difference in differences], checked, total)
        stale = await read(name, lambda collection: collection.verify_resident(call))
        for start in range(0, len(stale), MAX_DIFFERENCES):
            differences = [
                Difference(Fault.STALE_RESIDENT_COPY, image_id, "the copy in memory differs from Milvus")
                for image_id in stale[start : start + MAX_DIFFERENCES]
            ]
            yield Report(differences, checked, total)
        async for orphans in self._orphans(name, call):
            if orphans:
                yield Report(orphans, checked, total)
        yield Report([], checked, total)

    async def _check_row(self, row: Row, *, verify_bytes: bool) -> list[Difference]:
        record = row.record
        differences = []
        length = float(np.linalg.norm(row.vector))
        if not abs(length - 1) <= LENGTH_TOLERANCE:  # also false for NaN
            differences.append(Difference(Fault.BAD_VECTOR, record.image_id, f"the vector's length is {length:g}"))
        size = await self._store.size(record.blob_key)
        if size is None:
            differences.append(Difference(Fault.MISSING_BYTES, record.image_id, "the image store lacks its bytes"))
        elif size != record.size_bytes:
            message = f"{size} bytes are stored instead of {record.size_bytes}"
            differences.append(Difference(Fault.CORRUPT_BYTES, record.image_id, message))
        elif verify_bytes and await self._digest(record.blob_key) != record.content_sha256:
            differences.append(Difference(Fault.CORRUPT_BYTES, record.image_id, "the bytes' hash has changed"))
        return differences

    async def _digest(self, key: str) -> str:
        # Few at a time and piece by piece: a page of large pictures would not fit into memory.
        digest = hashlib.sha256()
        async with self._hashing:
            async for chunk in self._store.chunks(key, HASH_CHUNK_BYTES):
                await asyncio.to_thread(digest.update, chunk)
        return digest.hexdigest()

    async def _orphans(self, name: str, call: Call) -> AsyncIterator[list[Difference]]:
        async def uid(collection: CollectionIndex) -> str:
            return collection.info.uid

        keys: list[str] = []
        async for blob in self._store.list(f"{await self._collections.read(name, uid)}/"):
            keys.append(blob.key)
            if len(keys) == PAGE:
                yield await self._unnamed(name, keys, call)
                keys = []
        yield await self._unnamed(name, keys, call)

    async def _unnamed(self, name: str, keys: Sequence[str], call: Call) -> list[Difference]:
        unnamed = await self._collections.read(name, lambda collection: unnamed_keys(collection, keys, call))
        owners = {key: split_blob_key(key) for key in unnamed}
        return [
            Difference(Fault.ORPHANED_BYTES, image_id, "no record names these bytes")
            for key, (_, image_id, blob_key) in owners.items()
            # A drop mark is of no image, and a thumbnail is told of with its picture.
            if image_id and (key == blob_key or await self._store.size(blob_key) is None)
        ]
