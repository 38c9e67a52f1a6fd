"""The web application: the page in each language, and the originals, which the details of a picture show."""

from collections.abc import Callable, Sequence
from http import HTTPStatus
from pathlib import Path

import gradio as gr
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, RedirectResponse, Response

from clipseek import Client, ClipseekError, NotFoundError
from clipseek.ui.actions import Actions
from clipseek.ui.guards import KnownHost, NothingFetched, OwnOrigin, ProtectiveHeaders, forbid_fetching
from clipseek.ui.page import build
from clipseek.ui.theme import theme
from clipseek.ui.words import LANGUAGES, preferred

_STYLE = Path(__file__).with_name("style.css")
_EVENTS = Path(__file__).with_name("events.js")

# Gradio writes the browser's language there, which may be one that the page does not speak. Its own words, for which it
# takes that language, are nowhere on the page.
_LANGUAGE = """
const root = document.documentElement, language = "%s";
const keep = () => { if (root.lang !== language) root.lang = language; };
new MutationObserver(keep).observe(root, { attributes: true, attributeFilter: ["lang"] });
keep();
"""


def make_app(client: Client, folder: Path, hosts: Sequence[str], collection: str = "") -> FastAPI:
    """The page of a server.

    Args:
        client: Of the server.
        folder: Where Gradio keeps what browsers send (``GRADIO_TEMP_DIR``).
        hosts: By which names browsers may ask for the page; beside ``localhost`` and addresses.
        collection: The one to begin with; empty means ``default``, or the first that there is.
    """
    app = FastAPI(title="clipseek", docs_url=None, redoc_url=None, openapi_url=None)
    forbid_fetching()
    app.add_middleware(NothingFetched)
    # What a stranger's page asks for in a browser must not be done for whoever sits there. Gradio would answer it.
    app.add_middleware(OwnOrigin, hosts=hosts, pages=["/", *(f"/{words.language}/" for words in LANGUAGES)])
    app.add_middleware(ProtectiveHeaders)
    app.add_middleware(KnownHost, hosts=hosts)

    @app.get("/favicon.ico")
    def icon() -> Response:
        """None; browsers ask for one."""
        return Response(status_code=HTTPStatus.NO_CONTENT)

    @app.api_route("/", methods=["GET", "HEAD"])
    def choose(request: Request) -> Response:
        # Relative: a proxy may be asked by another scheme or port than the page.
        language = preferred(request.headers.get("accept-language", "")).language
        return RedirectResponse(f"{language}/", headers={"Vary": "Accept-Language"})

    for words in LANGUAGES:
        actions = Actions(client, words, folder)
        path = f"/{words.language}"
        app.get(f"{path}/original")(_originals(actions))
        gr.mount_gradio_app(
            app,
            build(actions, collection),
            path=path,
            theme=theme(),
            css_paths=_STYLE,
            head=f"<script>{_LANGUAGE % words.language}</script><script>{_EVENTS.read_text(encoding='utf-8')}</script>",
            footer_links=[],
            run_history=False,
            show_error=False,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            enable_monitoring=False,
        )
    return app


def _originals(actions: Actions) -> Callable[[str, str], Response]:
    def original(collection: str, id: str) -> Response:
        """A picture's bytes, never kept by the browser."""
        try:
            media_type, data = actions.original(id, collection)
        except NotFoundError as error:
            return PlainTextResponse(error.message, HTTPStatus.NOT_FOUND)
        except ClipseekError as error:
            return PlainTextResponse(error.message, HTTPStatus.BAD_GATEWAY)
        return Response(data, media_type=media_type, headers={"Cache-Control": "no-store"})

    return original
