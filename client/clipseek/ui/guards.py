"""What the page refuses before Gradio sees it, whatever Gradio would do about it."""

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, NoReturn

import safehttpx
from fastapi.responses import PlainTextResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clipseek.ui.hosts import is_known, is_named

# Whatever Gradio or a picture's name might hold, the browser fetches nothing from elsewhere. Gradio's own scripts need
# "unsafe-inline" and "unsafe-eval".
_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self'"
)

# Gradio serves what lies at an address under the page's own, and with it whatever script is there. Only files of this
# machine are left, of which it serves those that browsers have sent.
_FETCHING = re.compile(r"/gradio_api/(proxy|file(?!=/))", re.IGNORECASE)


class KnownHost:
    """Refuses names that nobody gave the page.

    Args:
        app: What is asked otherwise.
        hosts: By which names browsers may ask for the page, beside ``localhost`` and addresses.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        host = Headers(scope=scope).get("host", "") if scope["type"] == "http" else "localhost"
        if is_known(host, self._hosts):
            await self._app(scope, receive, send)
        else:
            words = f"the page is not known as {host}; whoever started it can say so with --host"
            await PlainTextResponse(words, HTTPStatus.BAD_REQUEST)(scope, receive, send)


class OwnOrigin:
    """Refuses what browsers ask for in the name of another page than this one, or than one of ``hosts``.

    Args:
        app: What is asked otherwise.
        hosts: The names that somebody gave the page.
        pages: The paths that a link from elsewhere may lead to.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str], pages: Sequence[str]) -> None:
        self._app = app
        self._hosts = hosts
        self._pages = {path.rstrip("/") for path in pages}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        if scope["type"] == "http" and not self._is_ours(scope):
            await PlainTextResponse("another page asks for this", HTTPStatus.FORBIDDEN)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _is_ours(self, scope: Scope) -> bool:
        headers = Headers(scope=scope)
        origin, host = headers.get("origin"), headers.get("host", "")
        if origin is not None and not self._is_own(origin.lower(), host.lower()):
            return False
        # A link has no origin. "none" is what somebody has typed, or has in the bookmarks.
        return headers.get("sec-fetch-site", "none") in ("same-origin", "none") or (
            scope["method"] in ("GET", "HEAD") and scope["path"].rstrip("/") in self._pages
        )

    def _is_own(self, origin: str, host: str) -> bool:
        _, _, asking = origin.partition("://")
        # A proxy may hand on the name without the port.
        return bool(asking) and (asking == host or is_named(asking, self._hosts))


class NothingFetched:
    """Hides the ways by which Gradio fetches for whoever asks."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or find nothing."""
        if scope["type"] == "http" and _FETCHING.search(scope["path"]):
            await PlainTextResponse("not found", HTTPStatus.NOT_FOUND)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


class ProtectiveHeaders:
    """Adds what protects the page to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with them."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = _POLICY
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "same-origin"
                headers["Cross-Origin-Resource-Policy"] = "same-origin"
            await send(message)

        await self._app(scope, receive, send_with_headers)


def forbid_fetching() -> None:
    """Take from this process's Gradio what it fetches with: it would also do so for a file that is sent as an address.

    Both functions are the way of all its downloads; the first makes the look-ups of names.
    """

    async def refuse(*_: Any, **__: Any) -> NoReturn:
        raise PermissionError("the page fetches nothing")

    safehttpx.async_validate_url = safehttpx.get = refuse
