"""Collections: opening, making, describing, dropping."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from clipseek_server.catalog.concurrency import KeyedLocks, WriteGates, uninterrupted
from clipseek_server.catalog.interfaces import CollectionIndex, ImageStore, Index, Model
from clipseek_server.catalog.models import Models
from clipseek_server.errors import CollectionExists, CollectionGone, CollectionNotFound, IndexUnavailable
from clipseek_server.images.blobs import drop_mark_key
from clipseek_server.index.records import CollectionInfo
from clipseek_server.telemetry import Call

T = TypeVar("T")

DEFAULT_COLLECTION = "default"


@dataclass(frozen=True, slots=True)
class CollectionView:
    """A collection as users see it.

    Attributes:
        info: What the index says of it.
        model: The model that serves it, if one is loaded.
        image_count: How many pictures it holds.
    """

    info: CollectionInfo
    model: Model | None
    image_count: int


class Collections:
    """All collections, and the order among their writes."""

    def __init__(self, index: Index, models: Models, store: ImageStore, *, auto_create: bool) -> None:
        self._index = index
        self._store = store
        self._auto_create = auto_create
        self.models = models
        self.gates = WriteGates()
        self.locks = KeyedLocks()

    async def open_all(self) -> None:
        """Open every collection, one after the other, so that the first call to each need not wait for that."""
        with suppress(IndexUnavailable):  # it opens when it is asked for
            for name in await self._index.names():
                with suppress(CollectionNotFound, CollectionGone):  # dropped meanwhile
                    await (await self._index.open(name)).ready()

    async def read(self, name: str, operation: Callable[[CollectionIndex], Awaitable[T]]) -> T:
        """Run an operation on a collection that must be there, once more if it was dropped or rebuilt meanwhile.

        Raises:
            CollectionNotFound: There is none of that name.
        """
        try:
            return await operation(await self._index.open(name))
        except CollectionGone:
            return await operation(await self._index.open(name))

    async def write(
        self, name: str, operation: Callable[[CollectionIndex], Awaitable[T]], *, create: bool = False
    ) -> T:
        """As ``read``, as one of the collection's writers.

        Args:
            name: The collection.
            operation: What to do; may run twice.
            create: Whether to make the collection if it is not there and the settings allow it.

        Raises:
            CollectionHeld: It is being rebuilt or dropped.
            CollectionNotFound: There is none of that name.
        """
        async with self.gates.writing(name):
            try:
                return await operation(await self._open_to_write(name, create=create))
            except CollectionGone:
                return await operation(await self._open_to_write(name, create=create))

    async def _open_to_write(self, name: str, *, create: bool) -> CollectionIndex:
        collection = await self._open_or_create(name, create=create)
        await self._index.check_writable(collection.info)
        return collection

    async def _open_or_create(self, name: str, *, create: bool) -> CollectionIndex:
        try:
            return await self._index.open(name)
        except CollectionNotFound:
            if not (create and self._auto_create):
                raise
        collection, _ = await self._make(name, self.models.default)
        return collection

    async def _make(self, name: str, model: Model) -> tuple[CollectionIndex, bool]:
        manifest = model.manifest
        # Others wait for the same birth; whoever began it may go.
        return await uninterrupted(
            self._index.create(
                name, space_id=manifest.space_id, precision=manifest.precision, dimension=manifest.dimension
            )
        )

    async def create(self, name: str, model_name: str, call: Call) -> CollectionView:
        """Make an empty collection.

        Raises:
            CollectionExists: There is one of that name.
            ModelNotFound: The model is not loaded.
            CollectionHeld: The one of that name is being dropped.
        """
        model = self.models.named(model_name)
        with suppress(CollectionNotFound):
            # Before its writes are asked for: one that is rebuilt is there all the time.
            await self._index.open(name)
            raise _exists(name)
        async with self.gates.writing(name):
            collection, made = await self._make(name, model)
        if not made:
            raise _exists(name)
        return await self._view(collection, call)

    async def describe(self, name: str, call: Call) -> CollectionView:
        """Describe one collection; ``CollectionNotFound`` without one."""
        return await self.read(name, lambda collection: self._view(collection, call))

    async def page(self, after: str, limit: int, call: Call) -> list[CollectionView]:
        """At most ``limit`` collections with names greater than ``after``."""
        views: list[CollectionView] = []
        for name in await self._index.names():
            if name > after and len(views) < limit:
                try:
                    views.append(await self.describe(name, call))
                except CollectionNotFound:
                    continue  # dropped meanwhile
        return views

    async def _view(self, collection: CollectionIndex, call: Call) -> CollectionView:
        count = await collection.count(call, strong=False)
        return CollectionView(collection.info, self.models.serving(collection.info), count)

    async def delete(self, name: str, call: Call) -> int:
        """Drop a collection and return how many pictures it held. The sweep removes their bytes later.

        Raises:
            CollectionNotFound: There is none of that name.
            CollectionHeld: It is being rebuilt.
        """

        async def look(collection: CollectionIndex) -> tuple[str, int]:
            await self._index.check_writable(collection.info)
            return collection.info.uid, await collection.count(call, strong=True)

        async with self.gates.holding(name):
            uid, count = await self.read(name, look)
            call.check_deadline()
            await uninterrupted(self._drop(name, uid))
        return count

    async def _drop(self, name: str, uid: str) -> None:
        # The mark comes first: bytes of a collection that Milvus does not know go only where there is one. A drop that
        # fails leaves a mark on a collection that lives; a sweep takes it away, perhaps that of a drop beside it.
        await self._mark_dropped(uid)
        await self._index.drop(name, uid)
        await self._mark_dropped(uid)

    async def _mark_dropped(self, uid: str) -> None:
        mark = drop_mark_key(uid)
        if await self._store.size(mark) is None:
            with suppress(FileExistsError):  # another server drops it too
                await self._store.put(mark, b"")


def _exists(name: str) -> CollectionExists:
    return CollectionExists(f"collection {name!r} exists already", field="collection", collection=name)
