"""What every section works with: how long to measure, a workspace, servers and loads."""

import json
import math
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.programs import Program, free_address, grpc_serves, running
from benchmarks.workspace import Workspace
from clipseek.bench import ClosedLoop, Load, LoadResult, OpenLoop, Target, generate
from clipseek_server.encoding.bundle import Precision

PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")

_IN_MEMORY = "collection is in memory"

_CALLS_OF_A_LOAD = 20_000
"""More than any makes, so that no sentence comes twice; more than the server's cache of texts holds."""

_LONGEST = 60.0
"""Seconds of a measurement that is not tried again."""


@dataclass(frozen=True)
class Profile:
    """How much is measured.

    Attributes:
        name: For the results.
        turns: How often each of what is compared is measured, turn about; medians are reported.
        seconds: Of one measurement.
        precisions: Of the sections that do not compare them.
        sizes: Rows of the embedded collections.
        milvus_sizes: Rows of the collections on a Milvus server.
        callers: Of the scale.
        bulk_pictures: Of one bulk import.
        mixed_searches: Text searches beside a bulk import.
        memory_seconds: Of watching the memory.
        small: Whether the model is a small one.
    """

    name: str
    turns: int
    seconds: float
    precisions: Sequence[Precision]
    sizes: Sequence[int]
    milvus_sizes: Sequence[int]
    callers: Sequence[int]
    bulk_pictures: int
    mixed_searches: int
    memory_seconds: float
    small: bool = False


PROFILES = {
    "smoke": Profile("smoke", 1, 0.5, ("fp32",), (1000,), (), (1, 4), 20, 100, 2.0, small=True),
    "short": Profile("short", 2, 1.2, ("fp32",), (1_000, 10_000, 100_000), (), (1, 16, 64), 100, 600, 20.0),
    "full": Profile(
        name="full",
        turns=5,
        seconds=5.0,
        precisions=PRECISIONS,
        sizes=(1_000, 10_000, 100_000, 300_000),
        milvus_sizes=(10_000, 100_000, 1_000_000),
        callers=(1, 2, 4, 8, 16, 32, 64),
        bulk_pictures=1000,
        mixed_searches=5000,
        memory_seconds=600.0,
    ),
}


@dataclass
class Bench:
    """One run.

    Attributes:
        profile: How much is measured.
        workspace: Where things are.
        precisions: Of the sections that compare them with what ONNX Runtime does alone.
    """

    profile: Profile
    workspace: Workspace
    precisions: Sequence[Precision] = PRECISIONS
    _next_call: int = field(default=0, init=False)

    @contextmanager
    def server(
        self,
        precision: Precision,
        data_dir: Path | None = None,
        *,
        settled: bool = True,
        environment: Mapping[str, str] | None = None,
    ) -> Iterator[Program]:
        """A clipseek server of that bundle, with default settings, over an empty data folder unless one is given.

        Its collection is in memory and quantised, unless it need not be settled: what answers until then is seldom
        what is to be measured.
        """
        address, metrics_address = free_address(), free_address()
        settings = {
            "CLIPSEEK_LISTEN": address,
            "CLIPSEEK_METRICS_LISTEN": metrics_address,
            "CLIPSEEK_BUNDLES": str(self.workspace.bundle(precision)),
            "CLIPSEEK_DATA_DIR": str(data_dir or self.empty(f"data-{precision}")),
            **(environment or {}),
        }
        log = self.workspace.scratch / f"server-{address}.log"
        with running(
            [sys.executable, "-m", "clipseek_server", "serve"],
            address,
            log,
            grpc_serves,
            settled=lambda: not settled or data_dir is None or in_memory(log),
            environment=settings,
            metrics_address=metrics_address,
        ) as program:
            yield program

    @property
    def long(self) -> dict[str, float]:
        """``load``'s arguments for pictures: all callers together may wait seconds for one round of answers."""
        return {"seconds": 3 * self.profile.seconds, "warmup": self.profile.seconds}

    def empty(self, name: str) -> Path:
        """A new folder."""
        number = sum(1 for _ in self.workspace.scratch.iterdir())
        folder = self.workspace.scratch / f"{name}-{number}"
        folder.mkdir()
        return folder

    def load(
        self,
        target: Target,
        operation: str,
        shape: ClosedLoop | OpenLoop,
        *,
        seconds: float | None = None,
        warmup: float = 0.3,
        calls: int | None = None,
    ) -> LoadResult:
        """One operation for as long as the profile says; no call has the number of another load's.

        Raises:
            RuntimeError: Calls failed: what is wrong must not be measured.
        """
        duration = 3600.0 if calls is not None else seconds or self.profile.seconds
        load = Load(
            shape=shape,
            mix={operation: 1},
            seconds=duration,
            warmup=0.0 if calls is not None else warmup,
            calls=calls,
            first=self._next_call,
        )
        self._next_call += _CALLS_OF_A_LOAD
        result = generate(target, load)
        if not result.total.errors and not result.total.rate and duration < _LONGEST:
            # A server so slow that no call of a round was begun and ended in the time.
            return self.load(target, operation, shape, seconds=4 * duration, warmup=warmup, calls=calls)
        if result.total.errors or not result.total.rate:
            raise RuntimeError(f"{operation} failed: {result.total.errors or 'no call ended in time'}")
        return result


def in_memory(log: Path) -> bool:
    """Whether the server of that log has its collection in memory."""
    return _IN_MEMORY in log.read_text()


def codes_seconds(log: Path) -> float:
    """How long that server's log says that codes took, once all was in memory."""
    line = next(line for line in log.read_text().splitlines() if _IN_MEMORY in line)
    return float(json.loads(line)["codes_seconds"])


def medians(turns: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The median of each number that the turns have, by name; of what is nested in them too."""
    found: dict[str, Any] = {}
    for name, value in turns[0].items():
        values = [turn[name] for turn in turns]
        if isinstance(value, dict):
            found[name] = medians(values)
        elif isinstance(value, int | float):
            found[name] = rounded(statistics.median(values))
    return found


def rounded(value: float) -> float:
    """To four digits."""
    return round(value, 3 - math.floor(math.log10(abs(value)))) if value else 0.0


def milliseconds(result: LoadResult) -> dict[str, float]:
    """The latency's percentiles."""
    latency = result.total.latency
    assert latency is not None
    return {
        "p50_ms": latency.p50 * 1000,
        "p95_ms": latency.p95 * 1000,
        "p99_ms": latency.p99 * 1000,
        "max_ms": latency.max * 1000,
    }


def search_milliseconds(result: LoadResult) -> dict[str, float]:
    """A search's percentiles, and where its time goes, in the mean: in the server by its own clock, and outside."""
    stages = {name: spent * 1000 for name, spent in result.total.stages.items()}
    towers_and_index = stages["queue"] + stages["inference"] + stages["index"]
    assert result.total.latency is not None
    mean = result.total.latency.mean * 1000
    return {
        **milliseconds(result),
        "queue_ms": stages["queue"],
        "inference_ms": stages["inference"],
        "index_ms": stages["index"],
        "own_code_ms": stages["total"] - towers_and_index,
        "wire_ms": mean - stages["total"],
        "wire_and_own_code_ms": mean - towers_and_index,
    }
