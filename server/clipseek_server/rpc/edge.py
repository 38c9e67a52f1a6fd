"""Between the wire and the servicers: reading, parsing, deadlines, errors, one log line a call.

Handlers get raw bytes: a message that cannot be parsed is our INVALID_ARGUMENT, not gRPC's UNKNOWN with Python text in
it. All methods are registered as client-streaming, which on the wire is the same: gRPC reads a unary request whole
before any handler runs, so memory would not be bounded; here a handler takes the largest message's size from the budget
before it reads, and gives back what the message did not need.

The request id goes back with the first answer, or with the error: a client retries, and heeds how long to wait before
that, only when an error is all that it got.
"""

import asyncio
import re
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from clipseek_server.errors import DeadlineExceeded, MalformedMessage, NotServing
from clipseek_server.rpc.admission import ByteBudget, Lease
from clipseek_server.rpc.errors import failure
from clipseek_server.telemetry import Call, log

Request = TypeVar("Request", bound=Message)

REQUEST_ID_KEY = "x-request-id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")

Context = grpc.aio.ServicerContext[bytes, bytes]
Method = Callable[..., Awaitable[Message] | AsyncGenerator[Message, None]]


@dataclass(frozen=True, slots=True)
class EdgeLimits:
    """What the edge enforces.

    Attributes:
        max_message_bytes: Largest message.
        message_timeout: Seconds that a client may take for one message.
        max_call_seconds: Longest life of a call, whatever deadline its client sets; a bulk item counts as a call.
    """

    max_message_bytes: int
    message_timeout: float
    max_call_seconds: float


class Draining:
    """Whether the server is about to stop. From then on it reads nothing more, and finishes what it has read."""

    def __init__(self) -> None:
        self._begun = False
        self._reads: set[asyncio.Timeout] = set()

    def begin(self) -> None:
        """Refuse new calls, and those whose message has not come yet."""
        self._begun = True
        for read in self._reads:
            read.reschedule(0)

    def check(self) -> None:
        """Raise ``NotServing`` once it has begun."""
        if self._begun:
            raise NotServing("the server is shutting down; send again what has no answer, elsewhere or later")

    @asynccontextmanager
    async def patience(self, seconds: float) -> AsyncIterator[None]:
        """Read within so many seconds; ``TimeoutError`` after them, ``NotServing`` when it begins before."""
        self.check()
        try:
            async with asyncio.timeout(seconds) as read:
                self._reads.add(read)
                try:
                    yield
                finally:
                    self._reads.discard(read)
        except TimeoutError:
            self.check()
            raise


class MessageStream(Generic[Request]):
    """The messages of one call, read one by one within the budget."""

    def __init__(
        self,
        context: Context,
        message_class: type[Request],
        budget: ByteBudget,
        limits: EdgeLimits,
        draining: Draining,
        call: Call,
    ) -> None:
        self._context = context
        self._message_class = message_class
        self._budget = budget
        self._limits = limits
        self._draining = draining
        self._call = call
        self.bytes_read = 0

    async def read(self) -> tuple[Request, Lease] | None:
        """The next message and the bytes that it holds of the budget until released; ``None`` at the end.

        Raises:
            MalformedMessage: It cannot be parsed.
            DeadlineExceeded: It did not come in time.
            NotServing: It did not come before the server began to stop.
            Overloaded: No room for it.
        """
        lease = await self._budget.take(self._limits.max_message_bytes, bulk=self._call.bulk)
        try:
            raw = await self.read_raw()
            if raw is None:
                lease.release()
                return None
            lease.shrink(len(raw))
            return self.parse(raw), lease
        except BaseException:
            lease.release()
            raise

    async def read_raw(self) -> bytes | None:
        """The next message's bytes; ``None`` at the end."""
        try:
            async with self._draining.patience(self._limits.message_timeout):
                raw = await self._context.read()
        except TimeoutError:
            raise DeadlineExceeded(f"no message came within {self._limits.message_timeout:g} seconds") from None
        if not isinstance(raw, bytes):  # grpc.aio.EOF
            return None
        self.bytes_read += len(raw)
        return raw

    def parse(self, raw: bytes) -> Request:
        """Parse a message."""
        try:
            return self._message_class.FromString(raw)
        except DecodeError:
            name = self._message_class.DESCRIPTOR.full_name
            raise MalformedMessage(f"the message is no {name}; check the generated stubs") from None


class _Answers:
    """The way back of one call."""

    def __init__(self, context: Context, call: Call) -> None:
        self._context = context
        self._call = call
        self._begun = False

    async def begin(self) -> None:
        """Send the request id, once; from then on the client cannot retry by itself."""
        if not self._begun:
            self._begun = True
            await self._context.send_initial_metadata(((REQUEST_ID_KEY, self._call.request_id),))

    async def send_all(self, responses: AsyncGenerator[Message, None]) -> None:
        """Send them one by one. They are closed in the end, also when the client has gone."""
        async with aclosing(responses):
            async for response in responses:
                await self.begin()
                await self._context.write(response.SerializeToString())
        await self.begin()


