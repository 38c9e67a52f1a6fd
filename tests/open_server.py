"""The real server with its parts at hand: to hold something still, or to look for what was left behind."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from threading import Event
from typing import Any, TypeVar
from unittest.mock import patch

from clipseek_server import app
from clipseek_server.app import Server
from clipseek_server.catalog.collections import Collections
from clipseek_server.catalog.models import Models
from clipseek_server.config import Settings
from clipseek_server.images.folder import FolderStore
from clipseek_server.rpc.admission import ByteBudget, StreamLimit
from clipseek_server.rpc.edge import Edge
from servers import ServerThread

Part = TypeVar("Part")

PATIENCE = 30.0
"""Seconds after which a condition that does not come true fails the test."""


class OpenServer(ServerThread):
    """A server in a thread that remembers what it was built from. Touch the parts only on its loop, with ``run``."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._parts: list[object] = []

    def __enter__(self) -> "OpenServer":
        with ExitStack() as stack:
            for name in ("Edge", "ByteBudget", "StreamLimit", "Collections", "Models", "FolderStore"):
                stack.enter_context(patch.object(app, name, self._remembering(getattr(app, name))))
            super().__enter__()
        return self

    def _remembering(self, make: Callable[..., object]) -> Callable[..., object]:
        def remember(*args: Any, **options: Any) -> object:
            self._parts.append(make(*args, **options))
            return self._parts[-1]

        return remember

    def _part(self, kind: type[Part], number: int = 0) -> Part:
        return [part for part in self._parts if isinstance(part, kind)][number]

    @property
    def app(self) -> Server:
        return self.server

    @property
    def edge(self) -> Edge:
        return self._part(Edge)

    @property
    def pictures(self) -> ByteBudget:
        """The budget of messages with pictures."""
        return self._part(ByteBudget, 0)

    @property
    def others(self) -> ByteBudget:
        """The budget of all other messages."""
        return self._part(ByteBudget, 1)

    @property
    def streams(self) -> StreamLimit:
        return self._part(StreamLimit)

    @property
    def collections(self) -> Collections:
        return self._part(Collections)

    @property
    def store(self) -> FolderStore:
        return self._part(FolderStore)

    @property
    def model(self) -> Any:
        """The default model; the tests below reach into its towers."""
        return self._part(Models).default

    def until(self, condition: Callable[[], bool]) -> None:
        """Return when a condition, looked at on the server's loop, is true."""

        async def look() -> None:
            async with asyncio.timeout(PATIENCE):
                while not condition():  # noqa: ASYNC110 - nothing signals what the tests look for
                    await asyncio.sleep(0.001)

        self.run(look())

    def at_rest(self) -> None:
        """Return when nothing is left of any call; fails the test if something stays."""
        total = self.settings.max_bytes_in_flight

        def rests() -> bool:
            return (
                self.pictures.free == total
                and self.others.free == total // 4
                and self.streams._open == 0
                and not self.collections.locks._locks
                and not self.collections.gates._writers
                and not self.collections.gates._held
                and self.text_tower.waiting == 0
            )

        self.until(rests)

    @property
    def text_tower(self) -> Any:
        """The queue of texts."""
        return self.model._text_tower._batcher

    @property
    def vision_tower(self) -> Any:
        """The queue of decoded pictures."""
        return self.model._vision_tower._batcher

    @contextmanager
    def stuck(self, tower: str) -> Iterator[Event]:
        """Let the tower (``text`` or ``vision``) begin batches but not finish them; yields what is set by the first."""
        begun, go_on = Event(), Event()
        held = getattr(self.model, f"_{tower}_tower")
        run = held._run

        def wait(items: Sequence[object]) -> object:
            begun.set()
            assert go_on.wait(PATIENCE)
            return run(items)

        held._run = wait
        try:
            yield begun
        finally:
            held._run = run
            go_on.set()
