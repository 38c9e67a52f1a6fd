"""Storing many pictures over a stream, and over another one when it breaks."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field

from grpc import StatusCode

from clipseek import requests, responses
from clipseek._async.concurrency import (
    AnyIterable,
    Callback,
    Queue,
    Semaphore,
    call_off,
    in_thread,
    iterate,
    sleep,
    spawn,
    take,
    tell,
)
from clipseek._async.images import AsyncImages
from clipseek.backoff import Backoff
from clipseek.batches import Batcher
from clipseek.channel import deadline, end_of, new_request_id, until
from clipseek.errors import (
    ClipseekError,
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    StalledError,
    StatusLostError,
    translating,
)
from clipseek.pictures import Picture, check_size, memory_bytes
from clipseek.requests import InsertItem, OnExists
from clipseek.results import BulkResult, BulkSummary, Limits
from clipseek.stored import changes_nothing, content_sha256
from clipseek.v1 import search_service_pb2
from clipseek.v1.search_service_pb2 import BulkInsertBatch, BulkInsertConfig, BulkInsertItem, BulkInsertRequest

# ruff: noqa: ASYNC109 -- "timeout" is the deadline that the server sees too; cancelling here would not tell it.

# Items read whose results the caller has not taken yet: bounds memory, and is enough to keep a server busy. An item has
# as many places in it as its picture takes memory.
WINDOW = 128
PLACE_BYTES = 512 * 1024
BATCH_ITEMS = 16
BATCH_BYTES = 4 * 1024 * 1024
# What a message holds beside its items.
_ENVELOPE_BYTES = 1024
# Of a summary: a failure holds its picture.
KEPT_FAILURES = 10
# Seconds.
_MOMENT = 0.05
# In a stream's queue, in the place of an item's index: send what has been gathered.
_SEND = -1


class AsyncBulk(AsyncImages):
    """Inserting without waiting for each answer."""

    async def insert_many(
        self,
        items: AnyIterable[InsertItem | Picture],
        *,
        on_result: Callback[BulkResult] | None = None,
        collection: str = "",
        on_exists: OnExists = "replace",
        patience: float = 60.0,
        timeout: float | None = None,
        request_id: str = "",
    ) -> BulkSummary:
        """Store many pictures, and count what became of them.

        This is ``insert_stream`` read to its end, and goes on after a broken connection as it does. Use that one where
        results are wanted as they come: to store them, to stop early, or from an iterable that never ends.

        Args:
            items: As in ``insert_stream``, like all that is not named here.
            on_result: Called with what became of each picture, in any order, by the caller's own thread or task:
                progress, or a list of what failed. The stream rests while it runs. What it raises ends the import.
                Where the client is asynchronous it may be an ``async`` function.
            collection: Where to; empty means ``default``.
            on_exists: When an id is taken: ``replace``, ``keep`` what is stored, or ``fail``.
            patience: Seconds to go on trying after a break, and to wait for a result.
            timeout: Seconds for everything; ``None`` for no limit.
            request_id: Names the calls in the server's log; made up when empty.

        Example:
            >>> async with AsyncClient() as client:
            ...     summary = await client.insert_many(Path("photos").glob("*.jpg"), on_result=print)
            ...     print(summary.created, "new,", summary.failed, "failed")

        Raises:
            ClipseekError: As ``insert_stream``. What was stored until then stays, and only ``on_result`` knows of it;
                the same items may be given again.
            TypeError: The items are one path, or the bytes of one picture.
        """
        outcomes: Counter[str] = Counter()
        failures: list[BulkResult] = []
        stream = self.insert_stream(
            items,
            collection=collection,
            on_exists=on_exists,
            patience=patience,
            timeout=timeout,
            request_id=request_id,
        )
        async with aclosing(stream) as results:
            async for result in results:
                outcomes["failed" if result.error else result.outcome] += 1
                if result.error and len(failures) < KEPT_FAILURES:
                    failures.append(result)
                if on_result is not None:
                    await tell(on_result, result)
        return BulkSummary(
            created=outcomes["created"],
            updated=outcomes["updated"],
            unchanged=outcomes["unchanged"],
            failed=outcomes["failed"],
            failures=tuple(failures),
        )

    async def insert_stream(
        self,
        items: AnyIterable[InsertItem | Picture],
        *,
        collection: str = "",
        on_exists: OnExists = "replace",
        patience: float = 60.0,
        timeout: float | None = None,
        request_id: str = "",
    ) -> AsyncGenerator[BulkResult, None]:
        """Store many pictures, and yield what became of each, in any order.

        Nothing is sent until you iterate: a call without a loop around it stores nothing (``insert_many`` needs none).
        The stream rests while no result is asked for: only about a hundred pictures are ever under way, and of such as
        are given as bytes no more than 64 MB and one, so the iterable may be endless. One bad picture fails alone, with
        its ``error``. The iterable is read beside the caller: in the synchronous client, by another thread.

        When the connection breaks, the server is too busy for one more stream, or it cannot store a picture now (its
        Milvus is away, the collection is rebuilt), another one is begun, of another server where the address has
        several. What has no result yet is asked for first: what is stored already is not sent again, and is
        ``unchanged``. With ``fail``, what was stored without an answer may be refused as existing: the error's
        ``metadata`` has the ``content_sha256`` of what is stored; and what was there before with the same bytes may be
        ``unchanged``.

        Args:
            items: Pictures (bytes, paths or PIL images), or ``InsertItem`` with ids and metadata.
            collection: Where to; empty means ``default``.
            on_exists: When an id is taken: ``replace``, ``keep`` what is stored, or ``fail``. With ``keep`` the outcome
                is ``unchanged`` also where another picture has the id; ``get_many`` says which, by its
                ``content_sha256``.
            patience: Seconds to go on trying after a break, and to wait for a result while pictures are under way, the
                time for sending them included; then the error is raised. What had no result can be sent again. A
                picture that alone could not be stored for so long gets its error. 0 never tries again, and waits for a
                result as long as for the answer of a call.
            timeout: Seconds for everything, from the first result that is asked for; ``None`` for no limit.
            request_id: Names the calls in the server's log; made up when empty.

        Example:
            >>> async with AsyncClient() as client:
            ...     async for result in client.insert_stream(Path("photos").glob("*.jpg")):
            ...         if result.error:
            ...             print(result.item.picture, result.error)

        Raises:
            StalledError: No result came for ``patience`` seconds.
            UnavailableError: The server was away for so long; other errors that end a call end this too.
            TypeError: The items are one path, or the bytes of one picture.
        """
        requests.check_many(items, "items")
        config = requests.build(BulkInsertConfig, collection=collection, on_exists=requests.on_exists(on_exists))
        request_id = request_id or new_request_id()
        end = end_of(timeout)
        if not self._repeat_seconds:  # this client sends nothing twice
            patience = 0.0
        upload = _Upload(
            items,
            config,
            limits=await self._server_limits(self._end(None, within=end), request_id),
            address=self.address,
            request_id=request_id,
            patience=patience,
        )
        backoff = Backoff(patience, end=end)
        reader = spawn(upload.read_source)
        try:
            while True:
                try:
                    async with aclosing(self._send(upload, config, end, patience or self.timeout)) as results:
                        async for result in results:
                            if result.error is None or not result.error.may_pass:
                                backoff.succeeded()
                            yield result
                    break
                except ClipseekError as error:
                    if self._closed or not error.may_pass or isinstance(error, StalledError):
                        raise
                    if isinstance(error, DeadlineExceededError) and upload.rested:
                        backoff.succeeded()  # the server is there: it ends a stream that has rested for long
                    pause = backoff.pause(error)
                await sleep(pause)
                await self._settle_stored(upload, collection, on_exists, end)
            if upload.source_error is not None:
                raise upload.source_error
        finally:
            upload.abandon()
            call_off(reader)

    async def _send(
        self, upload: _Upload, config: BulkInsertConfig, end: float, patience: float | None
    ) -> AsyncGenerator[BulkResult, None]:
        """The results of one stream, which sends all that has none yet; raises what ended it before its time."""
        stream = upload.begin()
        call = self._search.BulkInsert(
            upload.requests(stream),
            timeout=deadline(until(end)),
            metadata=self._metadata(upload.request_id),
        )

        async def read() -> None:
            outcome: ClipseekError | None = ClipseekError("the stream was cancelled", code=StatusCode.CANCELLED)
            try:
                with translating(self.address, upload.request_id):
                    async for response in call:
                        await upload.take(stream, response)
                outcome = None
            except StatusLostError as error:
                outcome = await self._refusal(config, end, upload.request_id) or error
            except ClipseekError as error:
                outcome = error
            finally:
                upload.end(outcome)

        reader = spawn(read)
        try:
            async for result in upload.results(math.inf if patience is None else patience):
                yield result
        finally:
            call.cancel()
            call_off(reader)

    async def _settle_stored(self, upload: _Upload, collection: str, on_exists: OnExists, end: float) -> None:
        """Hand in the results of what a broken stream stored without a word. If nobody answers, all is sent again."""
        limits = await self._server_limits(end, upload.request_id)
        sent_again: set[str] = set()
        for some in upload.sent_without_result(limits.max_batch_ids):
            hashes = {index: await in_thread(content_sha256, item) for index, item in some.items()}
            ids = {index: item.image_id or hashes[index] for index, item in some.items()}
            try:
                found = await self.get_many(
                    [each for each in ids.values() if each],
                    collection=collection,
                    timeout=until(self._end(None, within=end)),
                )
            except ClipseekError:
                return
            stored = {image.image_id: image for image in found.images}
            for index, item in some.items():
                image = stored.get(ids[index])
                # The second of two under one id must not be settled when the first comes after it.
                if (
                    image is not None
                    and ids[index] not in sent_again
                    and changes_nothing(item, hashes[index], image, on_exists)
                ):
                    upload.settle(index, image_id=image.image_id, outcome="unchanged")
                else:
                    sent_again.add(ids[index])

    async def _refusal(self, config: BulkInsertConfig, end: float, request_id: str) -> ClipseekError | None:
        """Why the server refuses such a stream, asked with one that has no items; ``None`` if it takes it (now)."""
        empty = iterate([BulkInsertRequest(config=config)])
        try:
            with translating(self.address, request_id):
                limit = deadline(until(self._end(None, within=end)))
                async for _ in self._search.BulkInsert(empty, timeout=limit, metadata=self._metadata(request_id)):
                    pass
        except ClipseekError as error:
            return error
        return None


@dataclass
class _Stream:
    """What is to be sent over one stream, by index, and what became of it.

    Attributes:
        queue: What is to be sent, ``_SEND``, and ``None`` at the end.
        unanswered: How many of those sent have no answer.
        waiting_since: The last answer, or the last batch that was asked for, by ``time.monotonic``.
        passing: Why something could not be stored now: nothing more is sent, and when all is answered another stream
            begins.
        again: The ids that this was about.
    """

    queue: Queue[int | None] = field(default_factory=Queue)
    unanswered: int = 0
    waiting_since: float = 0.0
    passing: ClipseekError | None = None
    again: set[str] = field(default_factory=set)


class _Upload:
    """What is under way, over one stream after the other, and the results that nobody has taken yet.

    One reader takes the items from their source. gRPC takes ``requests`` from beside the caller, and another reader
    hands in the answers, so that reading never waits for writing. Each item holds a place in the window from before it
    is sent until its result has been taken. A stream that broke may still be served by a thread of gRPC's when the next
    one has begun: what it does goes nowhere.
    """

    def __init__(
        self,
        items: AnyIterable[InsertItem | Picture],
        config: BulkInsertConfig,
        *,
        limits: Limits,
        address: str,
        request_id: str,
        patience: float,
    ) -> None:
        self.request_id = request_id
        self._items = items
        self._config = config
        self._replaces = config.on_exists == requests.on_exists("replace")
        self._limits = limits
        self._address = address
        self._patience = patience
        self._window = Semaphore(WINDOW)
        self._lock = threading.Lock()
        self._stream = _Stream()
        self._under_way: dict[int, InsertItem] = {}
        self._sent: set[int] = set()
        self._failing_since: dict[int, float] = {}
        self._places: dict[int, int] = {}
        self._source_ended = False
        self._results: Queue[BulkResult | None] = Queue()
        self._error: ClipseekError | None = None
        self.source_error: BaseException | None = None
        self._abandoned = False

    async def read_source(self) -> None:
        """Take the items as the window has places."""
        index = 0
        try:
            async for given in iterate(self._items):
                item = given if isinstance(given, InsertItem) else InsertItem(given)
                places = min(1 + memory_bytes(item.picture) // PLACE_BYTES, WINDOW)
                for _ in range(places):
                    await self._window.acquire()
                    if self._abandoned:
                        return
                with self._lock:
                    self._places[index] = places
                    self._under_way[index] = item
                    self._stream.queue.put_nowait(index)
                index += 1
        except BaseException as error:
            if self._abandoned:
                raise
            self.source_error = error  # The caller's own: raised where the caller sees it.
        finally:
            with self._lock:
                self._source_ended = True
                self._stream.queue.put_nowait(None)

    def begin(self) -> _Stream:
        """A new stream, which sends first what has no result; the one before it sends no more."""
        with self._lock:
            self._stream.queue.put_nowait(None)
            self._stream = _Stream()
            for index in sorted(self._under_way):
                self._stream.queue.put_nowait(index)
            if self._source_ended:
                self._stream.queue.put_nowait(None)
            return self._stream

    async def requests(self, stream: _Stream) -> AsyncIterator[BulkInsertRequest]:
        """The messages to send: full ones, and what there is whenever the server has answered everything."""
        yield BulkInsertRequest(config=self._config)
        batcher = Batcher[BulkInsertItem](
            max_items=min(BATCH_ITEMS, self._limits.max_batch_items),
            max_bytes=min(BATCH_BYTES, self._limits.max_message_bytes - _ENVELOPE_BYTES),
        )
        while (index := await stream.queue.get()) is not None and stream.passing is None:
            if (item := self._under_way.get(index)) is not None:
                try:
                    message = await in_thread(self._message, index, item)
                except ClipseekError as error:
                    self.settle(index, error=error)
                except Exception as error:  # values of wrong types: protobuf has many words for them
                    self.settle(index, error=InvalidArgumentError(str(error), reason="INVALID_FIELD"))
                else:
                    if full := batcher.add(message, message.ByteSize() + 8):
                        yield self._batch(stream, full)
            # Where the next item is there already it goes along.
            if stream.queue.empty() and not stream.unanswered and (waiting := batcher.take()):
                yield self._batch(stream, waiting)
        if stream.passing is None and (rest := batcher.take()):
            yield self._batch(stream, rest)

    def _batch(self, stream: _Stream, items: list[BulkInsertItem]) -> BulkInsertRequest:
        with self._lock:
            # gRPC has put the batch before this one onto the network: the connection moves. A single batch that takes
            # longer than the patience still looks like silence, as nobody says how much of it has arrived.
            stream.waiting_since = time.monotonic()
            stream.unanswered += len(items)
            if stream is self._stream:
                self._sent.update(item.sequence for item in items)
        return BulkInsertRequest(batch=BulkInsertBatch(items=items))

    async def take(self, stream: _Stream, response: search_service_pb2.BulkInsertResponse) -> None:
        """Hand in an answer of the server, but for what is to be tried again."""
        stream.waiting_since = time.monotonic()
        for each in response.results:
            with self._lock:
                item = self._under_way.get(each.sequence)
                stream.unanswered -= 1
            if item is None:
                raise InternalError(
                    f"{self._address} answered an item that it was not sent", request_id=self.request_id
                )
            result = responses.bulk_result(each, item, request_id=self.request_id)
            if result.error is not None and result.error.may_pass and self._may_try_again(each.sequence):
                stream.passing = result.error
                stream.queue.put_nowait(None)
                if self._replaces and (image_id := item.image_id or await in_thread(content_sha256, item)):
                    stream.again.add(image_id)
            # A later one under the same id goes again after it, or the earlier would take its place.
            elif result.image_id not in stream.again:
                self._hand_in(result)
        if not stream.unanswered:
            stream.queue.put_nowait(_SEND)

    def _may_try_again(self, index: int) -> bool:
        now = time.monotonic()
        return now < self._failing_since.setdefault(index, now) + self._patience

    def settle(self, index: int, *, image_id: str = "", outcome: str = "", error: ClipseekError | None = None) -> None:
        """Hand in the result of an item that needs no sending, unless it has one."""
        if (item := self._under_way.get(index)) is not None:
            self._hand_in(BulkResult(index, item, image_id=image_id, outcome=outcome, error=error))

    def _hand_in(self, result: BulkResult) -> None:
        with self._lock:
            first = self._under_way.pop(result.index, None) is not None
            self._sent.discard(result.index)
            self._failing_since.pop(result.index, None)
        if first:
            self._results.put_nowait(result)

    @property
    def rested(self) -> bool:
        """Whether the stream had nothing that the server could have answered."""
        return not self._stream.unanswered

    def end(self, error: ClipseekError | None) -> None:
        """Nothing more will come over this stream."""
        self._error = error or self._stream.passing
        self._results.put_nowait(None)

    async def results(self, patience: float) -> AsyncIterator[BulkResult]:
        """The results in the order in which they come; raises the error that ended the stream, if one did.

        Raises:
            StalledError: Pictures were under way, and for so many seconds no answer came and no batch of them went out.
        """
        while (result := await self._next_result(patience)) is not None:
            yield result
            for _ in range(self._places.pop(result.index)):
                self._window.release()
        if self._error is not None:
            raise self._error
        if self._under_way or not self._source_ended:
            raise InternalError(
                f"{self._address} ended the stream without a word on {len(self._under_way)} pictures, or more to come",
                request_id=self.request_id,
            )

    async def _next_result(self, patience: float) -> BulkResult | None:
        while True:
            if not self._results.empty():
                return self._results.get_nowait()
            stream = self._stream
            waiting_since = stream.waiting_since if stream.unanswered else time.monotonic()
            left = waiting_since + patience - time.monotonic()
            try:
                # For a moment at least: a caller that held up the event loop held up what hands in the answers, too.
                return await take(self._results, min(max(left, _MOMENT), threading.TIMEOUT_MAX))
            except TimeoutError:
                if left <= 0:
                    longer = "patience= (--patience)" if self._patience else "timeout= (--timeout) of the client"
                    raise StalledError(
                        f"{self._address} gave no result for {patience:g} s; "
                        f"where sending pictures takes longer than that, allow more with {longer}",
                        request_id=self.request_id,
                    ) from None

    def sent_without_result(self, size: int) -> list[dict[int, InsertItem]]:
        """What was sent and not answered, by index, in groups of at most so many."""
        with self._lock:
            items = [(index, self._under_way[index]) for index in sorted(self._sent & self._under_way.keys())]
        return [dict(items[at : at + size]) for at in range(0, len(items), size)]

    def abandon(self) -> None:
        """Let all that serves it end, wherever it waits."""
        self._abandoned = True
        self._window.release()
        self._stream.queue.put_nowait(None)

    def _message(self, index: int, item: InsertItem) -> BulkInsertItem:
        """The item's message; raises why there is none."""
        message = requests.bulk_item(index, item)
        # The server would refuse it too, but a message that is too large takes the whole stream with it.
        check_size(message.image_data, self._limits.max_image_bytes)
        if message.ByteSize() > self._limits.max_message_bytes - _ENVELOPE_BYTES:
            raise InvalidArgumentError(
                f"picture and metadata have {message.ByteSize():,} bytes, and the server takes "
                f"{self._limits.max_message_bytes:,} in one message",
                reason="IMAGE_TOO_LARGE",
                field="image_data",
            )
        return message
