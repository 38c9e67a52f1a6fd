"""Serving the page: its address, its folder for what browsers send, its end."""

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from types import FrameType

from clipseek import Client
from clipseek.ui.folder import private_folder


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 takes any free one.

    Raises:
        OSError: There is no such address here, or it is taken.
    """
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


def serve(
    client: Client, listener: socket.socket, *, hosts: Sequence[str], collection: str, ready: Callable[[], None]
) -> None:
    """Serve the page until Ctrl-C or SIGTERM.

    Args:
        client: Of the server that the page is for.
        listener: Where to serve.
        hosts: By which names browsers may ask for the page, beside ``localhost`` and addresses.
        collection: The one to begin with, or empty.
        ready: Called when all is loaded, just before the first request is answered.
    """
    _end_in_order()
    with private_folder() as folder:
        os.environ |= {"GRADIO_TEMP_DIR": str(folder), "GRADIO_ANALYTICS_ENABLED": "False"}
        # Gradio reads these while it is imported.
        import uvicorn

        from clipseek.ui.app import make_app

        app = make_app(client, folder, hosts, collection)
        # Browsers keep a connection open, which must not delay the end.
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)

        class Server(uvicorn.Server):
            """Says nothing of the browsers that are still connected when it ends."""

            async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
                logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
                await super().shutdown(sockets)

        ready()
        Server(config).run(sockets=[listener])


def _end_in_order() -> None:
    """Let ``kill`` and a closing terminal end the program as Ctrl-C does: with its folder removed."""

    def end(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, end)
