"""A clipseek server and its page as child processes, for scripts."""

import ctypes
import errno
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

START_TIMEOUT = 120
# Longer than the server takes to drain.
STOP_TIMEOUT = 45
# From <linux/prctl.h>.
PR_SET_PDEATHSIG = 1


@contextmanager
def serving(listen: str, data: Path, bundle: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a server with Milvus Lite, wait until it is serving, and stop it at the end.

    Args:
        listen: HOST:PORT.
        data: The server's data folder; made if missing. ``server.log`` is written there.
        bundle: The model bundle to serve.

    Raises:
        SystemExit: The address is of no use, or the server ended before it was serving; the message says what to do.
    """
    check_address(listen)
    data.mkdir(parents=True, exist_ok=True)
    log = data / "server.log"
    program = str(Path(sys.executable).with_name("clipseek-server"))
    command = [program, "serve", "--listen", listen, "--data-dir", str(data), "--bundles", str(bundle)]
    command += ["--log-format", "console"]
    with log.open("wb") as output:
        # A session of its own: Ctrl-C reaches only this program, which then asks the server to drain.
        server = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            env=_without_settings(),
            start_new_session=True,
            preexec_fn=_die_with_parent(),
        )
    try:
        if not _becomes_serving(server, listen):
            lines = log.read_text(errors="replace").splitlines()[-15:]
            raise SystemExit("\n".join(["The server did not start. The end of its log:", *lines, f"The rest: {log}"]))
        yield server
    finally:
        server.terminate()
        try:
            server.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            server.kill()


@contextmanager
def showing(server: str, listen: str) -> Iterator[None]:
    """Start the page of a server, which says itself where it is or why it cannot be, and stop it at the end.

    Args:
        server: The server's HOST:PORT.
        listen: The page's.
    """
    page = subprocess.Popen(
        [sys.executable, "-m", "clipseek", "--server", server, "ui", "--listen", listen],
        env=_without_settings(),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_die_with_parent(),
    )
    try:
        yield
    finally:
        page.terminate()
        page.wait()


def _without_settings() -> dict[str, str]:
    """This environment without what is meant for another server."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CLIPSEEK_")}


def check_address(listen: str) -> None:
    """See whether a server can listen there.

    Raises:
        SystemExit: It is no HOST:PORT, or it is taken, or not of this machine; the message says what to do.
    """
    other = "another: make run LISTEN=127.0.0.1:50052"
    parts = re.fullmatch(r"(?P<host>.+):(?P<port>[0-9]{1,5})", listen)
    if parts is None or not 0 < int(parts["port"]) < 2**16:
        raise SystemExit(f"{listen}: not HOST:PORT with a port from 1 to 65535. Choose {other}")
    try:
        family, kind, _, _, place = socket.getaddrinfo(
            parts["host"].strip("[]"), int(parts["port"]), type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as error:
        advice = "Stop what runs there, or choose" if error.errno == errno.EADDRINUSE else "Choose"
        raise SystemExit(f"{listen}: {error.strerror}. {advice} {other}") from error
    except UnicodeError as error:
        raise SystemExit(f"{listen}: no such host. Choose {other}") from error


def _die_with_parent() -> Callable[[], object] | None:
    """What the child does before it becomes the server, so that it is asked to end however this program ends."""
    if sys.platform != "linux":
        return None
    # Loaded here: between fork and exec as little as possible may happen.
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _becomes_serving(server: "subprocess.Popen[bytes]", listen: str) -> bool:
    """Follow the server's health until it is SERVING; false if it ends or takes too long."""
    options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500)]
    with grpc.insecure_channel(listen, options=options) as channel:
        health = HealthStub(channel).Watch(HealthCheckRequest(), wait_for_ready=True, timeout=START_TIMEOUT)
        threading.Thread(target=lambda: (server.wait(), health.cancel()), daemon=True).start()
        try:
            return any(answer.status == HealthCheckResponse.SERVING for answer in health)
        except grpc.RpcError:
            return False
