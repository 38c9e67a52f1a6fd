"""Order among the writes of one server: one image id at a time, and none at all while a collection is held."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Coroutine, Hashable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

from clipseek_server.errors import CollectionHeld

T = TypeVar("T")


async def gather(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run all at once; the first error cancels the others and is raised as it is."""
    waiting = list(coroutines)
    if len(waiting) == 1:  # most searches: no task is made for it
        return [await waiting[0]]
    tasks = [asyncio.ensure_future(coroutine) for coroutine in waiting]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def uninterrupted(awaitable: Awaitable[T]) -> T:
    """Await to the end even when the caller is cancelled, so that a lock outlives the write that it guards."""
    task = asyncio.ensure_future(awaitable)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # nobody is left to hear of it
        raise cancelled
    return task.result()


class KeyedLocks:
    """One lock for each key in use."""

    def __init__(self) -> None:
        self._locks: dict[Hashable, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def hold(self, key: Hashable) -> AsyncIterator[None]:
        """Hold the lock of one key."""
        lock, users = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[key]
            if users == 1:
                del self._locks[key]
            else:
                self._locks[key] = (lock, users - 1)

    @asynccontextmanager
    async def hold_all(self, uid: str, image_ids: Iterable[str]) -> AsyncIterator[None]:
        """Hold the locks of many ids of a collection, in one order, so that callers cannot wait in a circle."""
        async with AsyncExitStack() as stack:
            for image_id in sorted(set(image_ids)):
                await stack.enter_async_context(self.hold((uid, image_id)))
            yield


class WriteGates:
    """Lets the writes of a collection through, or holds them while it is rebuilt or dropped."""

    def __init__(self) -> None:
        self._writers: dict[str, int] = {}
        self._held: dict[str, asyncio.Event] = {}  # set when no writer is left

    @asynccontextmanager
    async def writing(self, name: str) -> AsyncIterator[None]:
        """Be one of the writers of a collection.

        Raises:
            CollectionHeld: Writes are held.
        """
        self._check_free(name)
        self._writers[name] = self._writers.get(name, 0) + 1
        try:
            yield
        finally:
            self._writers[name] -= 1
            if not self._writers[name]:
                del self._writers[name]
                if name in self._held:
                    self._held[name].set()

    @asynccontextmanager
    async def holding(self, name: str) -> AsyncIterator[None]:
        """Hold the writes of a collection; begins when those under way are done.

        Raises:
            CollectionHeld: Somebody else holds them.
        """
        self._check_free(name)
        self._held[name] = idle = asyncio.Event()
        if name not in self._writers:
            idle.set()
        try:
            await idle.wait()
            yield
        finally:
            del self._held[name]

    def _check_free(self, name: str) -> None:
        if name in self._held:
            raise CollectionHeld(
                f"collection {name!r} is being rebuilt or deleted, and takes no writes meanwhile; retry later",
                collection=name,
            )
