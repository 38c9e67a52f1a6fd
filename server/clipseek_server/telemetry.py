"""What one call is, how long it may take, and where its time went.

One ``Call`` travels with each RPC through all rooms. Its stage times feed the response and the log line.
"""

import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator
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


@dataclass(slots=True, eq=False)
class Call:
    """One RPC, or one item of a stream.

    Attributes:
        request_id: Names the call in logs and errors.
        deadline: On the clock of ``now``, in seconds; ``None`` means that the caller waits for ever.
        bulk: Whether interactive work goes before it.
        seconds: Time spent in each stage so far; of a stream, by all its items together.
        items: What became of the items of a call that has many, for its log line.
    """

    request_id: str = "-"
    deadline: float | None = None
    bulk: bool = False
    started: float = field(default_factory=lambda: now())
    seconds: dict[Stage, float] = field(default_factory=dict)
    items: Counter[str] = field(default_factory=Counter)

    @property
    def elapsed(self) -> float:
        """Seconds since the call arrived."""
        return now() - self.started

    @property
    def expired(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and now() >= self.deadline

    def check_deadline(self) -> None:
        """Raise ``DeadlineExceeded`` once the deadline has passed; call it before anything that costs."""
        if self.expired:
            raise DeadlineExceeded("the deadline passed before the work was done; allow more time")

    def spent(self, stage: Stage, seconds: float) -> None:
        """Add ``seconds`` to a stage."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """Time a ``with`` block as part of ``stage``."""
        begin = now()
        try:
            yield
        finally:
            self.spent(stage, now() - begin)


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
