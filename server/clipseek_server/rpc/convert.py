"""From the domain's types to messages."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from clipseek.v1 import admin_service_pb2, collection_service_pb2, image_pb2
from clipseek_server.catalog.collections import CollectionView
from clipseek_server.catalog.inserts import Inserted, Outcome
from clipseek_server.catalog.interfaces import Model
from clipseek_server.catalog.rebuilds import Phase, Progress
from clipseek_server.catalog.views import ImageView
from clipseek_server.index.records import CollectionInfo, Effort
from clipseek_server.telemetry import Call, Stage

Found = TypeVar("Found")
Converted = TypeVar("Converted")

MOST_AT_ONCE = 32
"""Records that are converted on the event loop."""

OUTCOMES = {
    Outcome.CREATED: image_pb2.INSERT_OUTCOME_CREATED,
    Outcome.UPDATED: image_pb2.INSERT_OUTCOME_UPDATED,
    Outcome.UNCHANGED: image_pb2.INSERT_OUTCOME_UNCHANGED,
}
_EFFORTS = {
    Effort.FAST: image_pb2.EFFORT_FAST,
    Effort.THOROUGH: image_pb2.EFFORT_THOROUGH,
    Effort.EXACT: image_pb2.EFFORT_EXACT,
}
_PHASES = {
    Phase.EMBEDDING: admin_service_pb2.REBUILD_PHASE_EMBEDDING,
    Phase.CHECKING: admin_service_pb2.REBUILD_PHASE_CHECKING,
    Phase.SWITCHING: admin_service_pb2.REBUILD_PHASE_SWITCHING,
    Phase.DROPPING: admin_service_pb2.REBUILD_PHASE_DROPPING,
    Phase.DONE: admin_service_pb2.REBUILD_PHASE_DONE,
    Phase.FAILED: admin_service_pb2.REBUILD_PHASE_FAILED,
}


def timestamp(micros: int) -> Timestamp:
    """From microseconds since the epoch."""
    message = Timestamp()
    message.FromMicroseconds(micros)
    return message


def duration(seconds: float) -> Duration:
    """From seconds."""
    message = Duration()
    message.FromNanoseconds(int(seconds * 1e9))
    return message


def timing(call: Call) -> image_pb2.Timing:
    """Where a call's time went so far."""
    return image_pb2.Timing(
        decode=duration(call.seconds.get(Stage.DECODE, 0)),
        queue=duration(call.seconds.get(Stage.QUEUE, 0)),
        inference=duration(call.seconds.get(Stage.INFERENCE, 0)),
        index=duration(call.seconds.get(Stage.INDEX, 0)),
        total=duration(call.elapsed),
        store=duration(call.seconds.get(Stage.STORE, 0)),
    )


def model_ref(model: Model) -> image_pb2.ModelRef:
    """A loaded model."""
    manifest = model.manifest
    return image_pb2.ModelRef(name=manifest.name, space_id=manifest.space_id, precision=manifest.precision)


def serving_model(model: Model | None, info: CollectionInfo) -> image_pb2.ModelRef:
    """The model that serves a collection; without a name when none is loaded."""
    if model is None:
        return image_pb2.ModelRef(space_id=info.space_id, precision=info.precision)
    return model_ref(model)


def embedding(vector: npt.NDArray[np.float32], space_id: str) -> image_pb2.Embedding:
    """A vector; protobuf takes a list three times as fast as an array."""
    return image_pb2.Embedding(values=vector.tolist(), space_id=space_id)


def image(view: ImageView) -> image_pb2.Image:
    """A stored picture."""
    record = view.record
    metadata = Struct()
    metadata.update(dict(record.metadata))
    return image_pb2.Image(
        image_id=record.image_id,
        content_sha256=record.content_sha256,
        collection=view.collection,
        metadata=metadata,
        width=record.width,
        height=record.height,
        media_type=record.media_type,
        size_bytes=record.size_bytes,
        create_time=timestamp(record.create_time),
        update_time=timestamp(record.update_time),
        thumbnail=view.thumbnail,
        embedding=embedding(view.vector, view.space_id) if view.vector is not None else None,
    )


def stored(inserted: Inserted) -> image_pb2.Image:
    """What an insert left behind."""
    return image(ImageView(inserted.record, inserted.collection, inserted.space_id))


def hit(found: tuple[ImageView, float]) -> image_pb2.Hit:
    """What a search found, and how near it is."""
    view, score = found
    return image_pb2.Hit(image=image(view), score=score)


async def many(one: Callable[[Found], Converted], found: Sequence[Found]) -> list[Converted]:
    """Convert each with ``one``, many of them on a thread: a record with a lot of metadata takes some 0.2 ms."""
    if len(found) <= MOST_AT_ONCE:
        return [one(each) for each in found]
    return await asyncio.to_thread(lambda: [one(each) for each in found])


def progress(state: Progress) -> admin_service_pb2.RebuildProgress:
    """How far a rebuild is."""
    return admin_service_pb2.RebuildProgress(
        rebuild_id=state.rebuild_id,
        phase=_PHASES[state.phase],
        images_done=state.images_done,
        images_total=state.images_total,
    )


def collection(view: CollectionView, rebuild: Progress | None) -> collection_service_pb2.Collection:
    """A collection, with the generation that a rebuild is making."""
    info = view.info
    generations = [collection_service_pb2.Generation(name=info.generation, live=True)]
    if rebuild is not None and rebuild.generation not in ("", info.generation):
        generations.append(
            collection_service_pb2.Generation(name=rebuild.generation, live=False, rebuild=progress(rebuild))
        )
    return collection_service_pb2.Collection(
        name=info.name,
        uid=info.uid,
        model=serving_model(view.model, info),
        dimension=info.dimension,
        image_count=view.image_count,
        create_time=timestamp(info.create_time),
        index=info.index,
        efforts=sorted(_EFFORTS[effort] for effort in info.efforts if effort in _EFFORTS),
        generations=generations,
    )
