"""What to call, how often and for how long."""

import math
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias


@dataclass(frozen=True, slots=True)
class Done:
    """What a call that did not fail has to say.

    Attributes:
        items: What it did, e.g. pictures of a bulk import.
        failures: Items that failed alone, by status.
        stages: Seconds by stage, as the server itself measured them.
    """

    items: int = 1
    failures: Mapping[str, int] = field(default_factory=dict)
    stages: Mapping[str, float] = field(default_factory=dict)


_MOST_WINDOWS = 300

Operation: TypeAlias = Callable[[int], Awaitable[Done]]
"""Makes one call. It is given the call's number: no two calls of a load have the same."""


class Target(Protocol):
    """What can be called. It travels to other processes, so it must be possible to pickle it."""

    def connect(self) -> AbstractAsyncContextManager[Mapping[str, Operation]]:
        """Connect, and offer operations by name; called once in each process."""


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """So many callers, of all processes together; each calls again as soon as it has its answer."""

    callers: int = 1

    def __post_init__(self) -> None:
        if self.callers < 1:
            raise ValueError("a closed loop has at least one caller")


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """So many calls a second, of all processes together.

    Attributes:
        rate: Calls a second.
        arrivals: ``constant``: at a constant distance; ``poisson``: each independent of the others, as those of many
            users are.
    """

    rate: float
    arrivals: Literal["constant", "poisson"] = "constant"

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise ValueError("the rate of an open loop is above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A load.

    Attributes:
        shape: Closed or open loop.
        mix: Operations and their weights.
        seconds: How long it is measured.
        warmup: Seconds before that; nothing that ends in them (in an open loop: is due in them) counts.
        calls: End sooner, after so many calls of all callers together, those while warming up included.
        processes: How many processes make the calls.
        first: The number of the first call; for a load that must not repeat the calls of another.
        seed: Of the choice among the operations, and of Poisson's arrivals.
    """

    shape: ClosedLoop | OpenLoop
    mix: Mapping[str, float]
    seconds: float = 10.0
    warmup: float = 1.0
    calls: int | None = None
    processes: int = 1
    first: int = 0
    seed: int = 0

    @property
    def window_seconds(self) -> float:
        """How long the parts are of which a result says how they went."""
        return max(1.0, float(math.ceil(self.seconds / _MOST_WINDOWS)))

    def __post_init__(self) -> None:
        if not self.mix or not all(0 < weight < math.inf for weight in self.mix.values()):
            raise ValueError("a mix names at least one operation, each with a weight above 0")
        if self.processes < 1 or (isinstance(self.shape, ClosedLoop) and self.processes > self.shape.callers):
            raise ValueError("there is at least one process, and no more than callers")
        if not 0 < self.seconds < math.inf or not 0 <= self.warmup < math.inf:
            raise ValueError("a load is measured for more than 0 seconds, and warms up for 0 or more; neither for ever")
