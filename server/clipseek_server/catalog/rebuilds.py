"""Rebuild: every stored picture is embedded again into a new generation, which then takes the old one's place.

Writes to the collection are held meanwhile; searches go on. The flip of the alias is the point of no return: a server
that dies before it leaves the old generation live, one that dies after it the new one; the sweep removes the other.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum, auto

from clipseek_server.catalog.collections import Collections
from clipseek_server.catalog.concurrency import gather
from clipseek_server.catalog.interfaces import CollectionIndex, ImageStore, Index, Model
from clipseek_server.catalog.walks import record_pages
from clipseek_server.errors import (
    ClipseekError,
    ImageDamaged,
    ImageTooLarge,
    IndexUnavailable,
    InvalidImage,
    NotServing,
)
from clipseek_server.index.records import Record, Row
from clipseek_server.telemetry import Call, log

PAGE = 64
"""Pictures in work at a time: a few batches for each tower."""


class Phase(Enum):
    """As ``clipseek.v1.RebuildPhase``."""

    EMBEDDING = auto()
    CHECKING = auto()
    SWITCHING = auto()
    DROPPING = auto()
    DONE = auto()
    FAILED = auto()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a rebuild is."""

    rebuild_id: str
    generation: str
    phase: Phase
    images_done: int
    images_total: int


class _Rebuild:
    """One rebuild and those who watch it."""

    def __init__(self) -> None:
        self.progress = Progress(secrets.token_hex(8), "", Phase.EMBEDDING, 0, 0)
        self.error: Exception | None = None
        self._changed = asyncio.Condition()
        self._version = 0

    async def report(self, **changes: object) -> None:
        async with self._changed:
            self.progress = replace(self.progress, **changes)  # type: ignore[arg-type]  # fields of Progress
            self._version += 1
            self._changed.notify_all()

    async def watch(self) -> AsyncIterator[Progress]:
        version = -1
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._version != version)  # noqa: B023 - evaluated at once
                version, progress = self._version, self.progress
            yield progress
            if progress.phase in (Phase.DONE, Phase.FAILED):
                if self.error is not None:
                    raise self.error
                return


class Rebuilds:
    """Starts rebuilds, at most one a collection, and lets callers watch them."""

    def __init__(self, collections: Collections, index: Index, store: ImageStore) -> None:
        self._collections = collections
        self._index = index
        self._store = store
        self._running: dict[str, _Rebuild] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def progress(self, name: str) -> Progress | None:
        """How far the rebuild of a collection is; ``None`` when none runs."""
        rebuild = self._running.get(name)
        return rebuild.progress if rebuild else None

    async def watch(self, name: str, model_name: str = "") -> AsyncIterator[Progress]:
        """Start a rebuild, or attach to the one that runs. Not watching any more does not stop it.

        Args:
            name: The collection.
            model_name: The model to embed with; empty means the one that serves the collection. Who attaches gets the
                one that runs.

        Raises:
            CollectionNotFound: There is no such collection.
            ModelNotFound: The model is not loaded.
            SpaceMismatch: The model is of another space, or no loaded model serves the collection.
            ClipseekError: What made the rebuild fail; the old generation stays live.
        """
        rebuild = self._running.get(name)
        if rebuild is None:
            collection = await self._index.open(name)
            model = self._collections.models.for_rebuild(collection.info, model_name)
            rebuild = self._running.get(name)  # another caller may have been faster
            if rebuild is None:
                rebuild = self._running[name] = _Rebuild()
                task = asyncio.create_task(self._run(rebuild, name, model), name=f"rebuild-{name}")
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        async for progress in rebuild.watch():
            yield progress

    async def close(self) -> None:
        """Give up what runs, and tell those who watch; the old generations stay live."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _run(self, rebuild: _Rebuild, name: str, model: Model) -> None:
        lines = log.bind(collection=name, rebuild_id=rebuild.progress.rebuild_id)
        lines.info("rebuild begins", model=model.manifest.name)
        try:
            async with self._collections.gates.holding(name):
                await self._rebuild(rebuild, await self._index.open(name), model)
            phase = Phase.DONE
        except asyncio.CancelledError:
            rebuild.error, phase = NotServing("the server is shutting down; rebuild again later"), Phase.FAILED
        except ClipseekError as error:
            rebuild.error, phase = error, Phase.FAILED
        except Exception as error:
            lines.exception("bug in a rebuild")
            rebuild.error, phase = error, Phase.FAILED
        finally:
            del self._running[name]
        await rebuild.report(phase=phase)
        reason = {"reason": str(rebuild.error)} if rebuild.error else {}
        lines.info("rebuild ends", phase=phase.name, images=rebuild.progress.images_done, **reason)

    async def _rebuild(self, rebuild: _Rebuild, old: CollectionIndex, model: Model) -> None:
        call = Call(request_id=rebuild.progress.rebuild_id, bulk=True)
        new = await self._index.begin_generation(old.info, precision=model.manifest.precision)
        try:
            await rebuild.report(generation=new.info.generation, images_total=await old.count(call, strong=True))
            async for page in record_pages(old, PAGE, call):
                await gather(self._embed_again(record, old, new, model, call) for record in page)
                await rebuild.report(images_done=rebuild.progress.images_done + len(page))
            await rebuild.report(phase=Phase.CHECKING)
            await _compare(old, new, call)
            await rebuild.report(phase=Phase.SWITCHING)
            await self._index.publish(new.info)
        except BaseException:
            with suppress(ClipseekError):  # the sweep will
                await self._index.discard(new.info)
            raise
        try:
            await rebuild.report(phase=Phase.DROPPING)
            await self._index.discard(old.info)
        except (Exception, asyncio.CancelledError) as error:
            # It is done all the same, also when the server stops now.
            log.warning("the old generation is left to the sweep", collection=old.info.name, reason=repr(error))

    async def _embed_again(
        self, record: Record, old: CollectionIndex, new: CollectionIndex, model: Model, call: Call
    ) -> None:
        data = await self._store.get(record.blob_key)
        if data is None:
            # The vector is all that is left of the picture; it is still of the collection's space.
            log.warning("bytes are missing, vector is kept", image_id=record.image_id, collection=old.info.name)
            row = (await old.get_rows([record.image_id], call))[record.image_id]
            await new.upsert(row, call)
            return
        try:
            picture = await model.decode(data, call, thumbnail=False)
        except (InvalidImage, ImageTooLarge) as error:
            raise ImageDamaged(
                f"the stored bytes of image {record.image_id!r} cannot be decoded any more ({error.message}); "
                "delete it and insert it again, then rebuild",
                image_id=record.image_id,
            ) from error
        vector = await model.embed_picture(picture.pixels, call)
        await new.upsert(Row(record, vector), call)


async def _compare(old: CollectionIndex, new: CollectionIndex, call: Call) -> None:
    counts = [await collection.count(call, strong=True) for collection in (old, new)]
    if counts[0] != counts[1]:
        raise IndexUnavailable(f"the new generation has {counts[1]} pictures instead of {counts[0]}; rebuild again")
    async for page in record_pages(old, PAGE, call):
        copies = await new.get([record.image_id for record in page], call)
        if any(copies.get(record.image_id) != record for record in page):
            raise IndexUnavailable("the new generation does not hold the same records; rebuild again")
