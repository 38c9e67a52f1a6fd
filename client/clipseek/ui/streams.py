"""When the page's events are answered: not before the browser knows whether their results have a stream.

Gradio's script opens a stream of results when the server has taken an event and none is open, and closes it when the
server says that nothing is pending any more. An event that is taken between the server's saying so and the script's
reading it gets no stream: its result comes when another event opens one, if ever (Gradio 6.31).
"""

import asyncio
import json
from contextlib import suppress
from urllib.parse import parse_qs

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_CLOSED = b'"msg":"close_stream"'
_PATIENCE = 5.0
"""Seconds; a browser that is gone cannot show that it has read anything."""


class StreamsInOrder:
    """Answers a session's events only when the stream that was closed before is closed in the browser too.

    It breaks the connection off as soon as it has read that nothing is pending: that is waited for.

    Args:
        app: Gradio's.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._closing: dict[str, asyncio.Event] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        path = scope["path"] if scope["type"] == "http" else ""
        if path.endswith("/gradio_api/queue/data"):
            await self._stream(scope, receive, send)
        elif path.endswith("/gradio_api/queue/join"):
            await self._event(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        session = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[0]
        closing: asyncio.Event | None = None

        async def send_to_the_end(message: Message) -> None:
            nonlocal closing
            if _CLOSED in message.get("body", b""):
                closing = self._closing[session] = asyncio.Event()
            elif closing and not message.get("more_body"):
                # All is said. The browser breaks the connection off when it has read it.
                with suppress(TimeoutError):
                    async with asyncio.timeout(_PATIENCE):
                        while (await receive())["type"] != "http.disconnect":
                            pass
            await send(message)

        try:
            await self._app(scope, receive, send_to_the_end)
        finally:
            if closing:
                closing.set()
                if self._closing.get(session) is closing:
                    del self._closing[session]

    async def _event(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await Request(scope, receive).body()
        except ClientDisconnect:
            return  # nobody is there to be answered
        unread: list[Message] = [{"type": "http.request", "body": body}]
        session = _session(body)

        async def receive_again() -> Message:
            return unread.pop() if unread else await receive()

        async def send_when_closed(message: Message) -> None:
            if closing := self._closing.get(session):
                await closing.wait()
            await send(message)

        await self._app(scope, receive_again, send_when_closed)


def _session(event: bytes) -> str:
    """Whose an event is; empty if it is none: what becomes of that is Gradio's affair."""
    with suppress(ValueError):
        match json.loads(event):
            case {"session_hash": str(session)}:
                return session
    return ""
