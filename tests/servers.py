"""Servers for the end-to-end tests: in a thread of this process, or as a process that can be killed."""

import asyncio
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from clipseek_server.app import Server
from clipseek_server.config import Settings

T = TypeVar("T")


def free_port() -> int:
    """A port of the loopback that nothing listens on."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port: int = reserved.getsockname()[1]
        return port


class ServerThread:
    """The real server on an event loop of its own.

    Attributes:
        address: Where it listens.
        server: The server; touch it only on its loop, with ``run``.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.server = Server(settings)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="server")

    @property
    def address(self) -> str:
        return self.server.address

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run something on the server's loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def settle(self) -> None:
        """Return when calls that were answered are logged and counted too."""
        self.run(asyncio.sleep(0))

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self.run(self.server.__aenter__())
        except BaseException:
            self._stop_loop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.run(self.server.__aexit__(None, None, None))
        finally:
            self._stop_loop()

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class ServerProcess:
    """``clipseek-server serve`` as a process; it can be killed and started again over the same data.

    Attributes:
        address: Where it listens; another one after each start.
        log: Where its log lines go.
    """

    def __init__(self, data_dir: Path, bundle: Path, **environment: str) -> None:
        self.log = data_dir.with_name(data_dir.name + ".log")
        self.address = ""
        self._environment = {
            **os.environ,
            "CLIPSEEK_LISTEN": "127.0.0.1:0",
            "CLIPSEEK_DATA_DIR": str(data_dir),
            "CLIPSEEK_BUNDLES": str(bundle),
            **environment,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Start and wait until it listens."""
        with self.log.open("ab") as log:
            begin = log.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "clipseek_server", "serve"], env=self._environment, stderr=log
            )
        self.address = self._wait_for_address(begin)

    def start(self) -> None:
        """Start and wait until it is serving."""
        self.launch()
        with grpc.insecure_channel(self.address) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
            for answer in watch:
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    watch.cancel()
                    return

    def _wait_for_address(self, begin: int) -> str:
        assert self._process is not None
        with self.log.open("rb") as log:
            log.seek(begin)
            text = b""
            while self._process.poll() is None:
                text += log.read()
                if found := re.search(rb'"address": "([^"]+)"', text):
                    return found.group(1).decode()
                try:
                    self._process.wait(0.05)
                except subprocess.TimeoutExpired:
                    continue
        raise RuntimeError(f"the server ended: {self.log.read_text()[-2000:]}")

    def limit_files(self, size: int) -> None:
        """Let no file that it writes grow beyond ``size`` bytes: writes fail as on a full disk."""
        assert self._process is not None
        _, hard = resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (size, hard))

    def kill(self) -> None:
        """Kill it as the kernel would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """Ask it to stop; returns its exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(60)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()
