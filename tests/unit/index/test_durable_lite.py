"""Milvus Lite after a power cut, on a disk that forgets whatever was not synced."""

import asyncio
import json
import os
import shutil
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pymilvus import MilvusClient

from clipseek_server.index.collection import MilvusCollection
from clipseek_server.index.metadata import decode
from clipseek_server.index.milvus import MilvusIndex
from clipseek_server.telemetry import Call
from index_rows import lite_settings, make, row
from unsynced_disk import UnsyncedDisk

FLUSHES = 4
"""Enough for a compaction."""


class Cuts:
    """Copies of a Milvus Lite's folder at moments when the power might have been cut.

    Attributes:
        possible: What each id may hold now: what was acknowledged last, or begun since; ``None`` is nothing.
        taken: The copies, and what was possible then.
    """

    def __init__(self, folder: Path) -> None:
        self.possible: dict[str, set[int | None]] = defaultdict(lambda: {None})
        self.taken: list[tuple[Path, dict[str, set[int | None]]]] = []
        self._folder = folder

    def take(self) -> None:
        """Cut the power now."""
        for names_synced in (False, True):
            copy = self._folder / f"cut-{len(self.taken)}"
            self.disk.cut(copy, names_synced=names_synced)
            self.taken.append((copy, {image_id: set(outcomes) for image_id, outcomes in self.possible.items()}))

    @asynccontextmanager
    async def index(self, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MilvusIndex]:
        """An index that is cut off before each sync."""
        root = self._folder / "data"
        root.mkdir()
        self.disk = UnsyncedDisk(root, monkeypatch, self.take)
        index = await MilvusIndex.connect(lite_settings(root))
        try:
            yield index
        finally:
            monkeypatch.undo()
            self.disk.close()
            await index.close()

    async def upsert(self, collection: MilvusCollection, image_id: str, number: int) -> None:
        self.possible[image_id].add(number)
        await collection.upsert(row(image_id, number, number=number), Call())
        self.possible[image_id] = {number}

    async def delete(self, collection: MilvusCollection, image_id: str) -> None:
        self.possible[image_id].add(None)
        await collection.delete([image_id], Call())
        self.possible[image_id] = {None}

    def check(self) -> None:
        """Assert that every copy can be opened, and that each id holds what it may."""
        for copy, possible in self.taken:
            found = _numbers(copy / "milvus")
            for image_id, outcomes in possible.items():
                assert found.get(image_id) in outcomes, (copy.name, image_id)


async def test_a_power_cut_takes_nothing_that_was_acknowledged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuts = Cuts(tmp_path)
    async with cuts.index(monkeypatch) as index:
        collection = await make(index)
        for number in range(FLUSHES):
            await cuts.upsert(collection, f"new-{number}", number)
            await cuts.upsert(collection, "again", number)
            await cuts.delete(collection, "again")
            await _flush(index, collection)
        cuts.take()
        assert len(_files(tmp_path / "data", "*.parquet")) < 2 * FLUSHES
    # What the copies are opened with need not be on a disk.
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    cuts.check()


async def test_what_a_killed_process_logged_is_synced_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = await MilvusIndex.connect(lite_settings(tmp_path / "killed"))
    collection = await make(index)
    await collection.upsert(row("a", 7), Call())
    shutil.copytree(tmp_path / "killed", tmp_path / "left")
    await index.close()
    logs = _files(tmp_path / "left", "wal_*")
    assert logs
    synced: set[Path] = set()
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.add(Path(f"/proc/self/fd/{file}").readlink()), sync(file)))
    index = await MilvusIndex.connect(lite_settings(tmp_path / "left"))
    assert await (await index.open("default")).get(["a"], Call())
    assert logs < synced
    await index.close()


async def test_no_file_is_written_that_bars_a_collection_when_it_is_cut_off(tmp_path: Path) -> None:
    index = await MilvusIndex.connect(lite_settings(tmp_path))
    collection = await make(index)
    await collection.upsert(row("a"), Call())
    await _flush(index, collection)
    await index.close()
    assert _files(tmp_path, "*.parquet")
    assert not _files(tmp_path, "*.idx")


async def _flush(index: MilvusIndex, collection: MilvusCollection) -> None:
    """Have Milvus Lite write a segment, and compact."""
    connection = index._connection
    await connection.call_catalogue(MilvusClient.flush, collection.info.generation)
    (opened,) = connection._lite._database._collections.values()
    await asyncio.to_thread(opened._wait_for_bg)


def _files(folder: Path, pattern: str) -> set[Path]:
    return set(folder.rglob(pattern))


def _numbers(folder: Path) -> dict[str, int]:
    """What the rows of the collection ``default`` say, by id; none where there is no such collection."""
    # Not before an index was opened: it is configured when it is first imported.
    from milvus_lite.db import MilvusLite

    database = MilvusLite(str(folder))
    try:
        if not database.has_collection("default"):
            return {}
        collection = database.get_collection("default")
        collection.load()
        found: list[dict[str, Any]] = collection.query(expr='image_id != ""', output_fields=["metadata"])
        return {each["image_id"]: decode(json.loads(each["metadata"]))["number"] for each in found}
    finally:
        database.close()
