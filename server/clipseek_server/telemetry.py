"""What one call is, how long it may take, and where its time went.

One ``Call`` travels with each RPC through all rooms. Its stage times feed the response and the log line.
"""

import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum

import structlog

from clipseek_server.errors import DeadlineExceeded


def now() -> float:
    """Seconds on the clock of deadlines and stage times, which only grows."""
    return time.monotonic()


class Stage(StrEnum):
    """A stage of a call; ``clipseek.v1.Timing`` has those that clients see."""

    DECODE = "decode"
    QUEUE = "queue"
    INFERENCE = "inference"
    INDEX = "index"
    STORE = "store"


class Stages:
    """The stages of a call: in each, the seconds in which at least one of its items was in it.

    A moment counts once, however many items are in the stage, so no stage is longer than the call.
    """

    __slots__ = ("_entered", "_seconds")

    def __init__(self) -> None:
        self._seconds: dict[Stage, float] = {}
        self._entered: dict[Stage, tuple[int, float]] = {}  # how many are in it, and since when there are any

    def enter(self, stage: Stage, moment: float) -> None:
        """One more item is in a stage; ``moment`` is on the clock of ``now``."""
        items, since = self._entered.get(stage, (0, moment))
        self._entered[stage] = (items + 1, since)

    def leave(self, stage: Stage, moment: float) -> None:
        """One that entered a stage is in it no more."""
        items, since = self._entered.pop(stage)
        if items > 1:
            self._entered[stage] = (items - 1, since)
        else:
            self._seconds[stage] = self._seconds.get(stage, 0.0) + moment - since

    @property
    def seconds(self) -> Mapping[Stage, float]:
        """So far; what still is in a stage counts up to now."""
        if not self._entered:
            return self._seconds
        moment = now()
        under_way = {stage: moment - since for stage, (_, since) in self._entered.items()}
        return self._seconds | {stage: self._seconds.get(stage, 0.0) + more for stage, more in under_way.items()}


@dataclass(slots=True, eq=False)
class Call:
    """One RPC, or one item of a stream.

    Attributes:
        request_id: Names the call in logs and errors.
        deadline: On the clock of ``now``, in seconds; ``None`` means that the caller waits for ever.
        bulk: Whether interactive work goes before it.
        stages: Where its time goes; the items of a call that has many share them.
        items: What became of the items of a call that has many, for its log line.
    """

    request_id: str = "-"
    deadline: float | None = None
    bulk: bool = False
    started: float = field(default_factory=lambda: now())
    stages: Stages = field(default_factory=Stages)
    items: Counter[str] = field(default_factory=Counter)

    @property
    def elapsed(self) -> float:
        """Seconds since the call arrived."""
        return now() - self.started

    @property
    def seconds(self) -> Mapping[Stage, float]:
        """Seconds in each stage so far, each at most ``elapsed``."""
        return self.stages.seconds

    @property
    def expired(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and now() >= self.deadline

    def check_deadline(self) -> None:
        """Raise ``DeadlineExceeded`` once the deadline has passed; call it before anything that costs."""
        if self.expired:
            raise DeadlineExceeded("the deadline passed before the work was done; allow more time")

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """Time a ``with`` block as part of ``stage``."""
        self.stages.enter(stage, now())
        try:
            yield
        finally:
            self.stages.leave(stage, now())


class _Lines(structlog.PrintLogger):
    """Lines that may be lost: a full disk or a reader that went away must not fail the call that logs."""

    def msg(self, message: str) -> None:
        with suppress(OSError):
            super().msg(message)

    log = debug = info = warn = warning = error = critical = fatal = failure = exception = msg


def _for_the_eye() -> structlog.dev.ConsoleRenderer:
    # The prettier traceback shows local variables, which hold what was sent.
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)


def configure_logging(level: str, *, json: bool) -> None:
    """Send structured log lines to standard error, as JSON or for the eye."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info if json else structlog.processors.StackInfoRenderer(),
            structlog.processors.JSONRenderer() if json else _for_the_eye(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=lambda *_: _Lines(sys.stderr),
        cache_logger_on_first_use=True,
    )


log = structlog.stdlib.get_logger("clipseek")
