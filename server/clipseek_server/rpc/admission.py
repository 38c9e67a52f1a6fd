"""How much may be in flight: memory for messages that are read or worked on, and streams."""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from clipseek_server.errors import Overloaded


class Lease:
    """Bytes taken from a budget; given back once, by ``release`` or piecemeal by ``shrink``."""

    def __init__(self, budget: "ByteBudget", size: int) -> None:
        self._budget = budget
        self._size = size

    def shrink(self, size: int) -> None:
        """Keep only ``size`` bytes."""
        if size < self._size:
            self._budget.give_back(self._size - size)
            self._size = size

    def release(self) -> None:
        """Give everything back."""
        self.shrink(0)


class ByteBudget:
    """A number of bytes that callers share; who finds too few waits in line.

    Args:
        total: Bytes to share.
        max_waiting: Callers that may wait; one more is ``Overloaded``.
        patience: Seconds that an interactive caller waits before it is ``Overloaded``; bulk waits for ever.
    """

    def __init__(self, total: int, *, max_waiting: int, patience: float) -> None:
        self._free = total
        self._max_waiting = max_waiting
        self._patience = patience
        self._line: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def free(self) -> int:
        """Bytes that nobody has."""
        return self._free

    async def take(self, size: int, *, bulk: bool) -> Lease:
        """Wait for ``size`` bytes.

        Raises:
            Overloaded: Too many wait already, or the wait was too long.
        """
        if self._line or self._free < size:
            await self._wait_in_line(size, bulk=bulk)
        else:
            self._free -= size
        return Lease(self, size)

    async def _wait_in_line(self, size: int, *, bulk: bool) -> None:
        if len(self._line) >= self._max_waiting:
            raise Overloaded("too many bytes are in flight; retry later")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = (size, turn)
        self._line.append(place)
        try:
            async with asyncio.timeout(None if bulk else self._patience):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.give_back(size)  # the turn came in the same moment
            else:
                self._line.remove(place)
                self._serve()  # who waited behind may fit
            if isinstance(error, TimeoutError):
                raise Overloaded("too many bytes are in flight; retry later") from None
            raise

    def give_back(self, size: int) -> None:
        """Return bytes and serve those who wait."""
        self._free += size
        self._serve()

    def _serve(self) -> None:
        while self._line and self._line[0][0] <= self._free:
            size, turn = self._line.popleft()
            if not turn.done():
                self._free -= size
                turn.set_result(None)


class StreamLimit:
    """How many streams may be open."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open = 0

    @contextmanager
    def open(self) -> Iterator[None]:
        """Be one of them.

        Raises:
            Overloaded: There are enough.
        """
        if self._open >= self._limit:
            raise Overloaded(f"{self._limit} bulk streams are open already; retry later")
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1
