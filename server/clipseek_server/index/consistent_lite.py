"""Milvus Lite whose reads see the rows of one moment.

By itself it takes what is in memory and what is in files one after the other, while a flush moves rows from there to
here: a read beside one may miss rows, or find what was replaced or deleted.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import milvus_lite.db
import numpy as np
from milvus_lite.engine.collection import Collection
from milvus_lite.search.assembler import assemble_candidates, materialize_record
from milvus_lite.search.bitmap import build_valid_mask
from milvus_lite.storage.memtable import MemTable
from milvus_lite.storage.segment import Segment


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

    def pages(self, fields: Sequence[str], size: int) -> Iterator[list[dict[str, Any]]]:
        """All rows of one moment, by id, so many at a time: in one pass over them, and without a message for each.

        Args:
            fields: Those wanted beside the vector, which comes as a float32 array.
            size: Rows of a page.
        """
        moment = self._at_this_moment()
        segments, deletes = moment._read_snapshot()
        ids, numbers, _, sources, _ = assemble_candidates(segments, moment._memtable, self._vector_name)
        live = np.flatnonzero(build_valid_mask(ids, numbers, deletes, memtable=moment._memtable)).tolist()
        live.sort(key=ids.__getitem__)
        for begin in range(0, len(live), size):
            yield self._read([sources[index] for index in live[begin : begin + size]], fields)

    def _read(self, sources: Sequence[tuple[Any, Any]], fields: Sequence[str]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = [{}] * len(sources)
        in_files: dict[int, tuple[Segment, list[int]]] = {}
        for place, (source, row) in enumerate(sources):
            if isinstance(source, Segment):
                in_files.setdefault(id(source), (source, []))[1].append(place)
            else:
                found = materialize_record((source, row))
                vector = np.asarray(found[self._vector_name], np.float32)
                rows[place] = {**{name: found[name] for name in fields}, self._vector_name: vector}
        for segment, places in in_files.values():
            numbers = [sources[place][1] for place in places]
            columns = segment.table.select(fields).take(numbers).to_pylist()
            for place, columns_of_one, vector in zip(places, columns, segment.vectors[numbers], strict=True):
                rows[place] = {**columns_of_one, self._vector_name: vector}
        return rows

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
