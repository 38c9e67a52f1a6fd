"""Walks through a collection."""

from collections.abc import AsyncIterator

from clipseek_server.catalog.interfaces import CollectionIndex
from clipseek_server.index.records import Record
from clipseek_server.telemetry import Call


async def record_pages(collection: CollectionIndex, size: int, call: Call) -> AsyncIterator[list[Record]]:
    """All records in the order of their ids, at most ``size`` at a time, by STRONG reads."""
    after = ""
    while page := await collection.page(after, size, call, filter=None, strong=True):
        yield page
        after = page[-1].image_id
