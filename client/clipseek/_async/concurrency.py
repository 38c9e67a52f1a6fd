"""What the asynchronous client does where the synchronous one uses threads. ``_sync/concurrency.py`` is its twin."""

import asyncio
from asyncio import Queue, Semaphore, sleep
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeAlias, TypeVar

__all__ = ["AnyIterable", "Queue", "Semaphore", "call_off", "in_thread", "iterate", "sleep", "spawn", "take"]

P = ParamSpec("P")
T = TypeVar("T")
AnyIterable: TypeAlias = Iterable[T] | AsyncIterable[T]


def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Awaitable[T]:
    """Run what blocks (reading a file) beside the event loop."""
    return asyncio.to_thread(function, *args, **kwargs)


async def iterate(items: AnyIterable[T]) -> AsyncIterator[T]:
    """The items of either kind of iterable; an ordinary one may block, and does so in a thread of its own."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        iterator = iter(items)
        # Not one of the loop's: an iterable that waits for long would keep others from reading their files.
        thread = ThreadPoolExecutor(1)
        try:
            while found := await asyncio.get_running_loop().run_in_executor(thread, _next, iterator):
                yield found[0]
        finally:
            thread.shutdown(wait=False)


def _next(iterator: Iterator[T]) -> tuple[T] | None:
    # No StopIteration may leave a thread's work.
    for item in iterator:
        return (item,)
    return None


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
