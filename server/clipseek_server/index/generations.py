"""Generations: the physical Milvus collections behind collections' names, and the aliases that make one live."""

import asyncio
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pymilvus import MilvusClient
from pymilvus.client.types import LoadState

from clipseek_server.config import Settings
from clipseek_server.errors import ClipseekError, CollectionGone, IndexUnavailable
from clipseek_server.index.connection import Connection
from clipseek_server.index.schema import SCHEMA_VERSION, VECTOR_FIELD, collection_schema
from clipseek_server.index.vector_index import VectorIndex, index_params

_LOAD_SECONDS = 60.0
_LOAD_POLL_SECONDS = 0.05

PREFIX = "CS_"
"""Users' names are lower case: none collides with a generation's."""
_HOLD_PREFIX = "HELD_"
_BEAT = "clipseek.beat"


@dataclass(frozen=True, slots=True)
class Generation:
    """What a generation's properties in Milvus say.

    Attributes:
        physical: The Milvus collection's name.
        name: The collection's name.
        uid: The collection's; survives rebuilds.
        space_id: The space of its vectors.
        precision: The precision of the model that it was made for.
        dimension: Length of its vectors.
        create_time: When the collection was made; microseconds since the epoch, UTC.
        birth_time: When this generation was made; likewise.
        beat: What its builder counts while it lives.
        schema_version: How its rows lie in Milvus.
    """

    physical: str
    name: str
    uid: str
    space_id: str
    precision: str
    dimension: int
    create_time: int
    birth_time: int
    beat: int = 0
    schema_version: int = SCHEMA_VERSION

    def properties(self) -> dict[str, str]:
        """As Milvus keeps them."""
        return {
            "clipseek.schema_version": str(self.schema_version),
            "clipseek.name": self.name,
            "clipseek.uid": self.uid,
            "clipseek.space_id": self.space_id,
            "clipseek.precision": self.precision,
            "clipseek.dimension": str(self.dimension),
            "clipseek.create_time": str(self.create_time),
            "clipseek.birth_time": str(self.birth_time),
            _BEAT: str(self.beat),
        }

    @classmethod
    def from_properties(cls, physical: str, properties: Mapping[str, str]) -> "Generation":
        """The reverse."""
        return cls(
            physical=physical,
            name=properties["clipseek.name"],
            uid=properties["clipseek.uid"],
            space_id=properties["clipseek.space_id"],
            precision=properties["clipseek.precision"],
            dimension=int(properties["clipseek.dimension"]),
            create_time=int(properties["clipseek.create_time"]),
            birth_time=int(properties["clipseek.birth_time"]),
            beat=int(properties.get(_BEAT, 0)),
            schema_version=int(properties["clipseek.schema_version"]),
        )

    def check_version(self) -> None:
        """Raise ``IndexUnavailable`` unless this version of the software knows how its rows lie."""
        if self.schema_version != SCHEMA_VERSION:
            raise IndexUnavailable(
                f"the collection {self.name!r} was made by another version of clipseek; run that version for it"
            )


def new_physical_name(name: str) -> str:
    """A name that no generation ever had."""
    return f"{PREFIX}{name.upper()}_{secrets.token_hex(8)}"


def _hold_alias(name: str) -> str:
    return f"{_HOLD_PREFIX}{name.upper()}"


