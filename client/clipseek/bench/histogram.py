"""Latencies in little memory: Gil Tene's High Dynamic Range Histograms, by the ``hdrhistogram`` package.

Percentiles are right to 0.1 %, however many calls there were.
"""

import math
from collections.abc import Iterable
from typing import Self

from hdrh.histogram import HdrHistogram

from clipseek.bench.results import SHARES_ABOVE, Latency, Point

_LONGEST_SECONDS = 3600
_DIGITS = 3
_MICROSECONDS = 1_000_000
_CURVE_TICKS = 5
"""Points of the curve for each halving of what is left to 100 %."""


class Histogram:
    """Seconds, from a microsecond to an hour."""

    def __init__(self, encoded: bytes | None = None) -> None:
        self._values = HdrHistogram(1, _LONGEST_SECONDS * _MICROSECONDS, _DIGITS)
        self._sum = 0.0
        if encoded is not None:
            self._values.decode_and_add(encoded)

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Self:
        """A histogram of these."""
        made = cls()
        for each in seconds:
            made.add(each)
        return made

    def __len__(self) -> int:
        return int(self._values.get_total_count())

    def add(self, seconds: float) -> None:
        """Take in one value; what lies outside counts as the nearest that does not."""
        self._sum += seconds
        self._values.record_value(min(max(1, round(seconds * _MICROSECONDS)), _LONGEST_SECONDS * _MICROSECONDS))

    def join(self, other: "Histogram") -> None:
        """Take in another's values."""
        self._values.add(other._values)
        self._sum += other._sum

    def latency(self) -> Latency | None:
        """Percentiles of at least one value; ``None`` of none."""
        count = len(self)
        if not count:
            return None
        return Latency(
            count=count,
            mean=self._sum / count,
            min=self._values.get_min_value() / _MICROSECONDS,
            max=self._values.get_max_value() / _MICROSECONDS,
            **self.percentiles(),
        )

    def percentiles(self, beyond: float = 0.0) -> dict[str, float]:
        """Seconds by percentile, when so many further values lie above all; what lies among these is left out."""
        count = len(self)
        if not count:
            return {}
        # Rounded before, or what is a whole number but for its last bits would become the next one.
        ranks = {name: math.ceil(round((1 - share) * (count + beyond), 6)) for name, share in SHARES_ABOVE.items()}
        percents = {name: 100 * rank / count for name, rank in ranks.items() if rank <= count}
        values = self._values.get_percentile_to_value_dict(list(percents.values()))
        return {name: values[percent] / _MICROSECONDS for name, percent in percents.items()}

    def curve(self) -> tuple[Point, ...]:
        """The percentiles, nearer to each other towards 100 %."""
        if not len(self):
            return ()
        return tuple(
            Point(item.percentile_level_iterated_to, item.value_iterated_to / _MICROSECONDS)
            for item in self._values.get_percentile_iterator(_CURVE_TICKS)
        )

    def __getstate__(self) -> tuple[bytes, float]:
        return self._values.encode(), self._sum

    def __setstate__(self, state: tuple[bytes, float]) -> None:
        self.__init__(state[0])  # type: ignore[misc]  # it is empty as yet
        self._sum = state[1]
