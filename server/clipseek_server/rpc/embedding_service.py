"""EmbeddingService.

A call with one item goes before bulk, as a search does. One with several is bulk: it may take its time, and its items
do not fill the queues of the towers.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from clipseek.v1 import embedding_service_pb2 as pb
from clipseek_server.catalog.concurrency import gather
from clipseek_server.catalog.interfaces import Model
from clipseek_server.catalog.models import Models
from clipseek_server.config import Settings
from clipseek_server.errors import InvalidField
from clipseek_server.rpc import convert
from clipseek_server.rpc import validation as check
from clipseek_server.rpc.admission import StreamLimit
from clipseek_server.rpc.errors import item_error
from clipseek_server.telemetry import Call

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Bulk:
    """What lets batches of one kind in: the towers bound only what is interactive."""

    def __init__(self, settings: Settings, field: str) -> None:
        self.field = field
        self.batches = StreamLimit(settings.queue_length, f"batches of {field} to embed")
        self.room = asyncio.Semaphore(settings.queue_length)


class EmbeddingService:
    """Makes vectors and stores nothing."""

    with_pictures = frozenset({"EmbedImage"})

    def __init__(self, models: Models, settings: Settings) -> None:
        self._models = models
        self._settings = settings
        # Texts never wait for pictures.
        self._texts, self._images = _Bulk(settings, "texts"), _Bulk(settings, "images")

    async def embed_text(self, request: pb.EmbedTextRequest, call: Call) -> pb.EmbedTextResponse:
        """EmbedText."""
        model = self._models.named(request.model)
        results = await self._embed_all(partial(self._embed_text, model), request.texts, self._texts, call)
        return pb.EmbedTextResponse(results=results, model=convert.model_ref(model), timing=convert.timing(call))

    async def embed_image(self, request: pb.EmbedImageRequest, call: Call) -> pb.EmbedImageResponse:
        """EmbedImage."""
        model = self._models.named(request.model)
        results = await self._embed_all(partial(self._embed_image, model), request.images, self._images, call)
        return pb.EmbedImageResponse(results=results, model=convert.model_ref(model), timing=convert.timing(call))

    async def _embed_all(
        self, embed: Callable[[Item, str, Call], Awaitable[Result]], items: Sequence[Item], bulk: "_Bulk", call: Call
    ) -> list[Result]:
        limit, field = self._settings.max_batch_items, bulk.field
        if not 1 <= len(items) <= limit:
            raise InvalidField(f"1 to {limit} items can be given, not {len(items)}", field=field)
        if len(items) == 1:
            return [await embed(items[0], f"{field}[0]", call)]
        as_bulk = replace(call, bulk=True)  # the times of its stages are still the call's

        async def embed_one(position: int, item: Item) -> Result:
            async with bulk.room:
                return await embed(item, f"{field}[{position}]", as_bulk)

        with bulk.batches.open():
            return await gather(embed_one(position, item) for position, item in enumerate(items))

    async def _embed_text(self, model: Model, text: str, field: str, call: Call) -> pb.EmbedTextResult:
        try:
            embedded = await model.embed_text(check.text(text, self._settings, field=field), call)
        except Exception as error:
            return pb.EmbedTextResult(error=item_error(error, call))
        return pb.EmbedTextResult(
            embedding=convert.embedding(embedded.vector, model.manifest.space_id), text_truncated=embedded.truncated
        )

    async def _embed_image(self, model: Model, data: bytes, field: str, call: Call) -> pb.EmbedImageResult:
        try:
            picture = await model.decode(check.image_data(data, self._settings, field=field), call, thumbnail=False)
            vector = await model.embed_picture(picture.pixels, call)
        except Exception as error:
            return pb.EmbedImageResult(error=item_error(error, call))
        return pb.EmbedImageResult(embedding=convert.embedding(vector, model.manifest.space_id))
