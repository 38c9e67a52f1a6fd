"""The highest rate at which a server meets an objective.

Rates double until one fails, then the gap is halved. A rate counts as met, or as failed, once two of its measurements
say so: one alone may have been good or bad luck.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from clipseek.bench.objective import Objective
from clipseek.bench.results import LoadResult

_AGREEING = 2
_TAIL_SHARE = 0.05
"""Of the time, and a second at least: whose last answers come later than that falls behind, however long one looks."""


@dataclass(frozen=True)
class Step:
    """One measurement.

    Attributes:
        rate: Calls a second that were made.
        result: What they found.
        met: Whether the objective was met; ``None`` when the generator could not keep up, which says nothing.
        why_not: What was not, in words; empty when all was.
        few_calls: Which percentiles fewer than ten calls decide, in words; empty when more do.
    """

    rate: float
    result: LoadResult
    met: bool | None
    why_not: str = ""
    few_calls: str = ""


@dataclass(frozen=True)
class Found:
    """What the search came to.

    Attributes:
        rate: The highest rate that met the objective; 0 when none did.
        failed_rate: The lowest one above it that did not; ``None`` when none failed that was tried.
        steps: All measurements, in their order.
        generator_limit: The rate at which the generator itself could not keep up, so that nothing is known beyond it.
    """

    rate: float
    failed_rate: float | None
    steps: tuple[Step, ...]
    generator_limit: float | None = None

    @classmethod
    def of(cls, steps: Sequence[Step]) -> "Found":
        """What these measurements say, also when the search ended before its time."""

        def agreed(met: bool | None) -> list[float]:
            votes = Counter(step.rate for step in steps if step.met is met)
            return [rate for rate, count in votes.items() if count >= _AGREEING]

        return cls(
            rate=max(agreed(True), default=0.0),
            failed_rate=min(agreed(False), default=None),
            steps=tuple(steps),
            generator_limit=min(agreed(None), default=None),
        )

    @property
    def few_calls(self) -> tuple[str, ...]:
        """What fewer than ten calls decided of the rates that were found, in words."""
        deciding = [step for step in self.steps if step.rate in (self.rate, self.failed_rate) and step.few_calls]
        return tuple({step.rate: f"at {step.rate:.1f}/s {step.few_calls}" for step in deciding}.values())


def generator_limited(rate: float) -> str:
    """What a search says that ended at such a rate because of the generator."""
    return (
        f"at {rate:.1f}/s the generator itself could not keep up: the server may bear more; give it more --processes, "
        "or another machine"
    )


def search(
    measure: Callable[[float], LoadResult],
    objective: Objective,
    *,
    begin: float = 10.0,
    most: float = 100_000.0,
    precision: float = 0.05,
    on_step: Callable[[Found], None] = lambda _: None,
) -> Found:
    """Search.

    Args:
        measure: Makes so many calls a second for a while.
        objective: To meet.
        begin: The first rate.
        most: The highest rate to try.
        precision: The search ends when the rate that failed is no more than so much above the one that was met.
        on_step: Called after each measurement, with what is found until then.
    """
    steps: list[Step] = []

    def is_met(rate: float) -> bool | None:
        votes: dict[bool | None, int] = {True: 0, False: 0, None: 0}
        while max(votes.values()) < _AGREEING:
            result = measure(rate)
            step = _step(rate, result, objective)
            steps.append(step)
            on_step(Found.of(steps))
            votes[step.met] += 1
        return max(votes, key=votes.__getitem__)

    met, failed = 0.0, math.inf
    rate = min(begin, most)
    while failed > met * (1 + precision):
        found = is_met(rate)
        if found is None:
            break
        if found:
            met = rate
            if rate >= most:
                break
        else:
            failed = rate
        if math.isinf(failed):
            rate = min(2 * met, most)
        elif met:
            rate = math.sqrt(met * failed)
        else:
            rate = failed / 2
            if rate < begin / _DEEPEST:
                break
    return Found.of(steps)


_DEEPEST = 64
"""Below so small a part of the first rate nothing is tried."""


def _step(rate: float, result: LoadResult, objective: Objective) -> Step:
    conditions = objective.broken_by(result)
    # Errors are the server's, whatever the generator does.
    if result.is_generator_busy and not any(each.what == "errors" for each in conditions):
        return Step(rate, result, None, "the load generator itself could not keep up, so that nothing is known")
    broken = [f"{each.text} ({_text(each.what, each.measured(result))})" for each in conditions]
    if result.tail_seconds > max(1.0, _TAIL_SHARE * result.seconds):
        broken.append(f"it fell behind: the last answer came {result.tail_seconds:.1f} s after the last call was due")
    return Step(rate, result, not broken, "; ".join(broken), _few_calls(result, objective))


def _few_calls(result: LoadResult, objective: Objective) -> str:
    short = {each.text: seconds for each in objective.conditions if (seconds := each.enough_seconds(result))}
    if not short:
        return ""
    return (
        f"fewer than ten calls lie above the percentile of {', '.join(short)}, so that chance may decide; "
        f"--seconds {math.ceil(max(short.values()))} would be enough"
    )


def _text(what: str, measured: float | None) -> str:
    if measured is None:
        return "nothing was answered"
    if math.isinf(measured):
        return "calls failed"
    return f"{measured:.2%}" if what == "errors" else f"{measured * 1000:.1f} ms"
