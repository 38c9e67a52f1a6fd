"""What gRPC and a client that reads the answer take: every search by text has the same answer, at once.

python -m benchmarks.peers.constant ADDRESS
"""

import asyncio
import sys
from typing import Any

import grpc
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1.health import aio as health
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from benchmarks.peers.service import Info
from clipseek.v1 import image_pb2
from clipseek.v1.info_service_pb2_grpc import add_InfoServiceServicer_to_server
from clipseek.v1.search_service_pb2 import SearchByTextResponse
from clipseek.v1.search_service_pb2_grpc import SearchServiceServicer, add_SearchServiceServicer_to_server

_HITS = 5


class _Search(SearchServiceServicer):
    def __init__(self) -> None:
        # Like the answers of a server that has ``benchmarks/rows.py``'s rows.
        metadata, time = Struct(), Timestamp(seconds=1_700_000_000, nanos=1_000)
        metadata.update({"group": 3, "file": "album/0000003.jpg"})
        image = image_pb2.Image(
            image_id="row-0000003",
            collection="default",
            content_sha256="0" * 64,
            media_type="image/jpeg",
            width=1920,
            height=1080,
            size_bytes=500_000,
            create_time=time,
            update_time=time,
            metadata=metadata,
        )
        model = image_pb2.ModelRef(name="vit-b-32", space_id=f"sha256:{'0' * 64}", precision="fp32")
        self._answer = SearchByTextResponse(hits=[image_pb2.Hit(image=image, score=0.3)] * _HITS, model=model)

    async def SearchByText(self, request: Any, context: Any) -> SearchByTextResponse:  # noqa: N802
        return self._answer


async def _serve(address: str) -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    add_SearchServiceServicer_to_server(_Search(), server)  # type: ignore[abstract]  # nothing else is called
    add_InfoServiceServicer_to_server(Info(), server)
    add_HealthServicer_to_server(health.HealthServicer(), server)
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
