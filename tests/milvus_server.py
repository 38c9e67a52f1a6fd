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

_START_SECONDS = 90.0
_STOP_SECONDS = 5.0


@contextmanager
def running(folder: Path) -> Iterator[int]:
    """A server with its data in ``folder`` that asks for ``USER`` and ``PASSWORD``; yields its process group."""
    binary = Path(sys.executable).parent / "milvus-server"
    if not binary.exists():
        pytest.skip("the milvus package, which brings a Milvus server, is not installed")
    with _alone(), (folder / "output.log").open("wb") as output:
        if _listens():
            pytest.fail(f"something else listens on {PORT}, a Milvus server's port that cannot be changed here")
        server = subprocess.Popen(
            [binary, "--data", folder / "data", "--extra-config", "common.security.authorizationEnabled=true"],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait_until_it_answers(server, folder)
            yield server.pid
        finally:
            _stop(server)


@contextmanager
def _alone() -> Iterator[None]:
    with (Path(tempfile.gettempdir()) / f"clipseek-tests-milvus-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _listens() -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", PORT)) == 0


def _wait_until_it_answers(server: "subprocess.Popen[bytes]", folder: Path) -> None:
    from pymilvus import MilvusClient
    from pymilvus.exceptions import MilvusException

    end = time.monotonic() + _START_SECONDS
    while True:
        if server.poll() is not None:
            tail = (folder / "output.log").read_text(errors="replace")[-2000:]
            pytest.skip(f"the Milvus server cannot run here, exit code {server.returncode}: {tail}")
        with suppress(MilvusException):
            client = MilvusClient(URI, user=USER, password=PASSWORD, timeout=2, dedicated=True)
            client.list_collections(timeout=2)
            client.close()
            return
        if time.monotonic() > end:
            pytest.fail("the Milvus server runs but does not answer")
        time.sleep(0.2)


def _stop(server: "subprocess.Popen[bytes]") -> None:
    # A signal to the wrapper alone would orphan the server, and a loaded one may hang.
    for number, patience in ((signal.SIGCONT, 0.0), (signal.SIGTERM, _STOP_SECONDS), (signal.SIGKILL, _STOP_SECONDS)):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        if patience and _gone_within(server, patience):
            return


def _gone_within(server: "subprocess.Popen[bytes]", patience: float) -> bool:
    end = time.monotonic() + patience
    while time.monotonic() < end:
        server.poll()
        try:
            os.killpg(server.pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False
