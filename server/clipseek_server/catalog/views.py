"""Records with what a read mask asks for beside them."""

from collections.abc import Sequence
from dataclasses import dataclass

from clipseek_server.catalog.concurrency import gather
from clipseek_server.catalog.interfaces import CollectionIndex, ImageStore
from clipseek_server.errors import ImageNotFound
from clipseek_server.images.blobs import thumbnail_key
from clipseek_server.index.records import Record, Vector
from clipseek_server.telemetry import Call


@dataclass(frozen=True, slots=True)
class ReadMask:
    """What to read beside the records."""

    thumbnail: bool = False
    embedding: bool = False


NOTHING_MORE = ReadMask()


@dataclass(frozen=True, slots=True)
class ImageView:
    """A record as users see it.

    Attributes:
        record: The record.
        collection: The name of its collection.
        space_id: The space of its vector.
        thumbnail: JPEG; empty when not asked for or not there.
        vector: The stored embedding; ``None`` when not asked for.
    """

    record: Record
    collection: str
    space_id: str
    thumbnail: bytes = b""
    vector: Vector | None = None


async def view_images(
    records: Sequence[Record],
    mask: ReadMask,
    collection: CollectionIndex,
    store: ImageStore,
    call: Call,
    *,
    strong: bool,
) -> list[ImageView]:
    """Add to records what the mask asks for; a record that is deleted meanwhile stays, without a vector."""
    rows = await collection.get_rows([r.image_id for r in records], call, strong=strong) if mask.embedding else {}
    thumbnails: Sequence[bytes | None] = [None] * len(records)
    if mask.thumbnail:
        thumbnails = await gather(store.get(thumbnail_key(record.blob_key)) for record in records)
    return [
        ImageView(
            record=record,
            collection=collection.info.name,
            space_id=collection.info.space_id,
            thumbnail=thumbnail or b"",
            vector=rows[record.image_id].vector if record.image_id in rows else None,
        )
        for record, thumbnail in zip(records, thumbnails, strict=True)
    ]


def image_not_found(collection: str, image_id: str, *, field: str = "image_id") -> ImageNotFound:
    """The error for an id without a record; ``field`` is where it stood in the request."""
    return ImageNotFound(
        f"no image {image_id!r} in collection {collection!r}", field=field, collection=collection, image_id=image_id
    )
