"""Servers as processes, and what they take of the machine."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from clipseek.bench import scrape

_START_TIMEOUT = 600.0
_STOP_TIMEOUT = 45.0
_POLL = 0.05
_TICKS = os.sysconf("SC_CLK_TCK")

EVENT_LOOP, OTHER_THREADS = "event loop", "gRPC's own, asyncio's pool"
THREADS = {
    "decode": "decoding",
    "picture tower": "picture tower",
    "text tower": "text tower",
    "resident": "scans in memory",
    "milvus": "Milvus Lite",
    "milvus-lite": "Milvus Lite",
    "images": "image store",
}
"""What a clipseek server's threads do, by the names that ``clipseek_server.threads`` gives them."""


@dataclass
class Program:
    """A server that runs.

    Attributes:
        address: Where it listens.
        pid: Its process.
        start_seconds: From its start until it served.
        log: Where its output goes.
        metrics_address: Where it answers Prometheus; empty if it does not.
    """

    address: str
    pid: int
    start_seconds: float
    log: Path
    metrics_address: str = ""

    @property
    def rss(self) -> int:
        """Bytes of memory that it and its children take."""
        return sum(map(resident_bytes, _session(self.pid)))

    @property
    def peak_rss(self) -> int:
        """The most that it ever took, without its children."""
        return _status(self.pid, "VmHWM")

    @property
    def cpu_seconds(self) -> float:
        """CPU time that it and its children have used."""
        return sum(_cpu_seconds(Path(f"/proc/{pid}/stat")) for pid in _session(self.pid))

    @property
    def thread_seconds(self) -> dict[str, float]:
        """CPU time that the threads of a clipseek server have used, by what they do."""
        found = dict.fromkeys([EVENT_LOOP, *THREADS.values(), OTHER_THREADS], 0.0)
        for thread in Path(f"/proc/{self.pid}/task").iterdir():
            with suppress(OSError):  # it ended meanwhile
                name = (thread / "comm").read_text().strip()
                does = EVENT_LOOP if thread.name == str(self.pid) else THREADS.get(name, OTHER_THREADS)
                found[does] += sum(int(field) for field in _stat(thread / "stat")[11:13]) / _TICKS
        return found

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Have it and its children stand still."""
        for pid in _session(self.pid):
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in _session(self.pid):
                os.kill(pid, signal.SIGCONT)

    def batch_counts(self, queue: str) -> tuple[float, float]:
        """Items and batches that a queue of a clipseek server has run so far."""
        return self._histogram(f'clipseek_batch_items_%s{{queue="{queue}"}}')

    def call_seconds(self, method: str) -> tuple[float, float]:
        """Seconds that a clipseek server's calls of a method took so far, by its own clock, and their number."""
        return self._histogram(f'clipseek_call_seconds_%s{{method="{method}"}}')

    def _histogram(self, name: str) -> tuple[float, float]:
        metrics = scrape.read(f"http://{self.metrics_address}/metrics")
        return metrics.get(name % "sum", 0.0), metrics.get(name % "count", 0.0)


def resident_bytes(pid: int) -> int:
    """Memory that a process takes now."""
    return _status(pid, "VmRSS")


def _status(pid: int, field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _cpu_seconds(stat: Path) -> float:
    return sum(int(field) for field in _stat(stat)[11:15]) / _TICKS


def _session(leader: int) -> list[int]:
    """All processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended meanwhile
            if int(_stat(stat)[3]) == leader:
                found.append(int(stat.parent.name))
    return found


def _stat(stat: Path) -> list[str]:
    # The name in parentheses may hold anything.
    return stat.read_text().rpartition(")")[2].split()


def installed(program: Path, packages: Sequence[str]) -> Path:
    """A program of packages in a virtual environment of its own, which is made unless it is there.

    Raises:
        subprocess.CalledProcessError: They do not install here.
    """
    if not program.exists():
        folder = program.parent.parent
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", *packages], check=True)
    return program


def free_address() -> str:
    """An address of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@contextmanager
def running(
    command: Sequence[str],
    address: str,
    log: Path,
    serves: Callable[[str], bool],
    *,
    settled: Callable[[], bool] = lambda: True,
    patience: float = _START_TIMEOUT,
    environment: Mapping[str, str] | None = None,
    metrics_address: str = "",
) -> Iterator[Program]:
    """Start a server, wait until it serves, and stop it at the end.

    Args:
        command: Program and arguments.
        address: Where it will listen.
        log: Where its output goes.
        serves: Whether it serves, asked again and again.
        settled: Whether it has done what it does beside serving at first, asked thereafter.
        patience: Seconds until it must be so far.
        environment: Beside this process's own.
        metrics_address: Where it will answer Prometheus.

    Raises:
        RuntimeError: It ended, or is not so far in time; the message has the end of its log.
    """
    if serves(address):
        raise RuntimeError(f"something serves at {address} already, and is not to be measured, or written to")
    begin = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, **(environment or {})}, start_new_session=True
        )
    try:

        def wait(done: Callable[[], bool]) -> float:
            while not done():
                if process.poll() is not None or time.monotonic() > begin + patience:
                    raise RuntimeError(f"{command[0]} does not serve:\n{log.read_text(errors='replace')[-2000:]}")
                time.sleep(_POLL)
            return time.monotonic() - begin

        start_seconds = wait(lambda: serves(address))
        wait(settled)
        yield Program(address, process.pid, start_seconds, log, metrics_address)
    finally:
        # All of it: a signal to the leader alone may leave its children behind.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_TIMEOUT)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def grpc_serves(address: str) -> bool:
    """Whether a server says SERVING."""
    with grpc.insecure_channel(address) as channel:
        try:
            answer = HealthStub(channel).Check(HealthCheckRequest(), timeout=1)
        except grpc.RpcError:
            return False
        return bool(answer.status == HealthCheckResponse.SERVING)


class CpuMeter:
    """CPU seconds of a clipseek server in a ``with`` block, and those of its threads by what they do."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self.seconds = 0.0
        self.threads: dict[str, float] = {}

    def __enter__(self) -> Self:
        self.seconds = -self._program.cpu_seconds
        self.threads = self._program.thread_seconds
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += self._program.cpu_seconds
        self.threads = {does: seconds - self.threads[does] for does, seconds in self._program.thread_seconds.items()}

    def thread_ms(self, count: float) -> dict[str, float]:
        """CPU milliseconds of each of so many calls, by what the threads do."""
        return {does: seconds / count * 1000 for does, seconds in self.threads.items()}
