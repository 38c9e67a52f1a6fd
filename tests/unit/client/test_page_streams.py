"""When the page's events are answered, by the protocol of Gradio's queue."""

import asyncio
import json
from typing import Any

import pytest

import virtual_time
from clipseek.ui.streams import StreamsInOrder

JOIN, DATA = "/en/gradio_api/queue/join", "/en/gradio_api/queue/data"


async def queue(scope: Any, receive: Any, send: Any) -> None:
    """As Gradio's: takes an event, or says that nothing is pending."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == JOIN:
        message = await receive()
        await send({"type": "http.response.body", "body": message["body"]})
    else:
        await send({"type": "http.response.body", "body": b'data: {"msg":"process_completed"}\n\n', "more_body": True})
        await send({"type": "http.response.body", "body": b'data: {"msg":"close_stream"}\n\n', "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class Browser:
    """Asks an application, and disconnects when it is told to."""

    def __init__(self, app: StreamsInOrder) -> None:
        self.app = app
        self.gone = asyncio.Event()

    async def ask(self, path: str, session: str = "a", body: bytes | None = None, query: str | None = None) -> bytes:
        """The answer's body."""
        body = json.dumps({"session_hash": session}).encode() if body is None else body
        parts, answer = [] if path == DATA else [body[:5], body[5:]], list[bytes]()

        async def receive() -> dict[str, Any]:
            if parts:
                return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}
            await self.gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            answer.append(message.get("body", b""))

        query = f"session_hash={session}" if query is None else query
        scope = {"type": "http", "method": "POST", "path": path, "query_string": query.encode(), "headers": []}
        await self.app(scope, receive, send)
        return b"".join(answer)


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_an_event_waits_until_the_browser_has_closed_the_stream() -> None:
    app = StreamsInOrder(queue)
    reader, asker = Browser(app), Browser(app)
    assert json.loads(await asker.ask(JOIN)) == {"session_hash": "a"}
    stream = asyncio.create_task(reader.ask(DATA))
    await turns()
    event = asyncio.create_task(asker.ask(JOIN))
    assert json.loads(await asker.ask(JOIN, "b")) == {"session_hash": "b"}  # another browser's
    await turns()
    assert not event.done() and not stream.done()
    reader.gone.set()
    assert json.loads(await event) == {"session_hash": "a"}
    assert b"process_completed" in await stream
    assert json.loads(await asker.ask(JOIN)) == {"session_hash": "a"}


def test_a_browser_that_is_gone_is_not_waited_for_for_ever() -> None:
    async def both() -> float:
        app = StreamsInOrder(queue)
        stream = asyncio.create_task(Browser(app).ask(DATA))
        await turns()
        await Browser(app).ask(JOIN)
        await stream
        return asyncio.get_running_loop().time()

    assert virtual_time.run(both()) == pytest.approx(5)


async def test_a_stream_that_is_cancelled_holds_nothing_up() -> None:
    app = StreamsInOrder(queue)
    stream = asyncio.create_task(Browser(app).ask(DATA))
    await turns()
    event = asyncio.create_task(Browser(app).ask(JOIN))
    await turns()
    stream.cancel()
    assert json.loads(await event) == {"session_hash": "a"}


@pytest.mark.parametrize("body", [b"no JSON", b"[1, 2]", b'"a"', b'{"session_hash": ["a"]}', b"{}"])
async def test_what_is_no_event_is_the_queues_affair(body: bytes) -> None:
    assert await Browser(StreamsInOrder(queue)).ask(JOIN, body=body) == body


async def test_a_browser_that_goes_in_the_middle_of_an_event_gets_nothing() -> None:
    async def go() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def never(message: dict[str, Any]) -> None:
        raise AssertionError(message)

    scope = {"type": "http", "method": "POST", "path": JOIN, "query_string": b"", "headers": []}
    await StreamsInOrder(queue)(scope, go, never)


async def test_a_stream_without_a_session_is_the_queues_affair() -> None:
    browser = Browser(StreamsInOrder(queue))
    browser.gone.set()
    assert b"close_stream" in await browser.ask(DATA, query="")
