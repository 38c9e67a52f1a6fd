"""The time between SIGTERM and the end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from clipseek_server.errors import NotServing


class Draining:
    """Whether the server is about to stop. From then on it reads nothing more, and finishes what it has read."""

    def __init__(self) -> None:
        self._begun = False
        self._reads: set[asyncio.Timeout] = set()

    def begin(self) -> None:
        """Refuse new calls, and those whose message has not come yet."""
        self._begun = True
        for read in self._reads:
            read.reschedule(0)

    def check(self) -> None:
        """Raise ``NotServing`` once it has begun."""
        if self._begun:
            raise NotServing("the server is shutting down; send again what has no answer, elsewhere or later")

    @asynccontextmanager
    async def patience(self, seconds: float) -> AsyncIterator[None]:
        """Read within so many seconds; ``TimeoutError`` after them, ``NotServing`` when it begins before."""
        self.check()
        try:
            async with asyncio.timeout(seconds) as read:
                self._reads.add(read)
                try:
                    yield
                finally:
                    self._reads.discard(read)
        except TimeoutError:
            self.check()
            raise
