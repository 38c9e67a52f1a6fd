"""``grpc.health.v1``: one entry a service, and an empty name for the whole server.

Ours and not the library's, whose watches never end: each would hold up a server that drains.
"""

import asyncio
from collections.abc import Mapping

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthServicer

Context = grpc.aio.ServicerContext[HealthCheckRequest, HealthCheckResponse]


class Health(HealthServicer):  # type: ignore[misc]  # the package has no types
    """Publishes what can do its work. All begin as not serving.

    Args:
        services: Full names of the services by their short names.
    """

    def __init__(self, services: Mapping[str, str]) -> None:
        self._names = {"": "", **services}
        self._statuses = dict.fromkeys(self._names.values(), HealthCheckResponse.NOT_SERVING)
        self._draining = False
        self._changed = asyncio.Event()

    def set(self, service: str, *, serving: bool) -> None:
        """Publish whether a service (by its short name; empty for the whole server) can do its work."""
        if not self._draining:
            self._statuses[self._names[service]] = (
                HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING
            )
            self._tell()

    def drain(self) -> None:
        """From now on nothing is serving. Who watches hears that, and no more."""
        self._draining = True
        self._statuses = dict.fromkeys(self._statuses, HealthCheckResponse.NOT_SERVING)
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(self, request: HealthCheckRequest, context: Context) -> HealthCheckResponse:  # noqa: N802
        """How a service is."""
        if request.service not in self._statuses:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service")
        return HealthCheckResponse(status=self._statuses[request.service])

    async def Watch(self, request: HealthCheckRequest, context: Context) -> None:  # noqa: N802
        """How a service is, now and whenever that changes."""
        told = None
        while True:
            # All three at one time: what changes during the write is seen in the next round.
            status = self._statuses.get(request.service, HealthCheckResponse.SERVICE_UNKNOWN)
            last, changed = self._draining, self._changed
            if status != told:
                await context.write(HealthCheckResponse(status=status))
                told = status
            if last:
                return
            await changed.wait()
