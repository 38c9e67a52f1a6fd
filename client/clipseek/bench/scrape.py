"""A server's own metrics, read from its Prometheus address while a load runs."""

import http.client
import re
import threading
import time
import urllib.request
from collections.abc import Mapping
from itertools import pairwise
from types import TracebackType
from typing import Self

Series = dict[str, list[tuple[float, float]]]
"""By name with labels: pairs of seconds since the beginning and the value then."""

_SAMPLE = re.compile(r"^(?P<name>(?:clipseek_|process_)\S+?(?:\{.*\})?) (?P<value>\S+)$", re.MULTILINE)
_LEFT_OUT = re.compile(r"_bucket\{|_created")
_TIMEOUT = 5.0


class Scraper:
    """Reads them again and again in a ``with`` block, beside the caller.

    Args:
        url: e.g. ``http://127.0.0.1:9464/metrics``.
        interval: Seconds between two readings.

    Attributes:
        begin: When it began, on the machine's monotonic clock.
        series: What was read.
        failed: How many readings failed.
    """

    def __init__(self, url: str, interval: float = 1.0) -> None:
        self.begin = 0.0
        self.series: Series = {}
        self.failed = 0
        self._url = url
        self._interval = interval
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        """Begin.

        Raises:
            OSError: There is nothing to read at that address.
        """
        self.begin = time.monotonic()
        self._read()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(self._interval):
            try:
                self._read()
            except OSError:
                self.failed += 1

    def _read(self) -> None:
        moment = time.monotonic() - self.begin
        for name, value in read(self._url).items():
            self.series.setdefault(name, []).append((round(moment, 3), value))


def read(url: str) -> Mapping[str, float]:
    """What clipseek and its process say of themselves there, without the buckets of histograms.

    Raises:
        OSError: There is nothing to read; the message names the address.
        ValueError: It is no HTTP address.
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"metrics are read over HTTP, e.g. http://127.0.0.1:9464/metrics; not {url!r}")
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:  # noqa: S310 -- its scheme was looked at
            text = answer.read().decode("utf-8", errors="replace")
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise OSError(f"the metrics at {url} cannot be read: {error}") from error
    found = {}
    for sample in _SAMPLE.finditer(text):
        if not _LEFT_OUT.search(sample["name"]):
            found[sample["name"]] = float(sample["value"])
    return found


def rates(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of a counter: how much it grew a second, at the end of each interval."""
    return [
        (later, max(0.0, above - below) / (later - sooner))
        for (sooner, below), (later, above) in pairwise(points)
        if later > sooner
    ]
