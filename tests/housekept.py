"""A server whose sweep runs when a test says so, and gates that hold real calls back until a test opens them."""

import asyncio
import functools
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from clipseek_server import app
from clipseek_server.catalog.sweeper import Sweeper, Swept
from clipseek_server.config import Settings
from servers import ServerThread

PATIENCE = 60.0
"""Seconds until a test that waits has failed."""


class HousekeptServer(ServerThread):
    """A server in this process whose sweeper can be called.

    Args:
        settings: The server's.
        clock: The sweeper's; without one, its time passes only when a test says so.

    Attributes:
        sweeper: Its sweeper, with the index and the image store that it serves.
    """

    sweeper: Sweeper

    def __init__(self, settings: Settings, *, clock: Callable[[], float] | None = None) -> None:
        super().__init__(settings)
        self.images = settings.data_dir / "images"
        self._now = 0.0
        self._clock = clock or (lambda: self._now)

    def __enter__(self) -> "HousekeptServer":
        with pytest.MonkeyPatch.context() as patch:
            made: list[Sweeper] = []

            def keep(*arguments: Any, **options: Any) -> Sweeper:
                made.append(Sweeper(*arguments, **options, clock=self._clock))
                return made[0]

            patch.setattr(app, "Sweeper", keep)
            super().__enter__()
        (self.sweeper,) = made
        return self

    @property
    def index(self) -> Any:
        return self.sweeper._index

    def sweep(self) -> Swept:
        """Sweep, let the grace time pass, and sweep again: what is unnamed in both sweeps goes with the second."""
        self.sweep_once()
        self.pass_grace()
        return self.sweep_once()

    def sweep_once(self) -> Swept:
        """Sweep now."""
        return self.run(self.sweeper.sweep())

    def pass_grace(self) -> None:
        """Let the grace time pass on the sweeper's clock. Files do not age by that."""
        self._now += self.settings.sweep_grace

    def generations(self, name: str) -> list[str]:
        """All generations of a collection that Milvus has, live or not."""
        return [each.physical for each in self.run(self.index._generations.all()) if each.name == name]

    def blobs(self, uid: str, image_id: str = "*") -> list[Path]:
        """The files of a collection's pictures; thumbnails are left out."""
        found = (self.images / uid).glob(f"*/{image_id}=*")
        return sorted(path for path in found if not path.name.endswith(".thumbnail"))

    def files(self, uid: str) -> list[Path]:
        """All files of a collection, thumbnails too."""
        return sorted(path for path in (self.images / uid).glob("*/*"))


def age(paths: list[Path], seconds: float) -> None:
    """Make files look as old."""
    then = time.time() - seconds
    for path in paths:
        os.utime(path, (then, then))


class Gate:
    """Holds calls of an async method back.

    Attributes:
        reached: Set when a call waits at the gate.
        opened: Set it to let calls through.
    """

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def wait(self) -> None:
        """Return when a call waits at the gate."""
        assert self.reached.wait(PATIENCE)

    async def pass_through(self) -> None:
        self.reached.set()
        assert await asyncio.to_thread(self.opened.wait, PATIENCE)


@contextmanager
def gated(
    owner: type, method: str, *, when: Callable[..., bool] = lambda *_: True, after: bool = False
) -> Iterator[Gate]:
    """Hold back the first call of a method for which ``when(self, *arguments)`` holds: before it runs, or after."""
    gate, original = Gate(), getattr(owner, method)

    @functools.wraps(original)
    async def held(self: object, *arguments: Any, **options: Any) -> Any:
        matches = not gate.reached.is_set() and when(self, *arguments)
        if matches and not after:
            await gate.pass_through()
        result = await original(self, *arguments, **options)
        if matches and after:
            await gate.pass_through()
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, method, held)
        try:
            yield gate
        finally:
            gate.opened.set()


class Background:
    """A call on a thread of its own."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._result: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(function,), daemon=True)
        self._thread.start()

    def _run(self, function: Callable[[], Any]) -> None:
        try:
            self._result = function()
        except BaseException as error:
            self._error = error

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> Any:
        """What it returned; raises what it raised."""
        self._thread.join(PATIENCE)
        assert self.done
        if self._error is not None:
            raise self._error
        return self._result
