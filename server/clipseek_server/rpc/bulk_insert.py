"""BulkInsert: a stream of batches in, a stream of results out.

The window bounds what is read but not yet answered; while it is full nothing is read, so a fast client is slowed down
by gRPC's flow control instead of being refused.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from clipseek.v1 import search_service_pb2 as pb
from clipseek_server.catalog.inserts import Inserts, NewImage, OnExists
from clipseek_server.config import Settings
from clipseek_server.errors import InvalidField, MalformedMessage
from clipseek_server.rpc import convert
from clipseek_server.rpc import validation as check
from clipseek_server.rpc.admission import Lease, StreamLimit
from clipseek_server.rpc.errors import item_error
from clipseek_server.rpc.messages import Messages
from clipseek_server.telemetry import Call


class BulkInserts:
    """Serves BulkInsert streams."""

    with_pictures = frozenset({"BulkInsert"})

    def __init__(
        self,
        inserts: Inserts,
        settings: Settings,
        streams: StreamLimit,
        max_item_seconds: float,
    ) -> None:
        self._inserts = inserts
        self._settings = settings
        self._streams = streams
        self._max_item_seconds = max_item_seconds

    async def bulk_insert(
        self, requests: Messages[pb.BulkInsertRequest], call: Call
    ) -> AsyncGenerator[pb.BulkInsertResponse, None]:
        """BulkInsert."""
        with self._streams.open():
            stream = _Stream(self._inserts, self._settings, requests, call, self._max_item_seconds)
            async with aclosing(stream.run()) as responses:
                async for response in responses:
                    yield response


class _Stream:
    """One stream: reads while results are written."""

    def __init__(
        self,
        inserts: Inserts,
        settings: Settings,
        requests: Messages[pb.BulkInsertRequest],
        call: Call,
        max_item_seconds: float,
    ) -> None:
        self._inserts = inserts
        self._settings = settings
        self._requests = requests
        self._call = call
        self._max_item_seconds = max_item_seconds
        self._unanswered = 0
        self._room = asyncio.Event()
        self._room.set()
        self._results: asyncio.Queue[pb.BulkInsertResult | None] = asyncio.Queue()
        self._items: set[asyncio.Task[None]] = set()

    async def run(self) -> AsyncGenerator[pb.BulkInsertResponse, None]:
        reader = asyncio.create_task(self._read_all())
        reader.add_done_callback(lambda _: self._results.put_nowait(None))
        try:
            while not (reader.done() and self._unanswered == 0):
                results = [result for result in [await self._results.get(), *self._ready()] if result is not None]
                if results:
                    yield pb.BulkInsertResponse(results=results)
                    self._unanswered -= len(results)
                    if self._unanswered < self._settings.bulk_window:
                        self._room.set()
            await reader  # raises what ended the reading, after all results
        finally:
            reader.cancel()
            for item in self._items:
                item.cancel()

    def _ready(self) -> list[pb.BulkInsertResult | None]:
        return [self._results.get_nowait() for _ in range(self._results.qsize())]

    async def _read_all(self) -> None:
        first = await self._requests.read_next()
        if first is None:
            raise MalformedMessage("the stream is empty; send the config first")
        message, lease = first
        lease.release()
        if message.WhichOneof("payload") != "config":
            raise InvalidField("the first message must be the config", field="config")
        collection = check.collection_name(message.config.collection, field="config.collection")
        on_exists = check.on_exists(message.config.on_exists, field="config.on_exists")
        while (received := await self._next()) is not None:
            self._start(*received, collection, on_exists)

    async def _next(self) -> tuple[pb.BulkInsertRequest, Lease] | None:
        await self._room.wait()
        return await self._requests.read_next()

    def _start(self, message: pb.BulkInsertRequest, lease: Lease, collection: str, on_exists: OnExists) -> None:
        items = message.batch.items
        try:
            if message.WhichOneof("payload") != "batch":
                raise InvalidField("only the first message is a config; send batches", field="payload")
            if len(items) > self._settings.max_batch_items:
                raise InvalidField(
                    f"a batch may have {self._settings.max_batch_items} items, not {len(items)}", field="batch.items"
                )
        except InvalidField:
            lease.release()
            raise
        self._unanswered += len(items)
        if self._unanswered >= self._settings.bulk_window:
            self._room.clear()
        left = len(items)
        if not left:
            lease.release()

        def finished(task: "asyncio.Task[None]") -> None:
            nonlocal left
            self._items.discard(task)
            left -= 1
            if not left:
                lease.release()

        for item in items:
            task = asyncio.create_task(self._insert(item, collection, on_exists))
            self._items.add(task)
            task.add_done_callback(finished)

    async def _insert(self, item: pb.BulkInsertItem, collection: str, on_exists: OnExists) -> None:
        # Its stages are the stream's.
        call = replace(self._call, deadline=self._item_deadline(), started=time.monotonic())
        result = pb.BulkInsertResult(sequence=item.sequence)
        try:
            new = NewImage(
                data=check.image_data(item.image_data, self._settings),
                image_id=check.image_id(item.image_id) if item.HasField("image_id") else None,
                metadata=check.metadata(item.metadata, self._settings) if item.HasField("metadata") else None,
                on_exists=on_exists,
            )
            inserted = await self._inserts.insert(collection, new, call)
        except Exception as error:
            result.error.CopyFrom(item_error(error, call))
        else:
            result.success.image_id = inserted.record.image_id
            result.success.outcome = convert.OUTCOMES[inserted.outcome]
            call.items[inserted.outcome.name] += 1
        self._results.put_nowait(result)

    def _item_deadline(self) -> float:
        longest = time.monotonic() + self._max_item_seconds
        return longest if self._call.deadline is None else min(self._call.deadline, longest)
