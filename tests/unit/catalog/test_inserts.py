"""Two servers that write under the same id: each has locks of its own, and Milvus and the image store are shared."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipseek_server.catalog.collections import Collections
from clipseek_server.catalog.inserts import Inserts, NewImage, Outcome
from clipseek_server.catalog.models import Models
from clipseek_server.config import Settings
from clipseek_server.encoding.decoding import DecodePool
from clipseek_server.encoding.model import LoadedModel
from clipseek_server.images.folder import FolderStore
from clipseek_server.images.thumbnails import make_thumbnail
from clipseek_server.index.milvus import MilvusIndex
from clipseek_server.telemetry import Call
from pictures import picture


class Interrupted:
    """An image store in which something happens before the first size is known."""

    def __init__(self, store: FolderStore, meanwhile: Callable[[], Awaitable[object]]) -> None:
        self._store = store
        self._meanwhile: Callable[[], Awaitable[object]] | None = meanwhile

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def size(self, key: str) -> int | None:
        if self._meanwhile is not None:
            meanwhile, self._meanwhile = self._meanwhile, None
            await meanwhile()
        return await self._store.size(key)


@pytest.fixture
async def make_server(bundle: Path, tmp_path: Path) -> AsyncIterator[Callable[..., Inserts]]:
    settings = Settings(bundles=[bundle], data_dir=tmp_path, threads=1)
    pool = DecodePool(1, max_pixels=10**6, max_queue=8)
    model = LoadedModel.load(bundle, settings, pool, thumbnail=make_thumbnail)
    index = await MilvusIndex.connect(settings)
    store = FolderStore(tmp_path / "images")

    def make(meanwhile: Callable[[], Awaitable[object]] | None = None) -> Inserts:
        seen: Any = store if meanwhile is None else Interrupted(store, meanwhile)
        return Inserts(Collections(index, Models([model]), seen, auto_create=True), seen)

    make.index = index  # type: ignore[attr-defined]
    yield make
    await index.close()
    await store.close()
    await model.close()
    await pool.close()


async def test_a_row_is_never_made_of_two_pictures(make_server: Any) -> None:
    other = make_server()
    await other.insert("shared", NewImage(picture(1), "same", {"n": 0}), Call())
    # The one has read the record of the first picture, to change its metadata; the other stores a second picture.
    one = make_server(lambda: other.insert("shared", NewImage(picture(2), "same", {"n": 2}), Call()))
    inserted = await one.insert("shared", NewImage(picture(1), "same", {"n": 1}), Call())
    assert inserted.outcome is Outcome.UPDATED

    await make_server().insert("shared", NewImage(picture(1), "alone"), Call())
    collection = await make_server.index.open("shared")
    rows = await collection.get_rows(["same", "alone"], Call())
    assert rows["same"].record.content_sha256 == rows["alone"].record.content_sha256
    assert rows["same"].record.metadata == {"n": 1}
    np.testing.assert_array_equal(rows["same"].vector, rows["alone"].vector)
