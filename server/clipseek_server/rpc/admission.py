"""How much may be in flight: memory for messages that are read or worked on, and streams."""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from clipseek_server.errors import Overloaded


class Lease:
    """Bytes taken from a budget; given back once, by ``release`` or piecemeal by ``shrink``."""

    def __init__(self, budget: "ByteBudget", size: int, *, bulk: bool) -> None:
        self._budget = budget
        self._size = size
        self._bulk = bulk

    def shrink(self, size: int) -> None:
        """Keep only ``size`` bytes."""
        if size < self._size:
            self._budget.give_back(self._size - size, bulk=self._bulk)
            self._size = size

    def release(self) -> None:
        """Give everything back."""
        self.shrink(0)


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    size: int
    bulk: bool
    turn: "asyncio.Future[None]"


class ByteBudget:
    """A number of bytes that callers share; who finds too few waits in line.

    Bulk gets at most half of them: its streams hold what they reserved until their clients send something.

    Args:
        total: Bytes to share.
        max_waiting: Callers that may wait; one more is ``Overloaded``.
        patience: Seconds that an interactive caller waits before it is ``Overloaded``; bulk waits for ever.
    """

    def __init__(self, total: int, *, max_waiting: int, patience: float) -> None:
        self._free = total
        self._free_for_bulk = total // 2
        self._max_waiting = max_waiting
        self._patience = patience
        self._line: deque[_Place] = deque()

    @property
    def free(self) -> int:
        """Bytes that nobody has."""
        return self._free

    async def take(self, size: int, *, bulk: bool) -> Lease:
        """Wait for ``size`` bytes.

        Raises:
            Overloaded: Too many wait already, or the wait was too long.
        """
        place = _Place(size, bulk, asyncio.get_running_loop().create_future())
        self._line.append(place)
        self._serve()
        if not place.turn.done():
            await self._wait_for(place)
        return Lease(self, size, bulk=bulk)

    async def _wait_for(self, place: _Place) -> None:
        if not place.bulk and len(self._line) > self._max_waiting:
            self._line.remove(place)
            raise Overloaded("too many bytes are in flight; retry later")
        try:
            async with asyncio.timeout(None if place.bulk else self._patience):
                await place.turn
        except BaseException as error:
            if place.turn.done() and not place.turn.cancelled():
                self.give_back(place.size, bulk=place.bulk)  # the turn came in the same moment
            else:
                self._line.remove(place)
                self._serve()  # who waited behind may fit
            if isinstance(error, TimeoutError):
                raise Overloaded("too many bytes are in flight; retry later") from None
            raise

    def give_back(self, size: int, *, bulk: bool) -> None:
        """Return bytes and serve those who wait."""
        self._free += size
        if bulk:
            self._free_for_bulk += size
        self._serve()

    def _serve(self) -> None:
        for place in list(self._line):
            if place.turn.done():
                continue  # cancelled; it leaves the line itself
            if place.bulk and place.size > self._free_for_bulk:
                continue
            if place.size > self._free:
                break
            self._line.remove(place)
            self._free -= place.size
            if place.bulk:
                self._free_for_bulk -= place.size
            place.turn.set_result(None)


class StreamLimit:
    """How many of something may be open.

    Args:
        limit: So many.
        name: What they are, for messages.
    """

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._open = 0

    @contextmanager
    def open(self) -> Iterator[None]:
        """Be one of them.

        Raises:
            Overloaded: There are enough.
        """
        if self._open >= self._limit:
            raise Overloaded(f"{self._limit} {self._name} are open already; retry later")
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1
