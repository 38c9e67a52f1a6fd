"""A real Milvus server for tests: the binary that the ``milvus`` package brings, without docker.

Its ports are fixed, so one runs at a time; test processes on one machine wait for each other.
"""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

URI = "http://127.0.0.1:19530"
PORT = 19530
USER, PASSWORD = "root", "Milvus"  # Milvus' own, until somebody changes them

_STARTS = 3
_START_SECONDS = 45.0
_STOP_SECONDS = 5.0


@contextmanager
def running(folder: Path) -> Iterator[int]:
    """A server with its data in ``folder`` that asks for ``USER`` and ``PASSWORD``; yields its process group."""
    binary = Path(sys.executable).parent / "milvus-server"
    if not binary.exists():
        pytest.skip("the milvus package, which brings a Milvus server, is not installed")
    with _alone():
        if _listens():
            pytest.fail(f"something else listens on {PORT}, a Milvus server's port that cannot be changed here")
        server = _started(binary, folder)
        try:
            yield server.pid
        finally:
            _stop(server)


def _started(binary: Path, folder: Path) -> "subprocess.Popen[bytes]":
    # One in about eight hangs while it starts, for ever.
    for attempt in range(_STARTS):
        place = folder / f"start-{attempt}"
        place.mkdir()
        with (place / "output.log").open("wb") as output:
            server = subprocess.Popen(
                [binary, "--data", place / "data", "--extra-config", "common.security.authorizationEnabled=true"],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            if _answers(server, place):
                return server
        except BaseException:
            _stop(server)
            raise
        _stop(server)
    pytest.fail(f"the Milvus server was started {_STARTS} times and did not answer")


@contextmanager
def _alone() -> Iterator[None]:
    with (Path(tempfile.gettempdir()) / f"clipseek-tests-milvus-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _listens() -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", PORT)) == 0


def _answers(server: "subprocess.Popen[bytes]", folder: Path) -> bool:
    """Whether it answers before long."""
    from pymilvus import MilvusClient
    from pymilvus.exceptions import MilvusException

    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        if server.poll() is not None:
            tail = (folder / "output.log").read_text(errors="replace")[-2000:]
            pytest.skip(f"the Milvus server cannot run here, exit code {server.returncode}: {tail}")
        with suppress(MilvusException):
            client = MilvusClient(URI, user=USER, password=PASSWORD, timeout=2, dedicated=True)
            client.list_collections(timeout=2)
            client.close()
            return True
        time.sleep(0.2)
    return False


def _stop(server: "subprocess.Popen[bytes]") -> None:
    # Asked to stop it takes longer than it is patient itself, and nothing needs its data. A signal to the wrapper alone
    # would orphan the server.
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()
    end = time.monotonic() + _STOP_SECONDS
    while _listens() and time.monotonic() < end:
        time.sleep(0.1)
