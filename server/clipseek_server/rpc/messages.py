"""Reading and parsing the messages of a call within a budget of memory."""

import asyncio
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

import grpc
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from clipseek_server.errors import DeadlineExceeded, MalformedMessage
from clipseek_server.rpc.admission import ByteBudget, Lease
from clipseek_server.rpc.draining import Draining
from clipseek_server.rpc.wire import check_fields, not_a
from clipseek_server.telemetry import Call

Request = TypeVar("Request", bound=Message)
Context = grpc.aio.ServicerContext[bytes, bytes]

LARGE_MESSAGE = 64 * 1024
"""Bytes from which a message is parsed on a thread: with as many fields as fit in fewer that takes some 20 ms."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What the messages of a kind of methods may take.

    Attributes:
        budget: Where their memory comes from.
        max_bytes: Largest message; so much is reserved to read one.
        max_fields: Most fields of a message.
        timeout: Seconds that a client may take to send the one message of a call, or the next one of a stream.
    """

    budget: ByteBudget
    max_bytes: int
    max_fields: int
    timeout: float


class Messages(Generic[Request]):
    """The messages of one call, each with the bytes that it holds of the budget until they are released."""

    def __init__(
        self, context: Context, message_type: Descriptor, allowance: Allowance, draining: Draining, call: Call
    ) -> None:
        self._context = context
        self._message_type = message_type
        self._message_class = cast("type[Request]", GetMessageClass(message_type))
        self._allowance = allowance
        self._draining = draining
        self._call = call
        self.bytes_read = 0

    async def read_only(self) -> tuple[Request, Lease]:
        """The one message of a unary call. The whole reservation is held until it is seen that no other comes.

        Raises:
            MalformedMessage: There is none or another one, it is too large, or it cannot be parsed.
            InvalidField: It has too many fields.
            DeadlineExceeded: It did not come in time.
            NotServing: It did not come before the server began to stop.
            Overloaded: No room for it.
        """
        lease = await self._reserve()
        try:
            try:
                async with self._draining.patience(self._allowance.timeout):
                    raw = await self._read()
                    if raw is None:
                        raise MalformedMessage("the call has no message; send exactly one")
                    if await self._read() is not None:
                        raise MalformedMessage("the call has more than one message; send exactly one")
            except TimeoutError:
                raise self._too_slow() from None
            lease.shrink(len(raw))
            return await self._parse(raw), lease
        except BaseException:
            lease.release()
            raise

    async def read_next(self) -> tuple[Request, Lease] | None:
        """The next message of a stream; ``None`` at the end. Raises as ``read_only``."""
        lease = await self._reserve()
        try:
            try:
                async with self._draining.patience(self._allowance.timeout):
                    raw = await self._read()
            except TimeoutError:
                raise self._too_slow() from None
            if raw is None:
                lease.release()
                return None
            lease.shrink(len(raw))
            return await self._parse(raw), lease
        except BaseException:
            lease.release()
            raise

    async def _reserve(self) -> Lease:
        return await self._allowance.budget.take(self._allowance.max_bytes, bulk=self._call.bulk)

    async def _read(self) -> bytes | None:
        raw = await self._context.read()
        if not isinstance(raw, bytes):  # grpc.aio.EOF
            return None
        self.bytes_read += len(raw)
        if len(raw) > self._allowance.max_bytes:
            raise MalformedMessage(
                f"the message has {len(raw)} bytes, but this method takes no more than {self._allowance.max_bytes}"
            )
        return raw

    async def _parse(self, raw: bytes) -> Request:
        if len(raw) < LARGE_MESSAGE:
            return self._parsed(raw)
        return await asyncio.to_thread(self._parsed, raw)

    def _parsed(self, raw: bytes) -> Request:
        check_fields(raw, self._message_type, self._allowance.max_fields)
        try:
            return self._message_class.FromString(raw)
        except DecodeError:
            raise not_a(self._message_type) from None

    def _too_slow(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"no message came within {self._allowance.timeout:g} seconds; send it faster")