class Edge:
    """Turns servicers into gRPC handlers."""

    def __init__(self, limits: EdgeLimits, *, pictures: ByteBudget, others: ByteBudget) -> None:
        self._limits = limits
        self._pictures = pictures
        self._others = others
        self.draining = Draining()

    def handlers(
        self, service: ServiceDescriptor, methods: Mapping[str, Method], *, with_pictures: frozenset[str] = frozenset()
    ) -> grpc.GenericRpcHandler:
        """GRPC handlers for every method of a service.

        Args:
            service: From the generated code.
            methods: By name: ``async (request, call) -> response`` for unary methods, ``(request, call) -> async
                generator of responses`` for server-streaming ones, ``(stream, call) -> async generator`` for both ways.
            with_pictures: The names of those whose requests hold pictures; they share the larger budget.
        """
        return grpc.method_handlers_generic_handler(
            service.full_name,
            {
                method.name: self._handler(
                    method, methods[method.name], self._pictures if method.name in with_pictures else self._others
                )
                for method in service.methods
            },
        )

    def _handler(
        self, method: MethodDescriptor, function: Method, budget: ByteBudget
    ) -> "grpc.RpcMethodHandler[bytes, bytes]":
        message_class = GetMessageClass(method.input_type)

        async def unary(stream: MessageStream[Message], call: Call, answers: _Answers) -> bytes:
            request, lease = await _only_message(stream)
            try:
                response: Message = await function(request, call)  # type: ignore[misc]  # unary methods are awaitable
                await answers.begin()
                return response.SerializeToString()
            finally:
                lease.release()

        async def server_streaming(stream: MessageStream[Message], call: Call, answers: _Answers) -> None:
            request, lease = await _only_message(stream)
            try:
                await answers.send_all(function(request, call))  # type: ignore[arg-type]  # streaming ones generate
            finally:
                lease.release()

        async def both_streaming(stream: MessageStream[Message], call: Call, answers: _Answers) -> None:
            await answers.begin()  # some clients send nothing before they hear from the server
            await answers.send_all(function(stream, call))  # type: ignore[arg-type]

        run = both_streaming if method.client_streaming else server_streaming if method.server_streaming else unary

        async def handle(_: object, context: Context) -> bytes | None:
            call = self._begin(context, bulk=method.client_streaming)
            stream = MessageStream(context, message_class, budget, self._limits, self.draining, call)
            code = grpc.StatusCode.OK
            try:
                return await run(stream, call, _Answers(context, call))
            except asyncio.CancelledError:
                code = grpc.StatusCode.DEADLINE_EXCEEDED if call.expired else grpc.StatusCode.CANCELLED
                raise
            except Exception as error:
                unhappy = failure(error, call)
                code = unhappy.code
            finally:
                _log_call(method, call, code, stream.bytes_read, context)
            # Not in the except block: gRPC keeps what abort raises, and that would keep the error, and its causes the
            # frames in which they happened, with the picture's bytes.
            return await context.abort(code, unhappy.message, (*unhappy.trailers, (REQUEST_ID_KEY, call.request_id)))

        if method.server_streaming:
            return grpc.stream_stream_rpc_method_handler(handle)
        return grpc.stream_unary_rpc_method_handler(handle)

    def _begin(self, context: Context, *, bulk: bool) -> Call:
        sent = dict(context.invocation_metadata() or ()).get(REQUEST_ID_KEY, "")
        request_id = sent if isinstance(sent, str) and _REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex
        remaining = context.time_remaining()
        if bulk:
            # A stream may live as long as its client wants; its items have deadlines of their own.
            deadline = time.monotonic() + remaining if remaining is not None else None
        else:
            longest = self._limits.max_call_seconds
            deadline = time.monotonic() + (longest if remaining is None else min(remaining, longest))
        return Call(request_id=request_id, deadline=deadline, bulk=bulk)


async def _only_message(stream: MessageStream[Request]) -> tuple[Request, Lease]:
    received = await stream.read()
    if received is None:
        raise MalformedMessage("the call has no message; send exactly one")
    try:
        if await stream.read_raw() is not None:
            raise MalformedMessage("the call has more than one message; send exactly one")
    except BaseException:
        received[1].release()
        raise
    return received


def _log_call(method: MethodDescriptor, call: Call, code: grpc.StatusCode, bytes_read: int, context: Context) -> None:
    write = log.error if code is grpc.StatusCode.INTERNAL else log.info
    write(
        "call",
        method=f"{method.containing_service.name}/{method.name}",
        code=code.name,
        request_id=call.request_id,
        peer=context.peer(),
        request_bytes=bytes_read,
        total_ms=round(call.elapsed * 1000, 2),
        **{f"{stage}_ms": round(seconds * 1000, 2) for stage, seconds in call.seconds.items()},
    )
