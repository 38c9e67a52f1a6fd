"""The web application: the page in each language, and the originals, which the details of a picture show."""

import re
from collections.abc import Callable, Sequence
from http import HTTPStatus
from pathlib import Path

import gradio as gr
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, RedirectResponse, Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clipseek import Client, ClipseekError, NotFoundError
from clipseek.ui.actions import Actions
from clipseek.ui.hosts import LOOPBACK
from clipseek.ui.page import build
from clipseek.ui.theme import theme
from clipseek.ui.words import LANGUAGES, preferred

_STYLE = Path(__file__).with_name("style.css")

# Gradio writes the browser's language there, which may be one that the page does not speak.
_LANGUAGE = """
const root = document.documentElement, language = "%s";
const keep = () => { if (root.lang !== language) root.lang = language; };
new MutationObserver(keep).observe(root, { attributes: true, attributeFilter: ["lang"] });
keep();
"""

# Whatever Gradio or a picture's name might hold, the browser fetches nothing from elsewhere. Gradio's own scripts need
# "unsafe-inline" and "unsafe-eval".
_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self'"
)


def make_app(client: Client, folder: Path, hosts: Sequence[str], collection: str = "") -> FastAPI:
    """The page of a server.

    Args:
        client: Of the server.
        folder: Where Gradio keeps what browsers send (``GRADIO_TEMP_DIR``).
        hosts: By which names browsers may ask for the page; ``*`` for any.
        collection: The one to begin with; empty means ``default``, or the first that there is.
    """
    app = FastAPI(title="clipseek", docs_url=None, redoc_url=None, openapi_url=None)
    # What a stranger's page asks for in a browser must not be done for whoever sits there. Gradio would answer it.
    app.add_middleware(_OwnOrigin, hosts=hosts)
    app.add_middleware(_Headers)
    # A page of anybody's may have its own name lead to this machine, and would then be let in as if it were this one.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)

    @app.api_route("/", methods=["GET", "HEAD"])
    def choose(request: Request) -> Response:
        # Relative, so that it holds behind a reverse proxy as well.
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
            head=f"<script>{_LANGUAGE % words.language}</script>",
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


class _OwnOrigin:
    """Refuses what browsers ask for in the name of another page than this one, or than one of ``hosts``."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self._app = app
        # Behind a proxy that hands on another name than the browser's.
        self._named = {host.lower() for host in hosts} - set(LOOPBACK)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            origin, host = headers.get("origin"), headers.get("host", "")
            if origin is not None and not self._is_own(origin.lower(), host.lower()):
                answer = PlainTextResponse("another page asks for this", HTTPStatus.FORBIDDEN)
                await answer(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _is_own(self, origin: str, host: str) -> bool:
        _, _, asking = origin.partition("://")
        return bool(asking) and (asking == host or re.sub(r":\d+$", "", asking) in self._named)


class _Headers:
    """Adds what protects the page to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = _POLICY
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "same-origin"
                headers["Cross-Origin-Resource-Policy"] = "same-origin"
            await send(message)

        await self._app(scope, receive, send_with_headers)
