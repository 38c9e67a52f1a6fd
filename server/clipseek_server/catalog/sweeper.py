"""The sweep: removes bytes that no record names and generations that no alias names, once they are old enough.

No request deletes bytes, so a slow request can never take them from a newer record. What is younger than the grace time
may belong to a write under way; no request lives that long. For the same reason bytes go only when a sweep at least the
grace time ago found them unnamed too: an update on another server may have read the record that named them, and is
about to write it back.

Bytes of a collection that Milvus does not know go only where its drop mark says that it was dropped: this Milvus may
have been restored, or be another one than the one that the bytes belong to.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from clipseek_server.catalog.interfaces import CollectionIndex, ImageStore, Index
from clipseek_server.catalog.walks import unnamed_keys
from clipseek_server.errors import ClipseekError, CollectionNotFound
from clipseek_server.images.blobs import Blob, drop_mark_key, split_blob_key
from clipseek_server.telemetry import Call, log

CHUNK = 500
MAX_WAITING = 100_000
"""Pictures that are remembered as unnamed; what is found beyond them waits for a later sweep."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep removed."""

    blobs: int
    generations: int


@dataclass(slots=True)
class _Turn:
    """What one sweep has found so far.

    Attributes:
        now: When it began.
        waiting: Blob keys that are unnamed, and drop marks of collections that are gone: when each was first found so.
        dropped: Collections whose bytes go in this sweep.
        unknown: Collections that neither Milvus nor a drop mark knows.
        kept: How many blobs those have.
        removed: How many blobs went.
    """

    now: float
    waiting: dict[str, float] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    kept: int = 0
    removed: int = 0


class Sweeper:
    """Sweeps now, or again and again.

    Args:
        index: Where records are.
        store: Where bytes are.
        grace: Seconds for which bytes must have been there, and unnamed, before they go.
        interval: Seconds between sweeps.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        index: Index,
        store: ImageStore,
        *,
        grace: float,
        interval: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._index = index
        self._store = store
        self._grace = grace
        self._interval = interval
        self._clock = clock
        self._waiting: dict[str, float] = {}

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
        turn = _Turn(self._clock())
        async for chunk in self._old_blobs():
            await self._sweep_chunk(chunk, turn)
        for uid in turn.dropped:
            await self._remove_mark(uid)
        self._waiting = turn.waiting
        if turn.kept:
            log.warning(
                "the image store has pictures of collections that this Milvus does not know, and keeps them: "
                "is it the right Milvus and database, or was it restored?",
                blobs=turn.kept,
                collection_uids=sorted(turn.unknown),
            )
        return Swept(turn.removed, len(generations))

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

    async def _sweep_chunk(self, blobs: list[Blob], turn: _Turn) -> None:
        """Remove what nothing names, by reads made after the listing."""
        live = await self._live_collections()
        known = await self._index.uids()
        by_uid: dict[str, list[str]] = {}
        for blob in blobs:
            by_uid.setdefault(split_blob_key(blob.key)[0], []).append(blob.key)
        for uid, keys in by_uid.items():
            if uid in live:
                unnamed = await unnamed_keys(live[uid], keys, Call(bulk=True))
                for key in {*keys} - {*unnamed}:
                    self._waiting.pop(split_blob_key(key)[2], None)  # whatever becomes of this sweep
                await self._remove([key for key in unnamed if self._is_due(split_blob_key(key)[2], turn)], turn)
            elif uid not in known:
                await self._sweep_unknown(uid, keys, turn)

    async def _sweep_unknown(self, uid: str, keys: list[str], turn: _Turn) -> None:
        mark = drop_mark_key(uid)
        if await self._store.size(mark) is None:
            turn.unknown.add(uid)
            turn.kept += len(keys)
        elif self._is_due(f"{mark} of an unknown collection", turn):
            turn.dropped.add(uid)
            await self._remove([key for key in keys if key != mark], turn)

    def _is_due(self, key: str, turn: _Turn) -> bool:
        """Whether an earlier sweep, at least the grace time ago, found the same."""
        since = self._waiting.get(key)
        if len(turn.waiting) < MAX_WAITING:
            turn.waiting[key] = turn.now if since is None else since
        return since is not None and turn.now - since >= self._grace

    async def _remove(self, keys: list[str], turn: _Turn) -> None:
        await self._store.delete(keys)
        turn.removed += len(keys)

    async def _remove_mark(self, uid: str) -> None:
        """Remove the mark of a dropped collection once it is all that is left."""
        mark = drop_mark_key(uid)
        async for blob in self._store.list(f"{uid}/"):
            if blob.key != mark:
                return
        await self._store.delete([mark])

    async def _live_collections(self) -> dict[str, CollectionIndex]:
        live = {}
        for name in await self._index.names():
            try:
                collection = await self._index.open(name)
            except CollectionNotFound:
                continue  # dropped meanwhile: uids() decides
            live[collection.info.uid] = collection
        return live
