"""EmbeddingService."""

from clipseek.v1 import embedding_service_pb2 as pb
from clipseek_server.catalog.concurrency import gather
from clipseek_server.catalog.interfaces import Model
from clipseek_server.catalog.models import Models
from clipseek_server.config import Settings
from clipseek_server.errors import InvalidField
from clipseek_server.rpc import convert
from clipseek_server.rpc import validation as check
from clipseek_server.rpc.errors import item_error
from clipseek_server.telemetry import Call


class EmbeddingService:
    """Makes vectors and stores nothing."""

    with_pictures = frozenset({"EmbedImage"})

    def __init__(self, models: Models, settings: Settings) -> None:
        self._models = models
        self._settings = settings

    async def embed_text(self, request: pb.EmbedTextRequest, call: Call) -> pb.EmbedTextResponse:
        """EmbedText."""
        self._check_count(len(request.texts), "texts")
        model = self._models.named(request.model)
        results = await gather(
            self._embed_text(model, text, f"texts[{position}]", call) for position, text in enumerate(request.texts)
        )
        return pb.EmbedTextResponse(results=results, model=convert.model_ref(model), timing=convert.timing(call))

    async def embed_image(self, request: pb.EmbedImageRequest, call: Call) -> pb.EmbedImageResponse:
        """EmbedImage."""
        self._check_count(len(request.images), "images")
        model = self._models.named(request.model)
        results = await gather(
            self._embed_image(model, data, f"images[{position}]", call) for position, data in enumerate(request.images)
        )
        return pb.EmbedImageResponse(results=results, model=convert.model_ref(model), timing=convert.timing(call))

    def _check_count(self, number: int, field: str) -> None:
        limit = self._settings.max_batch_items
        if not 1 <= number <= limit:
            raise InvalidField(f"1 to {limit} items can be given, not {number}", field=field)

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
