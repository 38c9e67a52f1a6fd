"""Milvus Lite with all that it acknowledges on the disk, so that a power cut takes nothing of it away.

By itself it leaves to the kernel when that happens, and deletes its log before what replaces it is there: a power cut
may take much more than the last seconds, and leave files behind that it cannot open.
"""

import json
import os
from pathlib import Path
from typing import Any

import milvus_lite.adapter.grpc.server
import milvus_lite.engine.collection
from milvus_lite.db import MilvusLite
from milvus_lite.index.brute_force import BruteForceIndex
from milvus_lite.storage.manifest import Manifest
from milvus_lite.storage.wal import WAL


def install() -> None:
    """Have Milvus Lite use what is here, in this whole process."""
    milvus_lite.adapter.grpc.server.MilvusLite = DurableLite
    milvus_lite.engine.collection.Manifest = DurableManifest
    milvus_lite.engine.collection.WAL = DurableLog
    # The file would be a copy of the segment's vectors; one that was cut off bars the collection from being opened.
    BruteForceIndex.save = lambda self, path: None


class DurableLog(WAL):  # type: ignore[misc]
    """A log that is on the disk when a write returns."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options, sync_mode="batch")
        self._folder = Path(self.wal_dir)
        # What a killed process left behind is read from now on, and was perhaps not acknowledged.
        for path in [*self._folder.iterdir(), self._folder, self._folder.parent]:
            _sync(path)

    def write_insert(self, record_batch: Any) -> None:
        """Append rows."""
        new = self.data_path is None
        super().write_insert(record_batch)
        if new:
            _sync(self._folder)

    def write_delete(self, record_batch: Any) -> None:
        """Append deletes."""
        new = self.delta_path is None
        super().write_delete(record_batch)
        if new:
            _sync(self._folder)


class DurableManifest(Manifest):  # type: ignore[misc]
    """Names files that are on the disk: once it is saved, the log or the segments that they replace are deleted."""

    def add_data_file(self, partition: str, filename: str) -> None:
        """Name a file of rows."""
        self._sync_file(partition, filename)
        super().add_data_file(partition, filename)

    def add_delta_file(self, partition: str, filename: str) -> None:
        """Name a file of deletes."""
        self._sync_file(partition, filename)
        super().add_delta_file(partition, filename)

    def _sync_file(self, partition: str, filename: str) -> None:
        path = Path(self._data_dir, "partitions", partition, filename)
        while path.is_relative_to(self._data_dir):
            _sync(path)
            path = path.parent


class DurableLite(MilvusLite):  # type: ignore[misc]
    """An alias, which makes a collection live, is on the disk when that is acknowledged, as is what it names."""

    def __init__(self, data_dir: str) -> None:
        super().__init__(data_dir)
        folder = Path(data_dir)
        _sync(folder)
        _sync(folder.parent)

    def _save_aliases(self, database_name: str = "default") -> None:
        _sync(Path(self._collections_root(database_name)))
        path = Path(self._aliases_path(database_name))
        temporary = path.with_suffix(".tmp")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(self._aliases(database_name), file)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
