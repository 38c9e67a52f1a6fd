"""CollectionService."""

from clipseek.v1 import collection_service_pb2 as pb
from clipseek_server.catalog.collections import Collections
from clipseek_server.catalog.page_tokens import PagePosition
from clipseek_server.catalog.rebuilds import Rebuilds
from clipseek_server.errors import InvalidField
from clipseek_server.rpc import convert
from clipseek_server.rpc import validation as check
from clipseek_server.telemetry import Call

MAX_PAGE_SIZE = 100


class CollectionService:
    """Makes, shows and drops collections."""

    def __init__(self, collections: Collections, rebuilds: Rebuilds) -> None:
        self._collections = collections
        self._rebuilds = rebuilds

    async def create_collection(self, request: pb.CreateCollectionRequest, call: Call) -> pb.CreateCollectionResponse:
        """CreateCollection."""
        view = await self._collections.create(check.collection_name(request.collection), request.model, call)
        return pb.CreateCollectionResponse(collection=convert.collection(view, None))

    async def get_collection(self, request: pb.GetCollectionRequest, call: Call) -> pb.GetCollectionResponse:
        """GetCollection."""
        name = check.collection_name(request.collection)
        view = await self._collections.describe(name, call)
        return pb.GetCollectionResponse(collection=convert.collection(view, self._rebuilds.progress(name)))

    async def list_collections(self, request: pb.ListCollectionsRequest, call: Call) -> pb.ListCollectionsResponse:
        """ListCollections."""
        size = check.count(request.page_size, MAX_PAGE_SIZE, MAX_PAGE_SIZE, field="page_size")
        after = PagePosition.parse(request.page_token).after if request.page_token else ""
        views = await self._collections.page(after, size + 1, call)
        page = views[:size]
        return pb.ListCollectionsResponse(
            collections=[convert.collection(view, self._rebuilds.progress(view.info.name)) for view in page],
            next_page_token=PagePosition(page[-1].info.name).format() if len(views) > size else "",
        )

    async def delete_collection(self, request: pb.DeleteCollectionRequest, call: Call) -> pb.DeleteCollectionResponse:
        """DeleteCollection."""
        if not request.collection:
            raise InvalidField("name the collection to drop, even if it is `default`", field="collection")
        deleted = await self._collections.delete(check.collection_name(request.collection), call)
        return pb.DeleteCollectionResponse(deleted_count=deleted)
