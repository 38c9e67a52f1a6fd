"""Insert: the picture's bytes into the store, its vector and record into the index, once and in this order."""

import asyncio
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any

from clipseek_server.catalog.collections import Collections
from clipseek_server.catalog.concurrency import gather, uninterrupted
from clipseek_server.catalog.interfaces import CollectionIndex, ImageStore, Model
from clipseek_server.errors import ImageExists, InvalidField
from clipseek_server.images.blobs import new_blob_key, thumbnail_key
from clipseek_server.index.records import Record, Row, now_micros
from clipseek_server.telemetry import Call, Stage

_HASH_LIKE = re.compile(r"[0-9a-fA-F]{64}")
_HASH_ON_THE_LOOP_BYTES = 64 * 1024


class OnExists(Enum):
    """As ``clipseek.v1.OnExists``."""

    REPLACE = auto()
    KEEP = auto()
    FAIL = auto()


class Outcome(Enum):
    """As ``clipseek.v1.InsertOutcome``."""

    CREATED = auto()
    UPDATED = auto()
    UNCHANGED = auto()


@dataclass(frozen=True, slots=True)
class NewImage:
    """A picture to store.

    Attributes:
        data: The picture's file.
        image_id: ``None`` means the hash of the bytes.
        metadata: ``None`` leaves what is stored.
        on_exists: What to do when the id is taken.
    """

    data: bytes
    image_id: str | None = None
    metadata: Mapping[str, Any] | None = None
    on_exists: OnExists = OnExists.REPLACE


@dataclass(frozen=True, slots=True)
class Inserted:
    """What an insert did."""

    record: Record
    outcome: Outcome
    collection: str
    space_id: str
    model: Model


class Inserts:
    """Inserts pictures."""

    def __init__(self, collections: Collections, store: ImageStore) -> None:
        self._collections = collections
        self._store = store

    async def insert(self, collection: str, new: NewImage, call: Call) -> Inserted:
        """Store a picture; on return it is durable and searchable.

        Raises:
            InvalidField: The id looks like a hash but is not the picture's.
            InvalidImage, ImageTooLarge: It cannot be decoded.
            ImageExists: The id is taken and ``on_exists`` is FAIL.
            SpaceMismatch: No loaded model serves the collection.
            CollectionHeld: The collection is being rebuilt.
        """
        call.check_deadline()
        digest = await _sha256(new.data)
        image_id = new.image_id or digest
        if _HASH_LIKE.fullmatch(image_id) and image_id != digest:
            raise InvalidField(
                "an image_id of 64 hex digits must be the SHA-256 of the picture's bytes, in lower case",
                field="image_id",
            )

        async def attempt(index: CollectionIndex) -> Inserted:
            model = self._collections.models.required(index.info)
            async with self._collections.locks.hold((index.info.uid, image_id)):
                record, outcome = await self._insert_locked(index, model, image_id, digest, new, call)
            return Inserted(record, outcome, index.info.name, index.info.space_id, model)

        return await self._collections.write(collection, attempt, create=True)

    async def _insert_locked(
        self, index: CollectionIndex, model: Model, image_id: str, digest: str, new: NewImage, call: Call
    ) -> tuple[Record, Outcome]:
        existing = (await index.get([image_id], call)).get(image_id)
        if existing is not None:
            if new.on_exists is OnExists.FAIL:
                raise ImageExists(
                    f"image {image_id!r} exists already",
                    field="image_id",
                    image_id=image_id,
                    content_sha256=existing.content_sha256,
                )
            if existing.content_sha256 == digest:
                return await self._insert_again(index, model, existing, new, call)
            if new.on_exists is OnExists.KEEP:
                return existing, Outcome.UNCHANGED

        picture = await model.decode(new.data, call, thumbnail=True)
        vector = await model.embed_picture(picture.pixels, call)
        blob_key = await self._store_bytes(index, image_id, digest, new.data, picture.thumbnail, call)
        now = now_micros()
        record = Record(
            image_id=image_id,
            content_sha256=digest,
            blob_key=blob_key,
            media_type=picture.media_type,
            width=picture.width,
            height=picture.height,
            size_bytes=len(new.data),
            create_time=existing.create_time if existing else now,
            update_time=now,
            metadata=new.metadata or {},
        )
        await uninterrupted(index.upsert(Row(record, vector), call))
        return record, Outcome.UPDATED if existing else Outcome.CREATED

    async def _insert_again(
        self, index: CollectionIndex, model: Model, existing: Record, new: NewImage, call: Call
    ) -> tuple[Record, Outcome]:
        """The same bytes under the same id: nothing is embedded again."""
        record = existing
        if await self._store.size(existing.blob_key) != existing.size_bytes:  # missing, or cut off
            picture = await model.decode(new.data, call, thumbnail=True)
            key = await self._store_bytes(
                index, existing.image_id, existing.content_sha256, new.data, picture.thumbnail, call
            )
            record = replace(record, blob_key=key, update_time=now_micros())
        if new.on_exists is OnExists.REPLACE and new.metadata is not None and new.metadata != record.metadata:
            record = record.with_metadata(new.metadata, update_time=now_micros())
        if record is existing:
            return existing, Outcome.UNCHANGED
        row = (await index.get_rows([existing.image_id], call)).get(existing.image_id)
        if row is None or row.record != existing:  # another server over the same Milvus wrote or deleted meanwhile
            return await self._insert_locked(index, model, existing.image_id, existing.content_sha256, new, call)
        await uninterrupted(index.upsert(Row(record, row.vector), call))
        return record, Outcome.UPDATED

    async def _store_bytes(
        self, index: CollectionIndex, image_id: str, digest: str, data: bytes, thumbnail: bytes, call: Call
    ) -> str:
        call.check_deadline()
        key = new_blob_key(index.info.uid, image_id, digest)
        with call.stage(Stage.STORE):
            await gather([self._store.put(key, data), self._store.put(thumbnail_key(key), thumbnail)])
        return key


async def _sha256(data: bytes) -> str:
    if len(data) <= _HASH_ON_THE_LOOP_BYTES:
        return hashlib.sha256(data).hexdigest()
    return (await asyncio.to_thread(hashlib.sha256, data)).hexdigest()
