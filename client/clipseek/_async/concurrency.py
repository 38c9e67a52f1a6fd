"""What the asynchronous client does where the synchronous one uses threads. ``_sync/concurrency.py`` is its twin."""

import asyncio
import inspect
import os
import threading
from asyncio import Queue, Semaphore, sleep
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Generic, ParamSpec, TypeAlias, TypeVar

__all__ = [
    "AnyIterable",
    "Callback",
    "Home",
    "Queue",
    "Semaphore",
    "call_off",
    "in_thread",
    "iterate",
    "sleep",
    "spawn",
    "take",
    "tell",
]

P = ParamSpec("P")
T = TypeVar("T")
AnyIterable: TypeAlias = Iterable[T] | AsyncIterable[T]
Callback: TypeAlias = Callable[[T], object]


class Home:
    """Where a client is made, and where alone it works: a process, and an event loop of it."""

    def __init__(self) -> None:
        self._process = os.getpid()
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError("no event loop runs here; make an AsyncClient in the function that awaits it") from None

    def check(self) -> None:
        """Raise a ``RuntimeError`` where the client does not work."""
        if os.getpid() != self._process:
            raise RuntimeError(
                "this client was made before the process was forked, which gRPC's asyncio does not survive; "
                "start processes with spawn or forkserver, and make one in each process"
            )
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("this client was made in another event loop; make one in each")


def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Awaitable[T]:
    """Run what blocks (reading a file) beside the event loop."""
    return asyncio.to_thread(function, *args, **kwargs)


async def iterate(items: AnyIterable[T]) -> AsyncIterator[T]:
    """The items of either kind of iterable; an ordinary one may block, and does so in a thread of its own."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        reader = _Reader(items)
        try:
            while found := await reader.next():
                yield found[0]
        finally:
            reader.end()


class _Reader(Generic[T]):
    """Takes items from an iterable in a thread, one when one is asked for.

    Not a thread of the loop's pool: an iterable that waits for long would keep others from reading their files, and the
    process from its end.
    """

    def __init__(self, items: Iterable[T]) -> None:
        self._items = ((item,) for item in items)
        self._loop = asyncio.get_running_loop()
        self._wanted = threading.Semaphore(0)
        self._found: Queue[tuple[T] | BaseException | None] = Queue()
        self._ended = False
        threading.Thread(target=self._read, daemon=True).start()

    async def next(self) -> tuple[T] | None:
        """The next one, ``None`` after the last; raises what the iterable raises."""
        self._wanted.release()
        found = await self._found.get()
        if isinstance(found, BaseException):
            raise found
        return found

    def end(self) -> None:
        """Ask for no more."""
        self._ended = True
        self._wanted.release()

    def _read(self) -> None:
        found: tuple[T] | BaseException | None
        while self._wanted.acquire() and not self._ended:
            try:
                found = next(self._items, None)
            except BaseException as error:
                found = error
            with suppress(RuntimeError):  # the loop is closed: nobody waits for it
                self._loop.call_soon_threadsafe(self._found.put_nowait, found)


async def tell(callback: Callback[T], news: T) -> None:
    """Call an ordinary function, or one that is awaited."""
    answer = callback(news)
    if inspect.isawaitable(answer):
        await answer


async def take(queue: Queue[T], seconds: float) -> T:
    """The next of a queue; raises ``TimeoutError`` when there is none for so long."""
    async with asyncio.timeout(seconds):
        return await queue.get()


def spawn(function: Callable[[], Coroutine[None, None, None]]) -> asyncio.Task[None]:
    """Run beside the caller; keep what it returns for as long as it may run."""
    return asyncio.create_task(function())


def call_off(spawned: asyncio.Task[None]) -> None:
    """Let what was spawned end now."""
    spawned.cancel()
