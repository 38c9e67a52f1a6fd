"""Reading, changing and deleting what is stored."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.struct_pb2 import Struct

from clipseek_server.catalog.collections import Collections
from clipseek_server.catalog.concurrency import uninterrupted
from clipseek_server.catalog.interfaces import CollectionIndex, ImageStore
from clipseek_server.catalog.page_tokens import PagePosition
from clipseek_server.catalog.views import NOTHING_MORE, ImageView, ReadMask, image_not_found, view_images
from clipseek_server.errors import ImageDamaged, InvalidField
from clipseek_server.index.filters import fingerprint, parse_filter
from clipseek_server.index.records import Row, now_micros
from clipseek_server.telemetry import Call

CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class MetadataChange:
    """A change of metadata.

    Attributes:
        values: The new values.
        keys: Only these top-level keys change, and one without a value is removed; ``None`` replaces all.
    """

    values: Mapping[str, Any]
    keys: frozenset[str] | None = None

    def applied_to(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """The metadata after the change."""
        if self.keys is None:
            return dict(self.values)
        kept = {key: value for key, value in metadata.items() if key not in self.keys}
        return kept | {key: value for key, value in self.values.items() if key in self.keys}


class Images:
    """Reads, changes and deletes pictures by id, and lists them."""

    def __init__(self, collections: Collections, store: ImageStore, *, max_metadata_bytes: int) -> None:
        self._collections = collections
        self._store = store
        self._max_metadata_bytes = max_metadata_bytes

    async def get(
        self, collection: str, image_ids: Sequence[str], mask: ReadMask, call: Call, *, strong: bool
    ) -> tuple[list[ImageView], list[str]]:
        """The pictures that exist and the ids that do not, each in the order of the request."""
        wanted = list(dict.fromkeys(image_ids))

        async def read(index: CollectionIndex) -> tuple[list[ImageView], list[str]]:
            records = await index.get(wanted, call, strong=strong)
            found = [records[image_id] for image_id in wanted if image_id in records]
            missing = [image_id for image_id in wanted if image_id not in records]
            return await view_images(found, mask, index, self._store, call, strong=strong), missing

        return await self._collections.read(collection, read)

    async def get_one(self, collection: str, image_id: str, mask: ReadMask, call: Call, *, strong: bool) -> ImageView:
        """One picture; ``ImageNotFound`` without one."""
        found, _ = await self.get(collection, [image_id], mask, call, strong=strong)
        if not found:
            raise image_not_found(collection, image_id)
        return found[0]

    async def update(self, collection: str, image_id: str, change: MetadataChange, call: Call) -> ImageView:
        """Change a picture's metadata and leave the picture and its vector alone.

        Raises:
            ImageNotFound: There is none of that id.
            InvalidField: The metadata would grow too large.
        """

        async def write(index: CollectionIndex) -> ImageView:
            async with self._collections.locks.hold((index.info.uid, image_id)):
                row = (await index.get_rows([image_id], call)).get(image_id)
                if row is None:
                    raise image_not_found(collection, image_id)
                metadata = change.applied_to(row.record.metadata)
                check_metadata_size(_struct(metadata), self._max_metadata_bytes)
                record = row.record
                if metadata != record.metadata:
                    record = record.with_metadata(metadata, update_time=now_micros())
                    await uninterrupted(index.upsert(Row(record, row.vector), call))
            return ImageView(record, index.info.name, index.info.space_id)

        return await self._collections.write(collection, write)

    async def delete(self, collection: str, image_ids: Sequence[str], call: Call) -> tuple[int, list[str]]:
        """Delete pictures; returns how many there were and the ids that had none. Their bytes go with the sweep."""
        wanted = list(dict.fromkeys(image_ids))

        async def write(index: CollectionIndex) -> tuple[int, list[str]]:
            async with self._collections.locks.hold_all(index.info.uid, wanted):
                existing = await index.get(wanted, call)
                if existing:
                    await uninterrupted(index.delete(list(existing), call))
            return len(existing), [image_id for image_id in wanted if image_id not in existing]

        return await self._collections.write(collection, write)

    async def page(
        self, collection: str, filter_text: str, page_size: int, token: str, mask: ReadMask, call: Call, *, strong: bool
    ) -> tuple[list[ImageView], str]:
        """A page in the order of the ids, and the token of the next one (empty at the end).

        Raises:
            InvalidField: The token belongs to another collection or filter, or is none.
            InvalidFilter: The filter cannot be parsed.
        """
        condition = parse_filter(filter_text)
        mark = fingerprint(condition) if condition is not None else ""

        async def read(index: CollectionIndex) -> tuple[list[ImageView], str]:
            after = PagePosition.parse(token, uid=index.info.uid, filter_mark=mark).after if token else ""
            records = await index.page(after, page_size + 1, call, filter=condition, strong=strong)
            page = records[:page_size]
            more = len(records) > page_size
            next_token = PagePosition(page[-1].image_id, index.info.uid, mark).format() if more else ""
            return await view_images(page, mask, index, self._store, call, strong=strong), next_token

        return await self._collections.read(collection, read)

    async def download(
        self, collection: str, image_id: str, call: Call, *, strong: bool
    ) -> tuple[ImageView, AsyncIterator[bytes]]:
        """The record and the original bytes in chunks of at most 1 MiB.

        Raises:
            ImageNotFound: There is none of that id.
            ImageDamaged: The bytes are missing, or not as many as they were.
        """
        image = await self.get_one(collection, image_id, NOTHING_MORE, call, strong=strong)
        size = await self._store.size(image.record.blob_key)
        if size != image.record.size_bytes:
            lost = "missing" if size is None else f"damaged ({size} instead of {image.record.size_bytes})"
            raise ImageDamaged(
                f"the bytes of image {image_id!r} are {lost}; insert it again to mend it", image_id=image_id
            )
        return image, self._store.chunks(image.record.blob_key, CHUNK_BYTES)


def check_metadata_size(metadata: Struct, limit: int) -> None:
    """Raise ``InvalidField`` when the metadata is longer than ``limit`` bytes on the wire: so answers hold it."""
    size = metadata.ByteSize()
    if size > limit:
        raise InvalidField(f"the metadata has {size} bytes on the wire, but {limit} are allowed", field="metadata")


def _struct(metadata: Mapping[str, Any]) -> Struct:
    message = Struct()
    message.update(metadata)
    return message
