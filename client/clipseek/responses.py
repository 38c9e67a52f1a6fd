"""The contract's messages, as results."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from clipseek import results
from clipseek.errors import from_item_error
from clipseek.requests import InsertItem
from clipseek.v1 import (
    admin_service_pb2,
    collection_service_pb2,
    embedding_service_pb2,
    image_pb2,
    info_service_pb2,
    search_service_pb2,
)

if TYPE_CHECKING:
    from google.protobuf.internal.enum_type_wrapper import _EnumTypeWrapper

_LARGEST_INT = 2**53
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def image(message: image_pb2.Image) -> results.Image:
    """A record."""
    return results.Image(
        image_id=message.image_id,
        collection=message.collection,
        width=message.width,
        height=message.height,
        media_type=message.media_type,
        size_bytes=message.size_bytes,
        metadata=metadata(message.metadata),
        created=_datetime(message.create_time),
        updated=_datetime(message.update_time),
        content_sha256=message.content_sha256,
        thumbnail=message.thumbnail or None,
        embedding=embedding(message.embedding) if message.HasField("embedding") else None,
    )


def metadata(message: Struct) -> dict[str, results.Json]:
    """Metadata as a dict; whole numbers become ints, which is what they were in nearly every case."""
    return {key: _json(value) for key, value in message.fields.items()}


def embedding(message: image_pb2.Embedding) -> results.Embedding:
    """A vector."""
    return results.Embedding(values=tuple(message.values), space_id=message.space_id)


def model_ref(message: image_pb2.ModelRef) -> results.ModelRef:
    """The model that answered."""
    return results.ModelRef(name=message.name, space_id=message.space_id, precision=message.precision)


def timing(message: image_pb2.Timing) -> results.Timing:
    """Seconds by stage."""
    return results.Timing(
        decode=_seconds(message.decode),
        queue=_seconds(message.queue),
        inference=_seconds(message.inference),
        index=_seconds(message.index),
        store=_seconds(message.store),
        total=_seconds(message.total),
    )


def inserted(message: search_service_pb2.InsertResponse) -> results.Inserted:
    """What an insert did."""
    return results.Inserted(
        image=image(message.image),
        outcome=_word(image_pb2.InsertOutcome, message.outcome),
        model=model_ref(message.model),
        timing=timing(message.timing),
    )


def bulk_result(
    message: search_service_pb2.BulkInsertResult, item: InsertItem, *, request_id: str
) -> results.BulkResult:
    """What became of one item of a stream."""
    if message.HasField("error"):
        return results.BulkResult(message.sequence, item, error=from_item_error(message.error, request_id=request_id))
    return results.BulkResult(
        message.sequence,
        item,
        image_id=message.success.image_id,
        outcome=_word(image_pb2.InsertOutcome, message.success.outcome),
    )


def search_result(
    message: search_service_pb2.SearchByTextResponse
    | search_service_pb2.SearchByImageResponse
    | search_service_pb2.SearchResponse,
) -> results.SearchResult:
    """The hits of any search."""
    return results.SearchResult(
        hits=tuple(results.Hit(image=image(hit.image), score=hit.score) for hit in message.hits),
        model=model_ref(message.model),
        timing=timing(message.timing),
        text_truncated=not isinstance(message, search_service_pb2.SearchByImageResponse) and message.text_truncated,
    )


def embedded(
    messages: Iterable[embedding_service_pb2.EmbedTextResult] | Iterable[embedding_service_pb2.EmbedImageResult],
    *,
    request_id: str,
) -> list[results.Embedded]:
    """One result an item."""
    return [
        results.Embedded(error=from_item_error(message.error, request_id=request_id))
        if message.HasField("error")
        else results.Embedded(
            embedding=embedding(message.embedding),
            text_truncated=isinstance(message, embedding_service_pb2.EmbedTextResult) and message.text_truncated,
        )
        for message in messages
    ]


def collection(message: collection_service_pb2.Collection) -> results.Collection:
    """A collection."""
    return results.Collection(
        name=message.name,
        image_count=message.image_count,
        model=model_ref(message.model),
        dimension=message.dimension,
        index=message.index,
        efforts=tuple(_word(image_pb2.Effort, effort) for effort in message.efforts),
        created=_datetime(message.create_time),
        uid=message.uid,
        generations=tuple(
            results.Generation(
                name=generation.name,
                live=generation.live,
                rebuild=rebuild_progress(generation.rebuild) if generation.HasField("rebuild") else None,
            )
            for generation in message.generations
        ),
    )


def rebuild_progress(message: admin_service_pb2.RebuildProgress) -> results.RebuildProgress:
    """How far a rebuild is."""
    return results.RebuildProgress(
        rebuild_id=message.rebuild_id,
        phase=_word(admin_service_pb2.RebuildPhase, message.phase),
        images_done=message.images_done,
        images_total=message.images_total,
    )


def check_progress(message: admin_service_pb2.CheckCollectionResponse) -> results.CheckProgress:
    """How far a check is, and what it found."""
    return results.CheckProgress(
        differences=tuple(
            results.Difference(
                kind=_word(admin_service_pb2.DifferenceKind, difference.kind),
                image_id=difference.image_id,
                message=difference.message,
            )
            for difference in message.differences
        ),
        images_checked=message.images_checked,
        images_total=message.images_total,
    )


def server_info(message: info_service_pb2.GetServerInfoResponse) -> results.ServerInfo:
    """What a server is and takes."""
    return results.ServerInfo(
        version=message.version,
        models=tuple(_model(model) for model in message.models),
        index=results.IndexInfo(
            engine=message.index.engine,
            engine_version=message.index.engine_version,
            index_type=message.index.index_type,
            index_params=dict(message.index.index_params),
            default_consistency=message.index.default_consistency,
        ),
        limits=results.Limits(
            **{name: _number(getattr(message.limits, name)) for name in results.Limits.__dataclass_fields__}
        ),
        media_types=tuple(message.media_types),
    )


def _model(message: info_service_pb2.Model) -> results.Model:
    return results.Model(
        name=message.name,
        description=message.description,
        source=message.source,
        space_id=message.space_id,
        dimension=message.dimension,
        precision=message.precision,
        context_length=message.context_length,
        logit_scale=message.logit_scale,
        vision_providers=tuple(message.vision_providers),
        text_providers=tuple(message.text_providers),
        fp32_agreement=message.fp32_agreement,
    )


def _json(message: Value) -> results.Json:
    match message.WhichOneof("kind"):
        case "bool_value":
            return message.bool_value
        case "number_value":
            number = message.number_value
            return int(number) if number.is_integer() and abs(number) <= _LARGEST_INT else number
        case "string_value":
            return message.string_value
        case "list_value":
            return [_json(value) for value in message.list_value.values]
        case "struct_value":
            return {key: _json(value) for key, value in message.struct_value.fields.items()}
        case _:
            return None


def _datetime(message: Timestamp) -> datetime:
    # Ten of them in an answer: protobuf's own conversion takes three times as long.
    return _EPOCH + timedelta(seconds=message.seconds, microseconds=message.nanos // 1000)


def _number(value: Any) -> Any:
    return _seconds(value) if isinstance(value, Duration) else value


def _seconds(message: Duration) -> float:
    return message.seconds + message.nanos / 1e9


def _word(enum: "_EnumTypeWrapper[Any]", number: int) -> str:
    """An enum's value in words: ``INSERT_OUTCOME_CREATED`` is ``created``; an unknown, newer one is its number."""
    names = {value: name for name, value in enum.items()}
    prefix = names[0].removesuffix("UNSPECIFIED")
    return names.get(number, str(number)).removeprefix(prefix).lower()
