"""A channel to a server, and how every call over it is made."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Self, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from clipseek import responses
from clipseek._async.concurrency import Home, sleep
from clipseek.backoff import NOT_BEGUN, Backoff
from clipseek.channel import (
    ChannelOption,
    Metadata,
    Tls,
    channel_options,
    credentials,
    deadline,
    end_of,
    endpoint,
    new_request_id,
    request_id_metadata,
    token_metadata,
    until,
)
from clipseek.errors import ConnectionLostError, UnavailableError, translating
from clipseek.results import Limits
from clipseek.v1 import info_service_pb2
from clipseek.v1.admin_service_pb2_grpc import AdminServiceStub
from clipseek.v1.collection_service_pb2_grpc import CollectionServiceStub
from clipseek.v1.embedding_service_pb2_grpc import EmbeddingServiceStub
from clipseek.v1.info_service_pb2_grpc import InfoServiceStub
from clipseek.v1.search_service_pb2_grpc import SearchServiceStub

# ruff: noqa: ASYNC109 -- "timeout" is the deadline that the server sees too; cancelling here would not tell it.

_REPEAT_SECONDS = 5.0
"""How long a call that lost its server looks for another one."""

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


class AsyncConnection:
    """A connection to one server; the parts of ``AsyncClient`` build on it."""

    def __init__(
        self,
        address: str = "127.0.0.1:50051",
        *,
        timeout: float | None = 30.0,
        token: str = "",
        tls: Tls | None = None,
        options: Sequence[ChannelOption] = (),
    ) -> None:
        """Prepare a connection; nothing is sent before the first call.

        Args:
            address: ``HOST:PORT``, ``grpc://HOST:PORT``, or ``grpcs://HOST:PORT`` for an encrypted connection. Calls
                are spread over all addresses of a name, or over several, ``10.0.0.1:50051,10.0.0.2:50051``.
            timeout: Seconds that a call may take unless it says otherwise, with all that it asks of servers; ``None``
                for no limit.
            token: What the server wants to see of its callers; empty for none. Without TLS others can read it.
            tls: How the server is known, where that is not by one of the usual authorities.
            options: More gRPC channel arguments, e.g. ``("grpc.max_receive_message_length", 2**24)``. With
                ``("grpc.enable_retries", 0)`` nothing is sent twice, whatever becomes of the server.

        Raises:
            ValueError: The address or the token cannot be used.
            OSError: A file that ``tls`` names cannot be read.
            RuntimeError: No event loop runs here, and the client is an asynchronous one.
        """
        self._home = Home()
        self.address = address
        self.timeout = timeout
        where = endpoint(address)
        secure = credentials(where, tls)
        given = [*channel_options(tls), *options]
        self._channel = (
            grpc.aio.insecure_channel(where.target, options=given)
            if secure is None
            else grpc.aio.secure_channel(where.target, secure, options=given)
        )
        self._token = token_metadata(token)
        self._closed = False
        self._repeat_seconds = 0.0 if ("grpc.enable_retries", 0) in options else _REPEAT_SECONDS
        self._search = SearchServiceStub(self._channel)
        self._embedding = EmbeddingServiceStub(self._channel)
        self._collections = CollectionServiceStub(self._channel)
        self._admin = AdminServiceStub(self._channel)
        self._info = InfoServiceStub(self._channel)
        self._limits: Limits | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls in progress are cancelled."""
        self._closed = True
        await self._channel.close(grace=None)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address!r})"

    async def _call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        *,
        timeout: float | None,
        request_id: str,
        repeatable: bool = True,
    ) -> Response:
        """One request, one answer, within ``timeout`` seconds (``None``: the client's default).

        When the server goes away meanwhile, the request is sent again, to another one where the address has several,
        or to the same when it comes back: always if the server said that it did not begin, otherwise if doing it twice
        is as good as once.
        """
        request_id = request_id or new_request_id()
        end = self._end(timeout)
        backoff = Backoff(self._repeat_seconds, end=end)
        gone = False
        while True:
            try:
                with translating(self.address, request_id):
                    return await method(request, timeout=deadline(until(end)), metadata=self._metadata(request_id))
            except UnavailableError as error:
                lost = isinstance(error, ConnectionLostError)
                # Whom a call was lost to may not be back yet: what reaches nobody is not begun.
                not_begun = error.reason == NOT_BEGUN or (gone and not error.reason and not lost)
                if self._closed or not (not_begun or (lost and repeatable)):
                    raise
                gone = True
                pause = backoff.pause(error)
            await sleep(pause)

    async def _stream(
        self,
        method: grpc.aio.UnaryStreamMultiCallable[Request, Response],
        request: Request,
        *,
        timeout: float | None,
        request_id: str,
    ) -> AsyncIterator[Response]:
        """One request, many answers, within ``timeout`` seconds (``None``: as long as it takes)."""
        with translating(self.address, request_id):
            call = method(request, timeout=deadline(timeout), metadata=self._metadata(request_id))
            try:
                async for response in call:
                    yield response
            finally:
                call.cancel()

    def _metadata(self, request_id: str) -> Metadata:
        """What goes along with a call.

        Raises:
            RuntimeError: The client is closed, or was not made here.
            ValueError: The request id is none that servers take.
        """
        if self._closed:
            raise RuntimeError("this client is closed")
        self._home.check()
        return (*request_id_metadata(request_id), *self._token)

    def _end(self, timeout: float | None, *, within: float = math.inf) -> float:
        """When a call that begins now must be done, by the monotonic clock.

        Args:
            timeout: Of the call; ``None`` is the client's default.
            within: When the call that it is a part of must be done.
        """
        return min(within, end_of(self.timeout if timeout is None else timeout))

    async def _server_limits(self, end: float, request_id: str) -> Limits:
        """What the server takes, asked for once a connection, by the call that first needs it and within its time."""
        if self._limits is None:
            message = await self._call(
                self._info.GetServerInfo,
                info_service_pb2.GetServerInfoRequest(),
                timeout=until(end),
                request_id=request_id,
            )
            self._limits = responses.server_info(message).limits
        return self._limits
