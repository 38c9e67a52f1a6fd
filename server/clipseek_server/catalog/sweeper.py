"""The sweep: removes bytes that no record names and generations that no alias names, once they are old enough.

No request deletes bytes, so a slow request can never take them from a newer record. What is younger than the grace time
may belong to a write under way; no request lives that long.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from clipseek_server.catalog.interfaces import CollectionIndex, ImageStore, Index
from clipseek_server.errors import ClipseekError, CollectionNotFound
from clipseek_server.images.blobs import Blob, split_blob_key
from clipseek_server.telemetry import Call, log

CHUNK = 500


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep removed."""

    blobs: int
    generations: int


class Sweeper:
    """Sweeps now, or again and again."""

    def __init__(self, index: Index, store: ImageStore, *, grace: float, interval: float) -> None:
        self._index = index
        self._store = store
        self._grace = grace
        self._interval = interval

    async def run(self) -> None:
        """Sweep every ``interval`` seconds until cancelled; a failure is logged and the next turn tries again."""
        while True:
            await asyncio.sleep(self._interval)
            try:
                swept = await self.sweep()
            except ClipseekError as error:
                log.warning("sweep put off", reason=error.message)
            except Exception:
                log.exception("sweep failed")
            else:
                log.info("swept", blobs=swept.blobs, generations=swept.generations)

    async def sweep(self) -> Swept:
        """Sweep once."""
        generations = await self._index.sweep(self._grace)
        blobs = 0
        async for chunk in self._old_blobs():
            unnamed = await self._unnamed(chunk)
            await self._store.delete(unnamed)
            blobs += len(unnamed)
        return Swept(blobs, len(generations))

    async def _old_blobs(self) -> AsyncIterator[list[Blob]]:
        chunk: list[Blob] = []
        async for blob in self._store.list():
            if blob.age <= self._grace:
                continue
            chunk.append(blob)
            if len(chunk) == CHUNK:
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    async def _unnamed(self, blobs: list[Blob]) -> list[str]:
        """The keys that no record names, by reads made after the listing."""
        live = await self._live_collections()
        known = await self._index.uids()
        by_uid: dict[str, list[Blob]] = {}
        for blob in blobs:
            by_uid.setdefault(split_blob_key(blob.key)[0], []).append(blob)
        unnamed: list[str] = []
        for uid, group in by_uid.items():
            if uid in live:
                unnamed += await _unnamed_in(live[uid], group)
            elif uid not in known:
                unnamed += [blob.key for blob in group]
        return unnamed

    async def _live_collections(self) -> dict[str, CollectionIndex]:
        live = {}
        for name in await self._index.names():
            try:
                collection = await self._index.open(name)
            except CollectionNotFound:
                continue  # dropped meanwhile: uids() decides
            live[collection.info.uid] = collection
        return live


async def _unnamed_in(collection: CollectionIndex, blobs: list[Blob]) -> list[str]:
    owners = {blob.key: split_blob_key(blob.key) for blob in blobs}
    image_ids = list({image_id for _, image_id, _ in owners.values()})
    records = await collection.get(image_ids, Call(bulk=True))
    named = {record.blob_key for record in records.values()}
    return [key for key, (_, _, blob_key) in owners.items() if blob_key not in named]
