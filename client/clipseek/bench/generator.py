"""Runs a load in processes of its own, so that it shares no interpreter with what it measures."""

import asyncio
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from clipseek.bench.loops import Share, run_share
from clipseek.bench.plan import Load, Target
from clipseek.bench.recording import Recording, merge
from clipseek.bench.results import LoadResult
from clipseek.errors import ClipseekError

_HEAD_START = 0.1
"""Seconds from the word to begin to the first call: enough for it to reach all processes."""


class GeneratorError(Exception):
    """A process of the generator could not do its part; the message says why.

    Attributes:
        may_pass: Whether the server was away, overloaded or too slow, so that a later try may help.
    """

    def __init__(self, message: str, *, may_pass: bool = False) -> None:
        super().__init__(message)
        self.may_pass = may_pass

    def __reduce__(self) -> "tuple[Any, ...]":
        return _generator_error, (str(self), self.may_pass)


def _generator_error(message: str, may_pass: bool) -> GeneratorError:
    return GeneratorError(message, may_pass=may_pass)


def generate(target: Target, load: Load) -> LoadResult:
    """Put a load on a target and wait for the last answer.

    The processes are spawned: a script that calls this needs ``if __name__ == "__main__":``.

    Raises:
        GeneratorError: A process could not connect, or ended before its time.
    """
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        pipes: list[Connection] = []
        for index in range(load.processes):
            pipe, other_end = context.Pipe()
            share = Share(index, load.processes)
            process = context.Process(target=_work, args=(target, load, share, other_end), daemon=True)
            process.start()
            other_end.close()
            stack.callback(_end, process)
            pipes.append(stack.enter_context(pipe))
        for pipe in pipes:
            _receive(pipe)
        start = time.monotonic() + _HEAD_START
        for pipe in pipes:
            pipe.send(start)
        return merge(_recordings(pipes))


def _recordings(pipes: Sequence[Connection]) -> list[Recording]:
    recordings = []
    for pipe in pipes:
        recording = _receive(pipe)
        if recording is None:
            raise GeneratorError("a process of the load generator began twice")
        recordings.append(recording)
    return recordings


def _receive(pipe: Connection) -> Recording | None:
    """A process's next word: ``None`` when it is ready, then its recording."""
    try:
        word: Recording | GeneratorError | None = pipe.recv()
    except EOFError:
        raise GeneratorError("a process of the load generator ended before its time") from None
    if isinstance(word, GeneratorError):
        raise word
    return word


def _end(process: BaseProcess) -> None:
    process.join(timeout=1)
    if process.is_alive():
        process.kill()
        process.join()


def _work(target: Target, load: Load, share: Share, pipe: Connection) -> None:
    """What a process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal's Ctrl-C: the process that began this one ends it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Who began this process may have ended, because another one could not do its part.
    with suppress(BrokenPipeError), pipe:
        try:
            pipe.send(asyncio.run(_calls(target, load, share, pipe)))
        except ClipseekError as error:
            pipe.send(GeneratorError(str(error), may_pass=error.may_pass))
        except ValueError as error:
            pipe.send(GeneratorError(str(error)))
        except Exception as error:
            pipe.send(GeneratorError(f"the load generator failed: {type(error).__name__}: {error}"))


def _end_with_parent() -> None:
    """A load whose process was killed is nobody's: none may go on putting it on a server."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


async def _calls(target: Target, load: Load, share: Share, pipe: Connection) -> Recording:
    async with target.connect() as operations:
        if unknown := load.mix.keys() - operations.keys():
            raise ValueError(f"no such operation: {', '.join(sorted(unknown))}; there are {', '.join(operations)}")
        pipe.send(None)
        start: float = await asyncio.to_thread(pipe.recv)
        return await run_share(operations, load, share, start)
