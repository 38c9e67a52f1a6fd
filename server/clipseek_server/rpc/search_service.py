"""SearchService."""

from collections.abc import AsyncIterator

import numpy as np

from clipseek.v1 import search_service_pb2 as pb
from clipseek_server.catalog.images import Images, MetadataChange
from clipseek_server.catalog.inserts import Inserts, NewImage
from clipseek_server.catalog.searches import Found, Given, Picture, Query, Searches, Stored, Term, Text
from clipseek_server.catalog.views import NOTHING_MORE, ReadMask
from clipseek_server.config import Settings
from clipseek_server.errors import InvalidField
from clipseek_server.rpc import convert
from clipseek_server.rpc import validation as check
from clipseek_server.telemetry import Call

DEFAULT_TOP_K = 5
DEFAULT_PAGE_SIZE = 100


class SearchService:
    """Stores pictures and finds them again."""

    with_pictures = frozenset({"Insert", "SearchByImage", "Search"})

    def __init__(
        self, inserts: Inserts, searches: Searches, images: Images, settings: Settings, *, strong_by_default: bool
    ) -> None:
        self._inserts = inserts
        self._searches = searches
        self._images = images
        self._settings = settings
        self._strong_by_default = strong_by_default

    async def insert(self, request: pb.InsertRequest, call: Call) -> pb.InsertResponse:
        """Insert."""
        new = NewImage(
            data=check.image_data(request.image_data, self._settings),
            image_id=check.image_id(request.image_id) if request.HasField("image_id") else None,
            metadata=check.metadata(request.metadata, self._settings) if request.HasField("metadata") else None,
            on_exists=check.on_exists(request.on_exists),
        )
        inserted = await self._inserts.insert(check.collection_name(request.collection), new, call)
        return pb.InsertResponse(
            image=convert.stored(inserted),
            outcome=convert.OUTCOMES[inserted.outcome],
            model=convert.model_ref(inserted.model),
            timing=convert.timing(call),
        )

    async def search_by_text(self, request: pb.SearchByTextRequest, call: Call) -> pb.SearchByTextResponse:
        """SearchByText."""
        term = Term(Text(check.text(request.text, self._settings)), field="text")
        found = await self._search(request.collection, [term], request.options, call)
        return pb.SearchByTextResponse(
            hits=await convert.many(convert.hit, found.hits),
            text_truncated=found.text_truncated,
            model=convert.serving_model(found.model, found.info),
            timing=convert.timing(call),
        )

    async def search_by_image(self, request: pb.SearchByImageRequest, call: Call) -> pb.SearchByImageResponse:
        """SearchByImage."""
        match request.WhichOneof("source"):
            case "image_data":
                term = Term(Picture(check.image_data(request.image_data, self._settings)), field="image_data")
            case "image_id":
                term = Term(Stored(check.image_id(request.image_id)), field="image_id")
            case _:
                raise InvalidField("give a picture or the id of a stored one", field="source")
        found = await self._search(request.collection, [term], request.options, call)
        return pb.SearchByImageResponse(
            hits=await convert.many(convert.hit, found.hits),
            model=convert.serving_model(found.model, found.info),
            timing=convert.timing(call),
        )

    async def search(self, request: pb.SearchRequest, call: Call) -> pb.SearchResponse:
        """Search."""
        limit = self._settings.max_search_terms
        if not 1 <= len(request.terms) <= limit:
            raise InvalidField(f"1 to {limit} terms can be given, not {len(request.terms)}", field="terms")
        terms = [self._term(term, f"terms[{position}]") for position, term in enumerate(request.terms)]
        found = await self._search(request.collection, terms, request.options, call)
        return pb.SearchResponse(
            hits=await convert.many(convert.hit, found.hits),
            text_truncated=found.text_truncated,
            model=convert.serving_model(found.model, found.info),
            timing=convert.timing(call),
        )

    def _term(self, term: pb.SearchTerm, field: str) -> Term:
        source: Text | Picture | Stored | Given
        match term.WhichOneof("term"):
            case "text":
                source = Text(check.text(term.text, self._settings, field=f"{field}.text"))
            case "image_data":
                source = Picture(check.image_data(term.image_data, self._settings, field=f"{field}.image_data"))
            case "image_id":
                source = Stored(check.image_id(term.image_id, field=f"{field}.image_id"))
            case "embedding":
                source = Given(np.asarray(term.embedding.values, dtype=np.float32), term.embedding.space_id)
            case _:
                raise InvalidField("a term is a text, a picture, the id of a stored one or an embedding", field=field)
        weight = check.finite_weight(term.weight, field=f"{field}.weight") if term.HasField("weight") else 1.0
        return Term(source, weight, f"{field}.{term.WhichOneof('term')}")

    async def _search(self, collection: str, terms: list[Term], options: pb.SearchOptions, call: Call) -> Found:
        mask = check.read_mask(options.read_mask, field="options.read_mask")
        top_k = check.count(
            options.top_k, DEFAULT_TOP_K, self._limit(self._settings.max_top_k, mask), field="options.top_k"
        )
        limit = self._settings.max_offset_plus_top_k
        if not 0 <= options.offset <= limit - top_k:
            raise InvalidField(f"offset must be at least 0, and offset + top_k at most {limit}", field="options.offset")
        query = Query(
            collection=check.collection_name(collection),
            terms=terms,
            top_k=top_k,
            offset=options.offset,
            filter=options.filter,
            min_score=check.min_score(options.min_score) if options.HasField("min_score") else None,
            effort=check.effort(options.effort),
            strong=check.strong(options.consistency, default=self._strong_by_default, field="options.consistency"),
            mask=mask,
        )
        return await self._searches.search(query, call)

    def _limit(self, limit: int, mask: ReadMask) -> int:
        return min(limit, self._settings.max_top_k_with_mask) if mask != NOTHING_MORE else limit

    async def get_image(self, request: pb.GetImageRequest, call: Call) -> pb.GetImageResponse:
        """GetImage."""
        view = await self._images.get_one(
            check.collection_name(request.collection),
            check.image_id(request.image_id),
            check.read_mask(request.read_mask),
            call,
            strong=check.strong(request.consistency, default=True),
        )
        return pb.GetImageResponse(image=convert.image(view))

    async def batch_get_images(self, request: pb.BatchGetImagesRequest, call: Call) -> pb.BatchGetImagesResponse:
        """BatchGetImages."""
        mask = check.read_mask(request.read_mask)
        found, missing = await self._images.get(
            check.collection_name(request.collection),
            check.image_ids(request.image_ids, self._limit(self._settings.max_batch_ids, mask)),
            mask,
            call,
            strong=check.strong(request.consistency, default=True),
        )
        return pb.BatchGetImagesResponse(images=await convert.many(convert.image, found), missing_image_ids=missing)

    async def update_image(self, request: pb.UpdateImageRequest, call: Call) -> pb.UpdateImageResponse:
        """UpdateImage."""
        change = MetadataChange(
            check.metadata(request.metadata, self._settings), check.update_keys(request.update_mask)
        )
        view = await self._images.update(
            check.collection_name(request.collection), check.image_id(request.image_id), change, call
        )
        return pb.UpdateImageResponse(image=convert.image(view))

    async def batch_delete_images(
        self, request: pb.BatchDeleteImagesRequest, call: Call
    ) -> pb.BatchDeleteImagesResponse:
        """BatchDeleteImages."""
        deleted, missing = await self._images.delete(
            check.collection_name(request.collection),
            check.image_ids(request.image_ids, self._settings.max_batch_ids),
            call,
        )
        return pb.BatchDeleteImagesResponse(deleted_count=deleted, missing_image_ids=missing)

    async def list_images(self, request: pb.ListImagesRequest, call: Call) -> pb.ListImagesResponse:
        """ListImages."""
        mask = check.read_mask(request.read_mask)
        limit = self._limit(self._settings.max_page_size, mask)
        views, token = await self._images.page(
            check.collection_name(request.collection),
            request.filter,
            check.count(request.page_size, DEFAULT_PAGE_SIZE, limit, field="page_size"),
            request.page_token,
            mask,
            call,
            strong=check.strong(request.consistency, default=self._strong_by_default),
        )
        return pb.ListImagesResponse(images=await convert.many(convert.image, views), next_page_token=token)

    async def download_image(
        self, request: pb.DownloadImageRequest, call: Call
    ) -> AsyncIterator[pb.DownloadImageResponse]:
        """DownloadImage."""
        view, chunks = await self._images.download(
            check.collection_name(request.collection),
            check.image_id(request.image_id),
            call,
            strong=check.strong(request.consistency, default=True),
        )
        yield pb.DownloadImageResponse(header=pb.DownloadImageHeader(image=convert.image(view)))
        async for chunk in chunks:
            yield pb.DownloadImageResponse(chunk=chunk)
