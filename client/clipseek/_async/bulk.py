"""Storing many pictures over one stream."""

from __future__ import annotations

from collections.abc import AsyncIterator

from grpc import StatusCode

from clipseek import requests, responses
from clipseek._async.concurrency import AnyIterable, Queue, Semaphore, in_thread, iterate, spawn
from clipseek._async.connection import AsyncConnection
from clipseek.batches import Batcher
from clipseek.channel import deadline, new_request_id
from clipseek.errors import ClipseekError, InternalError, InvalidArgumentError, StatusLostError, translating
from clipseek.pictures import Picture
from clipseek.requests import InsertItem, OnExists
from clipseek.results import BulkResult, Limits
from clipseek.v1 import search_service_pb2
from clipseek.v1.search_service_pb2 import BulkInsertBatch, BulkInsertConfig, BulkInsertItem, BulkInsertRequest

# ruff: noqa: ASYNC109 -- "timeout" is the deadline that the server sees too; cancelling here would not tell it.

# Items read whose results the caller has not taken yet: bounds memory, and is enough to keep a server busy.
WINDOW = 128
BATCH_ITEMS = 16
BATCH_BYTES = 4 * 1024 * 1024
# What a message holds beside its items.
_ENVELOPE_BYTES = 1024


class AsyncBulk(AsyncConnection):
    """Inserting without waiting for each answer."""

    async def insert_many(
        self,
        items: AnyIterable[InsertItem | Picture],
        *,
        collection: str = "",
        on_exists: OnExists = "replace",
        timeout: float | None = None,
        request_id: str = "",
    ) -> AsyncIterator[BulkResult]:
        """Store many pictures, and yield what became of each, in any order.

        They are sent sixteen at a time, and the last ones when the iterable ends: what comes one by one, minutes apart,
        is better given to ``insert``.
        Nothing is sent before the first result is asked for, and the stream rests while none is: only about a hundred
        pictures are ever under way, so the iterable may be endless. One bad picture fails alone, with its ``error``.
        The iterable is read beside the caller: in the synchronous client, by another thread.
        When the connection breaks, the error comes after the results; what has no result can be sent again.

        Args:
            items: Pictures (bytes, paths or PIL images), or ``InsertItem`` with ids and metadata.
            collection: Where to; empty means ``default``.
            on_exists: When an id is taken: ``replace``, ``keep`` what is stored, or ``fail``.
            timeout: Seconds for the whole stream; ``None`` for no limit.
            request_id: Names the call in the server's log; made up when empty.

        Example:
            >>> async with AsyncClient() as client:
            ...     async for result in client.insert_many(Path("photos").glob("*.jpg")):
            ...         if result.error:
            ...             print(result.item.picture, result.error)
        """
        config = requests.build(BulkInsertConfig, collection=collection, on_exists=requests.on_exists(on_exists))
        stream = _BulkStream(
            items,
            config,
            limits=await self._server_limits(),
            address=self.address,
            request_id=request_id or new_request_id(),
        )
        call = self._search.BulkInsert(
            stream.requests(), timeout=deadline(timeout), metadata=(("x-request-id", stream.request_id),)
        )

        async def read() -> None:
            outcome: ClipseekError | None = ClipseekError("the stream was cancelled", code=StatusCode.CANCELLED)
            try:
                with translating(self.address, stream.request_id):
                    async for response in call:
                        stream.take(response)
                outcome = None
            except StatusLostError as error:
                outcome = await self._refusal(config, stream.request_id) or error
            except ClipseekError as error:
                outcome = error
            finally:
                stream.end(outcome)

        reader = spawn(read)
        try:
            async for result in stream.results():
                yield result
        finally:
            stream.abandon()
            call.cancel()
            del reader

    async def _refusal(self, config: BulkInsertConfig, request_id: str) -> ClipseekError | None:
        """Why the server refuses such a stream, asked with one that has no items; ``None`` if it takes it (now)."""
        empty = iterate([BulkInsertRequest(config=config)])
        try:
            with translating(self.address, request_id):
                async for _ in self._search.BulkInsert(
                    empty, timeout=self.timeout, metadata=(("x-request-id", request_id),)
                ):
                    pass
        except ClipseekError as error:
            return error
        return None


