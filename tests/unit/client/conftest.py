"""A small server for each test, and both clients driven in the same words."""

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any

import pytest

from clipseek import AsyncClient, Client
from small_server import SmallServer, start


@pytest.fixture
def server() -> Iterator[SmallServer]:
    state = SmallServer()
    running = start(state)
    yield state
    state.gate.set()
    running.stop(None).wait()


@pytest.fixture
def servers() -> Iterator[list[SmallServer]]:
    """Two of them."""
    states = [SmallServer(), SmallServer()]
    running = [start(state) for state in states]
    yield states
    for each in running:
        each.stop(None).wait()


class Blocking:
    """An ``AsyncClient`` on a loop of its own, to be called as if it were a ``Client``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        try:
            self._client = self._run(self._make(*args, **kwargs))
        except BaseException:
            self._end()
            raise

    @staticmethod
    async def _make(*args: Any, **kwargs: Any) -> AsyncClient:
        return AsyncClient(*args, **kwargs)

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def _iterate(self, iterator: AsyncIterator[Any]) -> Iterator[Any]:
        try:
            while True:
                try:
                    yield self._run(anext(iterator))
                except StopAsyncIteration:
                    return
        finally:
            self._run(iterator.aclose())

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if not callable(method):
            return method

        def call(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            return self._iterate(result) if hasattr(result, "__anext__") else self._run(result)

        return call

    def shut(self) -> None:
        self._run(self._client.close())
        self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Makes clients of an address; both kinds, one after the other."""
    opened: list[Any] = []

    def make(*args: Any, **kwargs: Any) -> Any:
        opened.append(Client(*args, **kwargs) if request.param == "sync" else Blocking(*args, **kwargs))
        return opened[-1]

    yield make
    for client in opened:
        client.close() if isinstance(client, Client) else client.shut()


@pytest.fixture
def client(connect: Any, server: SmallServer) -> Any:
    """A client of the small server."""
    return connect(server.address)
