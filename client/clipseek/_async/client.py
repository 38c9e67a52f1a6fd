"""The client itself."""

from __future__ import annotations

from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from clipseek import responses
from clipseek._async.bulk import AsyncBulk
from clipseek._async.collections import AsyncCollections
from clipseek._async.embedding import AsyncEmbeddings
from clipseek._async.search import AsyncSearching
from clipseek.results import ServerInfo
from clipseek.v1 import info_service_pb2

# ruff: noqa: ASYNC109 -- "timeout" is the deadline that the server sees too; cancelling here would not tell it.

_HEALTH = ("unknown", "serving", "not_serving", "service_unknown")


class AsyncClient(AsyncSearching, AsyncBulk, AsyncEmbeddings, AsyncCollections):
    """A client of a clipseek server.

    Make one where an event loop runs, share it among tasks, and close it at the end. It does not survive a fork, as
    gRPC's threads do not: make one in each process.

    Every method takes ``timeout`` (seconds, instead of the client's default) and ``request_id`` (names the call in the
    server's log). The timeout bounds the whole call, however many requests and tries it takes; of ``list`` and
    ``collections`` each page. Calls that fail raise a ``ClipseekError``. Reads are repeated a few times while the
    server is away.

    Example:
        >>> async with AsyncClient("127.0.0.1:50051") as client:
        ...     await client.insert("cat.jpg")
        ...     result = await client.search_text("a cat")
        ...     print(result[0].image_id, result[0].score)
    """

    async def info(self, *, timeout: float | None = None, request_id: str = "") -> ServerInfo:
        """What the server is, which models it has loaded and what it takes.

        Example:
            >>> async with AsyncClient() as client:
            ...     info = await client.info()
            ...     print(info.models[0].name, info.limits.max_image_bytes)
        """
        message = await self._call(
            self._info.GetServerInfo,
            info_service_pb2.GetServerInfoRequest(),
            timeout=timeout,
            request_id=request_id,
        )
        return responses.server_info(message)

    async def health(self, service: str = "", *, timeout: float | None = None, request_id: str = "") -> str:
        """``serving`` or ``not_serving``: of the server, or of one service such as ``clipseek.v1.EmbeddingService``.

        Example:
            >>> async with AsyncClient() as client:
            ...     if await client.health() != "serving":
            ...         print("not yet")

        Raises:
            NotFoundError: The server has no such service.
        """
        # grpc.health.v1's two messages are, on the wire, a string and a number: no need for one more dependency.
        check = self._channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=StringValue.SerializeToString,
            response_deserializer=Int32Value.FromString,
        )
        status = await self._call(check, StringValue(value=service), timeout=timeout, request_id=request_id)
        return _HEALTH[status.value] if 0 <= status.value < len(_HEALTH) else str(status.value)
