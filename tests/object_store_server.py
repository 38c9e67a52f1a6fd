"""A real S3-compatible server for tests, moto's, as a process; and a link to it that the tests can damage."""

import os
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from servers import free_port

BUCKET = "pictures"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing-secret", "AWS_REGION": "us-east-1"}
"""What the servers are given; moto takes any, unless told otherwise."""

_START_SECONDS = 60.0


class ObjectStoreServer:
    """A server without objects; what it holds is gone when it stops.

    Attributes:
        port: Where it listens; the same after each start.
        endpoint: The same as an address.
    """

    def __init__(self, *arguments: str, scheme: str = "http", **environment: str) -> None:
        self.port = free_port()
        self.endpoint = f"{scheme}://127.0.0.1:{self.port}"
        self._command = [Path(sys.executable).parent / "moto_server", "-H", "127.0.0.1", "-p", str(self.port)]
        self._command += arguments
        self._environment = {**os.environ, **environment}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it listens."""
        self._process = subprocess.Popen(
            self._command, env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            assert self._process.poll() is None, "moto_server ended"
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError("moto_server does not listen")

    def stop(self) -> None:
        """Kill it, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def make_bucket(self, name: str = BUCKET, *, ca: Path | None = None) -> None:
        """Make a bucket."""
        self._send("PUT", name, context=ssl.create_default_context(cafile=ca) if ca else None)

    def require_credentials(self) -> None:
        """From now on look at signatures, and at what the users that were made may do."""
        self._send("POST", "moto-api/reset-auth", b"0")

    def _send(self, method: str, path: str, data: bytes | None = None, context: ssl.SSLContext | None = None) -> None:
        request = urllib.request.Request(f"{self.endpoint}/{path}", data, {"Content-Type": "text/plain"}, method=method)
        with urllib.request.urlopen(request, context=context):
            pass


@contextmanager
def running() -> Iterator[ObjectStoreServer]:
    """A server with the bucket ``BUCKET`` while the context lasts."""
    server = ObjectStoreServer()
    server.start()
    try:
        server.make_bucket()
        yield server
    finally:
        server.stop()


UNAVAILABLE = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Link(socketserver.ThreadingTCPServer):
    """Another address of a server. What the server is sent goes through.

    Attributes:
        endpoint: That address.
        instead: What to say instead of the server's next answers; empty bytes break the connection.
        silent: While set, no answer goes through.
    """

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        self.target = port
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"
        self.instead: list[bytes] = []
        self.silent = threading.Event()


class _Passing(socketserver.BaseRequestHandler):
    server: Link

    def handle(self) -> None:
        with socket.create_connection(("127.0.0.1", self.server.target)) as upstream:
            threading.Thread(target=self._send_on, args=(upstream,), daemon=True).start()
            with suppress(OSError):
                while answer := upstream.recv(65536):
                    while self.server.silent.is_set():
                        time.sleep(0.01)
                    if self.server.instead:
                        self.request.sendall(self.server.instead.pop(0))
                        break
                    self.request.sendall(answer)
            # Wakes the other thread too.
            with suppress(OSError):
                self.request.shutdown(socket.SHUT_RDWR)

    def _send_on(self, upstream: socket.socket) -> None:
        with suppress(OSError):
            while data := self.request.recv(65536):
                upstream.sendall(data)
            upstream.shutdown(socket.SHUT_WR)


@contextmanager
def linked(port: int) -> Iterator[Link]:
    """A link to a server on the loopback while the context lasts."""
    link = Link(port)
    thread = threading.Thread(target=link.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield link
    finally:
        link.silent.clear()
        link.shutdown()
        thread.join()
        link.server_close()
