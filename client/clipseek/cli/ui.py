"""``clipseek ui``."""

import os
import re
import sys
import webbrowser
from contextlib import suppress
from importlib.util import find_spec
from typing import Annotated

import typer

from clipseek.cli.session import Session, command
from clipseek.ui.hosts import is_name
from clipseek.ui.serve import bind, serve


@command
def ui(
    session: Session,
    listen: Annotated[
        str, typer.Option(help="Address of the page, HOST:PORT. Everybody who reaches it may do what the token allows.")
    ] = "127.0.0.1:7860",
    host: Annotated[
        list[str] | None,
        typer.Option(
            help="Name by which browsers ask for the page, e.g. where a proxy hands it on, or *.NAME; again for more. "
            "Without it the page answers to localhost and to addresses alone.",
            show_default=False,
        ),
    ] = None,
    open: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
) -> None:
    """Serve a page to look at pictures, search them, add and delete them, until Ctrl-C.

    It is a client of the server like any other, and asks nobody on the internet for anything. It speaks English and
    Traditional Chinese, as the browser wishes.

    Try:

      clipseek ui

      clipseek ui --collection holidays --listen 127.0.0.1:8080

      clipseek --server grpcs://search.example.org:443 --token-file token.txt ui
    """
    if find_spec("gradio") is None:
        raise typer.BadParameter("ui needs gradio; in a clone of clipseek, run: pip install '.[ui]'")
    address, port = _address(listen)
    hosts = host or []
    if wrong := [name for name in hosts if not is_name(name)]:
        raise typer.BadParameter(f"--host {wrong[0]}: not the bare name of a host, e.g. pictures.example.org")
    try:
        listener = bind(address, port)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise OSError(f"{listen}: {why}; choose another address with --listen HOST:PORT") from error
    url = f"http://{listen.rpartition(':')[0]}:{listener.getsockname()[1]}/"

    def ready() -> None:
        if session.json:
            session.output.value({"url": url, "server": session.server})
        else:
            typer.echo(f"The page for {session.server} is at {url} until Ctrl-C.")
        if open and _has_screen():
            webbrowser.open(url)

    with listener, session.client() as client, suppress(KeyboardInterrupt):
        # Who starts the page by a name knows that it is his.
        serve(client, listener, hosts=[*hosts, address], collection=session.collection, ready=ready)


def _address(listen: str) -> tuple[str, int]:
    parts = re.fullmatch(r"(?P<host>.+):(?P<port>[0-9]{1,5})", listen)
    if parts is None or int(parts["port"]) >= 2**16:
        raise typer.BadParameter(f"{listen}: not HOST:PORT, e.g. 127.0.0.1:7860")
    return parts["host"].strip("[]"), int(parts["port"])


def _has_screen() -> bool:
    """Where there is none, a browser would be one of those that take over the terminal."""
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
