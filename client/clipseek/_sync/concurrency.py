"""What the synchronous client does where the asynchronous one uses its loop: the twin of ``_async/concurrency.py``."""

import inspect
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, Queue
from threading import Semaphore
from time import sleep
from typing import ParamSpec, TypeAlias, TypeVar

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
AnyIterable: TypeAlias = Iterable[T]
Callback: TypeAlias = Callable[[T], object]


class Home:
    """Where a client is made, and where alone it works: a process."""

    def __init__(self) -> None:
        self._process = os.getpid()

    def check(self) -> None:
        """Raise a ``RuntimeError`` where the client does not work: gRPC's threads do not come along into a fork."""
        if os.getpid() != self._process:
            raise RuntimeError("this client was made before the process was forked; make one in each process")


def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run what blocks: the caller may be blocked here."""
    return function(*args, **kwargs)


def iterate(items: AnyIterable[T]) -> Iterator[T]:
    """The items."""
    return iter(items)


def tell(callback: Callback[T], news: T) -> None:
    """Call it; an ``async`` function would only seem to be called."""
    if inspect.iscoroutinefunction(callback):
        raise TypeError("a synchronous client calls no async function; use an AsyncClient, or an ordinary function")
    callback(news)


def take(queue: Queue[T], seconds: float) -> T:
    """The next of a queue; raises ``TimeoutError`` when there is none for so long."""
    try:
        return queue.get(timeout=seconds)
    except Empty:
        raise TimeoutError from None


def spawn(function: Callable[[], None]) -> threading.Thread:
    """Run beside the caller, in a thread that does not keep the process alive."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def call_off(spawned: threading.Thread) -> None:
    """A thread cannot be made to end: what it waits for has to."""
