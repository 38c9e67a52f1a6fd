"""Rebuild: every stored picture is embedded again into a new generation, which then takes the old one's place.

Writes to the collection are held meanwhile, those of all servers; searches go on. The flip of the alias is the point of
no return: a server that dies before it leaves the old generation live, one that dies after it the new one; the sweep
removes the other.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
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
CHECK_PAGE = 1000
CHECKS = 5
"""How often the generations are compared: once, if no other server wrote just before its writes were held."""


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
                task = asyncio.create_task(self._run(rebuild, name, model.manifest.name), name=f"rebuild-{name}")
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

    async def _run(self, rebuild: _Rebuild, name: str, model_name: str) -> None:
        lines = log.bind(collection=name, rebuild_id=rebuild.progress.rebuild_id)
        lines.info("rebuild begins", model=model_name)
        try:
            async with self._collections.gates.holding(name):
                await self._rebuild(rebuild, name, model_name)
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

    async def _rebuild(self, rebuild: _Rebuild, name: str, model_name: str) -> None:
        call = Call(request_id=rebuild.progress.rebuild_id, bulk=True)

        async def begin(old: CollectionIndex) -> tuple[Model, CollectionIndex, CollectionIndex]:
            model = self._collections.models.for_rebuild(old.info, model_name)
            return model, old, await self._index.begin_generation(old.info, precision=model.manifest.precision)

        # What was opened before may have been rebuilt, or made anew, by another server.
        model, old, new = await self._collections.read(name, begin)
        try:
            await rebuild.report(generation=new.info.generation, images_total=await old.count(call, strong=True))
            async for copied in self._copy(old, new, model, call, page_size=PAGE):
                await rebuild.report(images_done=rebuild.progress.images_done + copied)
            await rebuild.report(phase=Phase.CHECKING)
            await self._check(old, new, model, call)
            await rebuild.report(phase=Phase.SWITCHING)
            await self._index.publish(new.info)
        except BaseException:
            # It may be live all the same: an answer of Milvus can get lost.
            if not await self._settle(new):
                raise
        else:
            await rebuild.report(phase=Phase.DROPPING)
            await self._settle(new)

    async def _settle(self, new: CollectionIndex) -> bool:
        """Whether the new generation is live; what cannot be settled now is left to the sweep."""
        try:
            return await self._index.settle(new.info)
        except (Exception, asyncio.CancelledError) as error:
            log.warning("a generation is left to the sweep", collection=new.info.name, reason=repr(error))
            return False

    async def _check(self, old: CollectionIndex, new: CollectionIndex, model: Model, call: Call) -> None:
        """Return when both hold the same records: writes that were under way on other servers came in meanwhile."""
        for _ in range(CHECKS):
            if not sum([differing async for differing in self._copy(old, new, model, call, page_size=CHECK_PAGE)]):
                return
        raise IndexUnavailable("the new generation does not come to hold the same records; rebuild again")

    async def _copy(
        self, old: CollectionIndex, new: CollectionIndex, model: Model, call: Call, *, page_size: int
    ) -> AsyncIterator[int]:
        """Have the new generation hold what the old one holds; yields how many records differed, page by page."""
        async for page in record_pages(old, page_size, call):
            copies = await new.get([record.image_id for record in page], call)
            differing = [record for record in page if copies.get(record.image_id) != record]
            for begin in range(0, len(differing), PAGE):
                some = differing[begin : begin + PAGE]
                await gather(self._embed_again(record, old, new, model, call) for record in some)
            yield len(differing)
        if await old.count(call, strong=True) != await new.count(call, strong=True):
            async for page in record_pages(new, page_size, call):
                originals = await old.get([record.image_id for record in page], call)
                surplus = [record.image_id for record in page if record.image_id not in originals]
                await new.delete(surplus, call)
                yield len(surplus)

    async def _embed_again(
        self, record: Record, old: CollectionIndex, new: CollectionIndex, model: Model, call: Call
    ) -> None:
        data = await self._store.get(record.blob_key)
        if data is None:
            # The vector is all that is left of the picture; it is still of the collection's space.
            log.warning("bytes are missing, vector is kept", image_id=record.image_id, collection=old.info.name)
            rows = await old.get_rows([record.image_id], call)
            for row in rows.values():  # none, if it was deleted meanwhile
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