class _BulkStream:
    """One stream: what is under way, and the results that nobody has taken yet.

    gRPC takes ``requests`` from beside the caller, and a reader hands in the answers, so that reading never waits for
    writing. Each item holds a place in the window from before it is read until its result has been taken.
    """

    def __init__(
        self,
        items: AnyIterable[InsertItem | Picture],
        config: BulkInsertConfig,
        *,
        limits: Limits,
        address: str,
        request_id: str,
    ) -> None:
        self.request_id = request_id
        self._items = items
        self._config = config
        self._limits = limits
        self._address = address
        self._window = Semaphore(WINDOW)
        self._under_way: dict[int, InsertItem] = {}
        self._results: Queue[BulkResult | None] = Queue()
        self._error: ClipseekError | None = None
        self._source_error: Exception | None = None
        self._abandoned = False

    async def requests(self) -> AsyncIterator[BulkInsertRequest]:
        """The messages to send."""
        yield BulkInsertRequest(config=self._config)
        batcher = Batcher[BulkInsertItem](
            max_items=min(BATCH_ITEMS, self._limits.max_batch_items),
            max_bytes=min(BATCH_BYTES, self._limits.max_message_bytes - _ENVELOPE_BYTES),
        )
        index = 0
        try:
            async for given in iterate(self._items):
                item = given if isinstance(given, InsertItem) else InsertItem(given)
                await self._window.acquire()
                if self._abandoned:
                    return
                message = await in_thread(self._message, index, item)
                if message is not None:
                    self._under_way[index] = item
                    if full := batcher.add(message, message.ByteSize() + 8):
                        yield BulkInsertRequest(batch=BulkInsertBatch(items=full))
                index += 1
        except Exception as error:  # The caller's own: raised where the caller sees it.
            self._source_error = error
        if rest := batcher.take():
            yield BulkInsertRequest(batch=BulkInsertBatch(items=rest))

    def take(self, response: search_service_pb2.BulkInsertResponse) -> None:
        """Hand in an answer of the server."""
        for result in response.results:
            item = self._under_way.pop(result.sequence, None)
            if item is None:
                raise InternalError(
                    f"{self._address} answered an item that it was not sent", request_id=self.request_id
                )
            self._results.put_nowait(responses.bulk_result(result, item, request_id=self.request_id))

    def end(self, error: ClipseekError | None) -> None:
        """Nothing more will come from the server."""
        self._error = error
        self._results.put_nowait(None)

    async def results(self) -> AsyncIterator[BulkResult]:
        """The results in the order in which they come, and then the error that ended the stream, if one did."""
        while (result := await self._results.get()) is not None:
            yield result
            self._window.release()
        if error := self._error or self._source_error:
            raise error
        if self._under_way:
            raise InternalError(
                f"{self._address} ended the stream without a word on {len(self._under_way)} pictures",
                request_id=self.request_id,
            )

    def abandon(self) -> None:
        """Let ``requests`` end, should it wait for a place in the window."""
        self._abandoned = True
        self._window.release()

    def _message(self, index: int, item: InsertItem) -> BulkInsertItem | None:
        """The item's message; ``None`` when it failed here, with its result handed in."""
        try:
            message = requests.bulk_item(index, item)
            size = len(message.image_data)
            # The server would refuse it too, but a message that is too large takes the whole stream with it.
            if (
                size > self._limits.max_image_bytes
                or message.ByteSize() > self._limits.max_message_bytes - _ENVELOPE_BYTES
            ):
                raise InvalidArgumentError(
                    f"the picture has {size:,} bytes, and the server takes {self._limits.max_image_bytes:,}",
                    reason="IMAGE_TOO_LARGE",
                    field="image_data",
                )
        except ClipseekError as error:
            self._results.put_nowait(BulkResult(index, item, error=error))
            return None
        return message