class Generations:
    """Makes, finds, publishes and drops generations. Holds nothing: Milvus is asked each time."""

    def __init__(self, connection: Connection, settings: Settings) -> None:
        self._call = connection.call_catalogue
        self._check_space = connection.check_space
        self._index_params = index_params(settings, embedded=connection.embedded)

    async def make(self, generation: Generation) -> None:
        """Make it whole: schema, properties, index, load. It is not live yet."""
        self._check_space()
        await self._call(
            MilvusClient.create_collection,
            generation.physical,
            schema=collection_schema(generation.dimension),
            properties=generation.properties(),
            consistency_level="Bounded",
        )
        # There are no rows whose indexing were worth waiting for: pymilvus would sleep half a second.
        await self._call(MilvusClient.create_index, generation.physical, self._index_params, sync=False)
        await self._load(generation.physical)

    async def load(self, physical: str) -> VectorIndex:
        """Have it loaded, and say what index it has; ``IndexUnavailable`` while that takes longer than callers wait."""
        await self._load(physical)
        description = await self._call(MilvusClient.describe_index, physical, VECTOR_FIELD)
        return VectorIndex.from_description(description)

    async def live(self, name: str) -> Generation | None:
        """The generation that is live behind a name."""
        # By describing the collection: asked for an alias, a server 2.3 looks into the default database only.
        return await self.describe(name)

    async def describe(self, name: str) -> Generation | None:
        """A generation by its physical name, or by its alias."""
        try:
            description = await self._call(MilvusClient.describe_collection, name)
        except CollectionGone:
            return None
        properties = description["properties"]
        # Somebody else's collection may have our prefix.
        if "clipseek.uid" not in properties:
            return None
        return Generation.from_properties(description["collection_name"], properties)

    async def all(self) -> list[Generation]:
        """Every generation, live or not: all of one moment."""
        names = await self._physical_names()
        while True:
            found = [await self.describe(physical) for physical in names]
            # One that vanished meanwhile may have a successor that was not there to be listed.
            names, before = await self._physical_names(), names
            if names == before:
                return [generation for generation in found if generation is not None]

    async def _physical_names(self) -> list[str]:
        names = await self._call(MilvusClient.list_collections)
        return sorted(name for name in names if name.startswith(PREFIX))

    async def is_live(self, physical: str, name: str) -> bool:
        """Whether it is the one behind its name."""
        live = await self.live(name)
        return live is not None and live.physical == physical

    async def is_named(self, generation: Generation) -> bool:
        """Whether it is live, or held for."""
        owners = [await self.live(generation.name), await self.holder(generation.name)]
        return any(owner is not None and owner.physical == generation.physical for owner in owners)

    async def publish_first(self, generation: Generation) -> Generation:
        """Make it the live one of a new name: the commit point. Returns the live one: another's, if that came first."""
        return await self._claim(generation.name, generation)

    async def publish(self, physical: str, name: str) -> None:
        """Make a generation the live one of a name that has one."""
        await self._call(MilvusClient.alter_alias, physical, name)

    async def unpublish(self, name: str) -> None:
        """Take the name away."""
        await self._call(MilvusClient.drop_alias, name)

    async def holder(self, name: str) -> Generation | None:
        """The generation for whose sake the writes to a collection are held; see ``holds``."""
        return await self.describe(_hold_alias(name))

    async def hold(self, generation: Generation) -> Generation:
        """Hold the writes to a collection for a generation's sake. Returns the holder: another's, if it came first."""
        return await self._claim(_hold_alias(generation.name), generation)

    async def rename(self, generation: Generation) -> Generation:
        """Give it another physical name: who knew the old one can make nothing live with it any more."""
        renamed = replace(generation, physical=new_physical_name(generation.name))
        await self._call(MilvusClient.rename_collection, generation.physical, renamed.physical)
        return renamed

    async def beat(self, physical: str, count: int) -> None:
        """Show that the one who builds a generation lives."""
        await self._call(MilvusClient.alter_collection_properties, physical, {_BEAT: str(count)})

    async def release(self, physical: str, name: str) -> None:
        """Let the writes to a collection go, if it is this generation for whose sake they are held."""
        holder = await self.holder(name)
        if holder is not None and holder.physical == physical:
            await self._call(MilvusClient.drop_alias, _hold_alias(name))

    async def drop(self, physical: str) -> None:
        """Drop a generation with its rows; nothing happens when it is gone already."""
        try:
            await self._call(MilvusClient.drop_collection, physical)
        except CollectionGone:
            return

    async def _claim(self, alias: str, generation: Generation) -> Generation:
        """Give an alias to a generation, unless another has it; returns the one that has it."""
        try:
            await self._call(MilvusClient.create_alias, generation.physical, alias)
        except ClipseekError as error:
            owner = await self.describe(alias)
            if owner is None:
                raise error from None
            return owner
        return generation

    async def _load(self, physical: str) -> None:
        # Not one call: a server may need longer for it than an answer may take.
        await self._call(MilvusClient.load_collection, physical, _async=True)
        end = time.monotonic() + _LOAD_SECONDS
        while (await self._call(MilvusClient.get_load_state, physical))["state"] != LoadState.Loaded:
            if time.monotonic() > end:
                raise IndexUnavailable("Milvus is still loading the collection; retry later")
            await asyncio.sleep(_LOAD_POLL_SECONDS)
