"""Holds: while one server rebuilds a collection, no server over the same Milvus acknowledges a write to it.

A hold is an alias on the generation that is being built. Milvus gives an alias to one collection only, so there is one
holder. Writers look after each write, before they acknowledge it: a write that saw no hold and then the generation that
it wrote to live came before any hold, and is seen by the holder's strong reads after it.

A holder that dies must not hold for ever, and servers' clocks differ. So the holder counts in a property of its
generation; whoever saw the same count for ``LEASE_SECONDS`` of its own clock may settle what was left. A holder that
could not count for half as long gives up before it is taken for dead; one that sleeps and wakes up finds the generation
under another name, and cannot make it live any more.
"""

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import suppress

from clipseek_server.errors import ClipseekError, CollectionGone, CollectionHeld, IndexUnavailable
from clipseek_server.index.generations import Generation, Generations

LEASE_SECONDS = 30.0
BEAT_SECONDS = 5.0


class Holds:
    """The holds of all servers over one Milvus, and those of this one.

    Args:
        generations: Where holds are kept.
        clock: Seconds that only grow.
    """

    def __init__(self, generations: Generations, clock: Callable[[], float] = time.monotonic) -> None:
        self._generations = generations
        self._clock = clock
        self._beating: dict[str, asyncio.Task[None]] = {}
        self._kept_at: dict[str, float] = {}
        self._seen: dict[str, tuple[str, int, float]] = {}

    async def take(self, generation: Generation) -> None:
        """Hold the writes to a collection for the generation that is to follow.

        Raises:
            CollectionHeld: Somebody else holds them.
        """
        now = self._clock()
        holder = await self._generations.hold(generation)
        if holder.physical != generation.physical:
            raise _held(generation.name)
        self._kept_at[generation.physical] = now
        self._beating[generation.physical] = asyncio.create_task(
            self._beat(generation), name=f"hold-{generation.physical}"
        )

    async def check_kept(self, physical: str, name: str) -> None:
        """Raise ``IndexUnavailable`` unless the hold is certainly still this server's."""
        holder = await self._generations.holder(name)
        fresh = self._clock() - self._kept_at.get(physical, -math.inf) < LEASE_SECONDS / 2
        if holder is None or holder.physical != physical or not fresh:
            raise IndexUnavailable(f"the hold on collection {name!r} was lost meanwhile; rebuild again")

    async def check(self, name: str, physical: str) -> None:
        """See that what is written to a generation counts.

        Raises:
            CollectionHeld: Another generation is to be the live one.
            CollectionGone: Another one is.
        """
        holder = await self._generations.holder(name)
        if holder is not None and holder.physical != physical:
            raise _held(name)
        if holder is None and not await self._generations.is_live(physical, name):
            raise CollectionGone(f"the collection {name!r} was rebuilt or deleted meanwhile")

    async def abandoned(self, name: str) -> Generation | None:
        """The generation that holds a collection and whose builder has died; ``None`` while it counts."""
        holder = await self._generations.holder(name)
        if holder is None:
            self._seen.pop(name, None)
            return None
        now, count = self._clock(), holder.beat
        physical, seen, since = self._seen.get(name, ("", 0, now))
        if (physical, seen) != (holder.physical, count) or holder.physical in self._beating:
            since = now
        self._seen[name] = (holder.physical, count, since)
        return holder if now - since >= LEASE_SECONDS else None

    def close(self) -> None:
        """Stop counting for all: who is not told is taken for dead."""
        for physical in [*self._beating]:
            self.forsake(physical)

    def forsake(self, physical: str) -> None:
        """Stop counting, if this server does."""
        if task := self._beating.pop(physical, None):
            task.cancel()
        self._kept_at.pop(physical, None)

    async def _beat(self, generation: Generation) -> None:
        count = 0
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            now, count = self._clock(), count + 1
            with suppress(ClipseekError):
                await self._generations.beat(generation.physical, count)
                self._kept_at[generation.physical] = now


def _held(name: str) -> CollectionHeld:
    return CollectionHeld(f"writes to collection {name!r} are held while it is rebuilt; retry later", collection=name)
