"""Walks through a collection."""

from collections.abc import AsyncIterator, Sequence

from clipseek_server.catalog.interfaces import CollectionIndex
from clipseek_server.images.blobs import split_blob_key
from clipseek_server.index.records import Record
from clipseek_server.telemetry import Call


async def record_pages(collection: CollectionIndex, size: int, call: Call) -> AsyncIterator[list[Record]]:
    """All records in the order of their ids, at most ``size`` at a time, by STRONG reads."""
    after = ""
    while page := await collection.page(after, size, call, filter=None, strong=True):
        yield page
        after = page[-1].image_id


async def unnamed_keys(collection: CollectionIndex, keys: Sequence[str], call: Call) -> list[str]:
    """The keys of a collection's blobs that no record names. The mark of a drop that failed is one of them."""
    owners = {key: split_blob_key(key) for key in keys}
    image_ids = list({image_id for _, image_id, _ in owners.values() if image_id})
    records = await collection.get(image_ids, call)
    named = {record.blob_key for record in records.values()}
    return [key for key, (_, _, blob_key) in owners.items() if blob_key not in named]
