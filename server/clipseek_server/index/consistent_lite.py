"""Milvus Lite whose reads see the rows of one moment.

By itself it takes what is in memory and what is in files one after the other, while a flush moves rows from there to
here: a read beside one may miss rows, or find what was replaced or deleted.
"""

import copy
from typing import Any

import milvus_lite.db
from milvus_lite.engine.collection import Collection
from milvus_lite.storage.memtable import MemTable


def install() -> None:
    """Have Milvus Lite use what is here, in this whole process."""
    milvus_lite.db.Collection = ConsistentCollection


class ConsistentCollection(Collection):  # type: ignore[misc]
    """Reads a copy of its state: small ones of what is in memory, and references to files that nobody changes."""

    def get(self, *args: Any, **options: Any) -> list[dict[str, Any]]:
        """Rows by id."""
        rows: list[dict[str, Any]] = Collection.get(self._at_this_moment(), *args, **options)
        return rows

    def query(self, *args: Any, **options: Any) -> list[dict[str, Any]]:
        """Rows by condition."""
        rows: list[dict[str, Any]] = Collection.query(self._at_this_moment(), *args, **options)
        return rows

    def search(self, *args: Any, **options: Any) -> list[list[dict[str, Any]]]:
        """Rows by vector."""
        hits: list[list[dict[str, Any]]] = Collection.search(self._at_this_moment(), *args, **options)
        return hits

    def _num_entities(self, partition_names: list[str] | None) -> int:
        return int(Collection._num_entities(self._at_this_moment(), partition_names))

    def _trigger_flush(self) -> None:
        # From before the rows leave memory until they are in a file.
        with self._maintenance_lock:
            super()._trigger_flush()

    def _at_this_moment(self) -> Collection:
        moment = copy.copy(self)
        with self._maintenance_lock:
            moment._memtable = _frozen(self._memtable)
            files = self._read_snapshot()
        moment._read_snapshot = lambda: files
        return moment


def _frozen(memtable: MemTable) -> MemTable:
    """What it holds now. Its batches are only ever added to."""
    frozen = copy.copy(memtable)
    with memtable._lock:
        frozen._pk_index = memtable._pk_index.copy()
        frozen._delete_index = memtable._delete_index.copy()
    return frozen
