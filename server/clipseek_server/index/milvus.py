"""All collections of one Milvus."""

import asyncio
import uuid
from collections.abc import Iterator
from contextlib import suppress
from typing import Literal, Self
from weakref import WeakValueDictionary

from clipseek_server.config import Settings
from clipseek_server.errors import ClipseekError, CollectionGone, CollectionHeld, CollectionNotFound
from clipseek_server.index.collection import MilvusCollection
from clipseek_server.index.connection import Connection
from clipseek_server.index.generations import Generation, Generations, new_physical_name
from clipseek_server.index.holds import Holds
from clipseek_server.index.records import CollectionInfo, now_micros
from clipseek_server.index.table import Table
from clipseek_server.index.vector_index import new_index
from clipseek_server.telemetry import log
from clipseek_server.threads import thread_pool

_SCAN_THREADS = 2
"""Scans of copies in memory at the same time; each keeps one core busy for some milliseconds."""

_FOLLOWED = 128
"""Names whose aliases are looked at in one turn."""
_LOOKS = 4
"""Of those at the same time: few of the threads that calls of Milvus have, and few calls for Milvus."""


class MilvusIndex:
    """Collections over Milvus Lite or a server. Implements ``catalog.interfaces.Index``."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection = Connection(settings)
        self._generations = Generations(self._connection, settings)
        # Milvus Lite has no other writer than this process, whose own gates hold.
        self._holds = None if self._connection.embedded else Holds(self._generations)
        self._scans = thread_pool("resident", _SCAN_THREADS)
        self._live: dict[str, MilvusCollection] = {}
        self._collections: dict[str, MilvusCollection] = {}
        self._building: set[str] = set()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @classmethod
    async def connect(cls, settings: Settings) -> Self:
        """Open Milvus Lite, or prepare for a server, which may be away: it is looked for with each call.

        Raises:
            StartupError: The data folder is in use, or cannot be written.
        """
        index = cls(settings)
        await index._connection.start()
        return index

    @property
    def engine(self) -> str:
        """``milvus-lite`` or ``milvus``."""
        return "milvus-lite" if self._connection.embedded else "milvus"

    @property
    def engine_version(self) -> str:
        """Empty until Milvus answered once."""
        return self._connection.version

    @property
    def index_type(self) -> str:
        """How new collections are indexed."""
        return new_index(self._settings, embedded=self._connection.embedded)[0]

    @property
    def index_params(self) -> dict[str, str]:
        """The parameters of that index."""
        build = new_index(self._settings, embedded=self._connection.embedded)[1]
        return {name: str(value) for name, value in build.items()}

    @property
    def default_consistency(self) -> Literal["bounded", "strong"]:
        """What an unspecified consistency means in searches and listings; Milvus Lite is always strong."""
        return "strong" if self._connection.embedded else self._settings.consistency

    async def ping(self) -> None:
        """Raise ``IndexUnavailable`` unless Milvus answers."""
        await self._connection.ping()

    async def follow(self) -> None:
        """Let go of generations that are live no more, whoever made others live: the next call opens their names anew.

        Each call looks at some, in turn.
        """
        if self._connection.embedded:
            return  # nobody else can
        turn = iter([*self._live.items()][:_FOLLOWED])
        looks = await asyncio.gather(*(self._look_at(turn) for _ in range(_LOOKS)), return_exceptions=True)
        await self._close_what_is_left()
        for error in filter(None, looks):
            raise error

    async def open(self, name: str) -> MilvusCollection:
        """The live generation behind a name; loaded, cached.

        Raises:
            CollectionNotFound: There is none.
        """
        if (live := self._live.get(name)) is not None and not live.gone:
            return live
        async with self._lock(name):
            return await self._open(name)

    async def create(
        self, name: str, *, space_id: str, precision: str, dimension: int
    ) -> tuple[MilvusCollection, bool]:
        """Get or make a collection; the flag says whether this call made it."""
        async with self._lock(name):
            try:
                return await self._open(name), False
            except CollectionNotFound:
                pass
            born = now_micros()
            generation = Generation(
                physical=new_physical_name(name),
                name=name,
                uid=uuid.uuid4().hex,
                space_id=space_id,
                precision=precision,
                dimension=dimension,
                create_time=born,
                birth_time=born,
            )
            await self._make(generation)
            try:
                live = await self._generations.publish_first(generation)
            finally:
                self._building.discard(generation.physical)
            if live != generation:
                await self._generations.drop(generation.physical)
            return await self._open(name), live == generation

    async def names(self) -> list[str]:
        """All collections' names, sorted."""
        names = sorted({generation.name for generation in await self._generations.all()})
        return [name for name in names if await self._generations.live(name) is not None]

    async def uids(self) -> set[str]:
        """The uids of all collections, of generations without an alias too."""
        return {generation.uid for generation in await self._generations.all()}

    async def drop(self, name: str, uid: str) -> None:
        """Drop a collection: the alias first, then every generation behind the name.

        Raises:
            CollectionNotFound: It is gone; another of that name stays.
        """
        async with self._lock(name):
            live = await self._generations.live(name)
            if live is None or live.uid != uid:
                raise CollectionNotFound(f"there is no collection {name!r}")
            self._live.pop(name, None)
            await self._generations.unpublish(name)
            for generation in await self._generations.all():
                if generation.uid == live.uid:
                    # An alias that outlived its collection could never be given away again.
                    await self._generations.release(generation.physical, name)
                    await self._drop(generation.physical)

    async def check_writable(self, generation: CollectionInfo) -> None:
        """See that a write to a generation would count; a server that died while it rebuilt is not waited for.

        Raises:
            CollectionHeld: Another server rebuilds the collection.
            CollectionGone: Another generation is live: open the name again.
        """
        if self._holds is None:
            return
        try:
            await self._holds.check(generation.name, generation.generation)
        except CollectionGone:
            self._live.pop(generation.name, None)
            raise
        except CollectionHeld:
            await self._settle_abandoned(generation.name)
            raise

    async def begin_generation(self, current: CollectionInfo, *, precision: str) -> MilvusCollection:
        """A new, empty generation with the same uid and space, without an alias. Nobody sweeps it until it is settled.

        From now on no server acknowledges a write to the current one.

        Raises:
            CollectionHeld: Another server rebuilds the collection.
            CollectionGone: The current generation is not live any more.
        """
        generation = Generation(
            physical=new_physical_name(current.name),
            name=current.name,
            uid=current.uid,
            space_id=current.space_id,
            precision=precision,
            dimension=current.dimension,
            create_time=current.create_time,
            birth_time=now_micros(),
        )
        await self._make(generation)
        try:
            if self._holds is not None:
                await self._holds.take(generation)
            if not await self._generations.is_live(current.generation, current.name):
                self._live.pop(current.name, None)
                raise CollectionGone(f"the collection {current.name!r} was rebuilt or deleted meanwhile")
            return await self._collection(generation)
        except BaseException:
            with suppress(ClipseekError):  # the sweep will
                await self._settle(generation.physical, generation.name, generation.uid)
            raise

    async def publish(self, generation: CollectionInfo) -> None:
        """Make a generation the live one behind its name.

        Raises:
            CollectionNotFound: The collection was dropped meanwhile.
            IndexUnavailable: Writes may not have been held all the time; or the outcome is unknown: ``settle`` tells.
        """
        async with self._lock(generation.name):
            live = await self._generations.live(generation.name)
            if live is None or live.uid != generation.uid:
                raise CollectionNotFound(f"the collection {generation.name!r} was deleted meanwhile")
            if self._holds is not None:
                await self._holds.check_kept(generation.generation, generation.name)
            # Forgotten first: who fails here may have changed the alias, and the name must be resolved afresh.
            self._live.pop(generation.name, None)
            await self._generations.publish(generation.generation, generation.name)
            self._building.discard(generation.generation)

    async def settle(self, generation: CollectionInfo) -> bool:
        """End what ``begin_generation`` began: drop what is not live, and let writes go. Returns whether it is live."""
        return await self._settle(generation.generation, generation.name, generation.uid)

    async def sweep(self, grace: float) -> list[str]:
        """Drop generations without an alias that are older than ``grace`` seconds; returns their names."""
        for name in {generation.name for generation in await self._generations.all()}:
            await self._settle_abandoned(name)
        youngest = now_micros() - round(grace * 1e6)
        swept = []
        for generation in await self._generations.all():
            physical = generation.physical
            if generation.birth_time > youngest or physical in self._building:
                continue
            async with self._lock(generation.name):
                # Asked here and not before: it may have been published meanwhile.
                if not await self._generations.is_named(generation):
                    await self._drop(physical)
                    swept.append(physical)
        return swept

    async def close(self) -> None:
        """Finish what was begun, flush, and let go of Milvus."""
        if self._holds is not None:
            self._holds.close()
        for collection in self._collections.values():
            await collection.close()
        await self._connection.close()
        self._scans.shutdown(wait=False)

    def _lock(self, name: str) -> asyncio.Lock:
        """What changes a name waits for; forgotten when nobody holds it."""
        lock: asyncio.Lock = self._locks.setdefault(name, asyncio.Lock())
        return lock

    async def _look_at(self, names: Iterator[tuple[str, MilvusCollection]]) -> None:
        for name, live in names:
            stays = not live.gone and await self._generations.is_live(live.info.generation, name)
            if self._live.get(name) is live:
                del self._live[name]
                if stays:
                    self._live[name] = live  # to the end

    async def _close_what_is_left(self) -> None:
        """Close what is behind no name any more. Who uses it still is told to open the name again."""
        used = {*self._live.values()}
        left = [
            self._collections.pop(physical)
            for physical, collection in [*self._collections.items()]
            if collection not in used and physical not in self._building
        ]
        for collection in left:
            collection.dismiss()
        for collection in left:
            await collection.close()

    async def _make(self, generation: Generation) -> None:
        self._building.add(generation.physical)
        try:
            await self._generations.make(generation)
        except BaseException:
            # What is left of it is swept.
            self._building.discard(generation.physical)
            raise

    async def _settle(self, physical: str, name: str, uid: str) -> bool:
        async with self._lock(name):
            if self._holds is not None:
                self._holds.forsake(physical)
            live = await self._generations.is_live(physical, name)
            if live:
                # Before writes go again: another server may still write to the old one.
                for other in await self._generations.all():
                    if other.uid == uid and other.physical != physical:
                        await self._drop(other.physical)
            await self._generations.release(physical, name)
            if not live:
                await self._drop(physical)
            return live

    async def _settle_abandoned(self, name: str) -> None:
        if self._holds is not None and (holder := await self._holds.abandoned(name)) is not None:
            log.warning("a rebuild was given up by a server that died", collection=name, generation=holder.physical)
            holder = await self._generations.rename(holder)
            await self._settle(holder.physical, name, holder.uid)

    async def _open(self, name: str) -> MilvusCollection:
        """As ``open``, with the name's lock held."""
        if (opened := self._live.get(name)) is not None and not opened.gone:
            return opened
        generation = await self._generations.live(name)
        if generation is None:
            self._live.pop(name, None)
            raise CollectionNotFound(f"there is no collection {name!r}; an insert or CreateCollection makes it")
        self._live[name] = await self._collection(generation)
        return self._live[name]

    async def _collection(self, generation: Generation) -> MilvusCollection:
        """The one object for a generation in this process: it is the only writer."""
        known = self._collections.get(generation.physical)
        if known is not None:
            if not known.gone:
                return known
            await known.close()
        generation.check_version()
        vector_index = await self._generations.load(generation.physical)
        info = CollectionInfo(
            name=generation.name,
            uid=generation.uid,
            generation=generation.physical,
            space_id=generation.space_id,
            precision=generation.precision,
            dimension=generation.dimension,
            create_time=generation.create_time,
            index="in memory" if self._connection.embedded else vector_index.type,
            efforts=vector_index.efforts,
        )
        collection = MilvusCollection(
            info,
            Table(generation.physical, vector_index, self._connection, self._settings),
            vector_index,
            holds=self._holds,
            resident_max_rows=self._settings.resident_max_rows if self._connection.embedded else None,
            executor=self._scans,
        )
        self._collections[generation.physical] = collection
        return collection

    async def _drop(self, physical: str) -> None:
        collection = self._collections.pop(physical, None)
        if collection is not None:
            # Milvus Lite cannot stand a write beside a drop.
            collection.dismiss()
            await collection.close()
        await self._generations.drop(physical)
        self._building.discard(physical)
