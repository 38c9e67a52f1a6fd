"""Between the wire and the servicers: who may read how much, deadlines, errors, one log line a call.

Handlers get raw bytes: a message that cannot be parsed is our INVALID_ARGUMENT, not gRPC's UNKNOWN with Python text in
it. All methods are registered as client-streaming, which on the wire is the same: gRPC reads a unary request whole
before any handler runs, so memory would not be bounded; here a handler takes the largest message's size from the budget
before it reads, and gives back what the message did not need.

The bound that this gives, in bytes of messages as they came (parsed, they are there up to three times for a moment):
well-behaved clients hold no more than the budgets. gRPC reads whole messages and has one limit for all methods, so it
may have read up to that before we can refuse what is too large or one too many, which we do at once. A hostile client
can thus hold twice the budget with pairs of large messages to methods with pictures, and to the others one message of
the largest size for each reservation of a small one: by default 32 times 32 MiB, for as long as a refusal takes.

The request id goes back in the trailing metadata, which costs nothing, and those who watch a stream get it before the
first answer too, but not before an error: a client retries, and heeds how long to wait before that, only when an error
is all that it got.
"""

import asyncio
import re
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message

from clipseek_server import metrics
from clipseek_server.rpc.access import Access
from clipseek_server.rpc.draining import Draining
from clipseek_server.rpc.errors import Failure, failure
from clipseek_server.rpc.messages import Allowance, Context, Messages
from clipseek_server.telemetry import Call, log

REQUEST_ID_KEY = "x-request-id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")

Method = Callable[..., Awaitable[Message] | AsyncGenerator[Message, None]]


class _Answers:
    """The way back of a call with a stream of answers."""

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
    """Turns servicers into gRPC handlers.

    Args:
        pictures: For methods whose one message holds pictures.
        streams: For methods that take a stream of messages with pictures.
        others: For methods without pictures.
        max_call_seconds: Longest life of a call, whatever deadline its client sets. Streams live as long as their
            clients want: their items have deadlines of their own, or they write nothing.
        access: Who may call what.
    """

    def __init__(
        self,
        *,
        pictures: Allowance,
        streams: Allowance,
        others: Allowance,
        max_call_seconds: float,
        access: Access | None = None,
    ) -> None:
        self._pictures = pictures
        self._streams = streams
        self._others = others
        self._max_call_seconds = max_call_seconds
        self._access = access or Access()
        self.draining = Draining()

    def handlers(
        self, service: ServiceDescriptor, methods: Mapping[str, Method], *, with_pictures: frozenset[str] = frozenset()
    ) -> grpc.GenericRpcHandler:
        """GRPC handlers for every method of a service.

        Args:
            service: From the generated code.
            methods: By name: ``async (request, call) -> response`` for unary methods, ``(request, call) -> async
                generator of responses`` for server-streaming ones, ``(messages, call) -> async generator`` for both.
            with_pictures: The names of those whose requests hold pictures.
        """
        return grpc.method_handlers_generic_handler(
            service.full_name,
            {
                method.name: self._handler(
                    method, methods[method.name], self._allowance(method, pictures=method.name in with_pictures)
                )
                for method in service.methods
            },
        )

    def _allowance(self, method: MethodDescriptor, *, pictures: bool) -> Allowance:
        if method.client_streaming:
            return self._streams
        return self._pictures if pictures else self._others

    def _handler(
        self, method: MethodDescriptor, function: Method, allowance: Allowance
    ) -> "grpc.RpcMethodHandler[bytes, bytes]":
        message_type = method.input_type

        async def unary(messages: Messages[Message], call: Call, _: _Answers) -> bytes:
            request, lease = await messages.read_only()
            try:
                response: Message = await function(request, call)  # type: ignore[misc]  # unary methods are awaitable
                return response.SerializeToString()
            finally:
                lease.release()

        async def server_streaming(messages: Messages[Message], call: Call, answers: _Answers) -> None:
            request, lease = await messages.read_only()
            try:
                await answers.send_all(function(request, call))  # type: ignore[arg-type]  # streaming ones generate
            finally:
                lease.release()

        async def both_streaming(messages: Messages[Message], call: Call, answers: _Answers) -> None:
            await answers.begin()  # some clients send nothing before they hear from the server
            await answers.send_all(function(messages, call))  # type: ignore[arg-type]

        run = both_streaming if method.client_streaming else server_streaming if method.server_streaming else unary

        async def handle(_: object, context: Context) -> bytes | None:
            metadata = dict(context.invocation_metadata() or ())
            call = self._begin(context, metadata, method)
            messages: Messages[Message] = Messages(context, message_type, allowance, self.draining, call)
            code = grpc.StatusCode.OK
            unhappy: Failure | None = None
            context.set_trailing_metadata(((REQUEST_ID_KEY, call.request_id),))
            try:
                self._access.check(metadata, method)
                return await run(messages, call, _Answers(context, call))
            except asyncio.CancelledError:
                code = grpc.StatusCode.DEADLINE_EXCEEDED if call.expired else grpc.StatusCode.CANCELLED
                raise
            except Exception as error:
                unhappy = failure(error, call)
                code = unhappy.code
            finally:
                # Once the answer is on its way: nobody has to wait for the log.
                asyncio.get_running_loop().call_soon(
                    _record_call, method, call, code, unhappy, messages.bytes_read, context.peer()
                )
            # Not in the except block: gRPC keeps what abort raises, and that would keep the error, and its causes the
            # frames in which they happened, with the picture's bytes.
            return await context.abort(code, unhappy.message, (*unhappy.trailers, (REQUEST_ID_KEY, call.request_id)))

        if method.server_streaming:
            return grpc.stream_stream_rpc_method_handler(handle)
        return grpc.stream_unary_rpc_method_handler(handle)

    def _begin(self, context: Context, metadata: Mapping[str, str | bytes], method: MethodDescriptor) -> Call:
        sent = metadata.get(REQUEST_ID_KEY, "")
        request_id = sent if isinstance(sent, str) and _REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex
        limits = [context.time_remaining()]
        if not (method.client_streaming or method.server_streaming):
            limits.append(self._max_call_seconds)
        seconds = min((limit for limit in limits if limit is not None), default=None)
        deadline = None if seconds is None else time.monotonic() + seconds
        return Call(request_id=request_id, deadline=deadline, bulk=method.client_streaming)


def _record_call(
    method: MethodDescriptor,
    call: Call,
    code: grpc.StatusCode,
    unhappy: Failure | None,
    bytes_read: int,
    peer: str,
) -> None:
    name = f"{method.containing_service.name}/{method.name}"
    metrics.call_ended(name, code.name, call, bytes_read)
    write = log.error if code is grpc.StatusCode.INTERNAL else log.info
    why = {"reason": unhappy.reason, "message": unhappy.message} if unhappy else {}
    write(
        "call",
        method=name,
        code=code.name,
        request_id=call.request_id,
        peer=peer,
        **why,
        request_bytes=bytes_read,
        **({"items": dict(call.items)} if call.items else {}),
        total_ms=round(call.elapsed * 1000, 2),
        **{f"{stage}_ms": round(seconds * 1000, 2) for stage, seconds in call.seconds.items()},
    )
