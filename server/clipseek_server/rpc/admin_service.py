"""AdminService."""

from collections.abc import AsyncIterator

from clipseek.v1 import admin_service_pb2 as pb
from clipseek_server.catalog.checks import Checks, Fault
from clipseek_server.catalog.rebuilds import Rebuilds
from clipseek_server.rpc import convert
from clipseek_server.rpc import validation as check
from clipseek_server.telemetry import Call

_KINDS = {
    Fault.MISSING_BYTES: pb.DIFFERENCE_KIND_MISSING_BYTES,
    Fault.CORRUPT_BYTES: pb.DIFFERENCE_KIND_CORRUPT_BYTES,
    Fault.BAD_VECTOR: pb.DIFFERENCE_KIND_BAD_VECTOR,
    Fault.STALE_RESIDENT_COPY: pb.DIFFERENCE_KIND_STALE_RESIDENT_COPY,
    Fault.ORPHANED_BYTES: pb.DIFFERENCE_KIND_ORPHANED_BYTES,
}


class AdminService:
    """Looks after collections."""

    def __init__(self, rebuilds: Rebuilds, checks: Checks) -> None:
        self._rebuilds = rebuilds
        self._checks = checks

    async def rebuild_collection(
        self, request: pb.RebuildCollectionRequest, call: Call
    ) -> AsyncIterator[pb.RebuildCollectionResponse]:
        """RebuildCollection."""
        async for progress in self._rebuilds.watch(check.collection_name(request.collection), request.model):
            yield pb.RebuildCollectionResponse(progress=convert.progress(progress))

    async def check_collection(
        self, request: pb.CheckCollectionRequest, call: Call
    ) -> AsyncIterator[pb.CheckCollectionResponse]:
        """CheckCollection."""
        name = check.collection_name(request.collection)
        async for report in self._checks.check(name, call, verify_bytes=request.verify_bytes):
            yield pb.CheckCollectionResponse(
                differences=[
                    pb.Difference(kind=_KINDS[found.fault], image_id=found.image_id, message=found.message)
                    for found in report.differences
                ],
                images_checked=report.images_checked,
                images_total=report.images_total,
            )
