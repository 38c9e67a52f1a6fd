"""A fast scan that finds the slots where the nearest vectors probably are.

Vectors are cut into pairs of numbers, and each pair is kept as one of sixteen: four bits, looked up with the query in
registers (faiss' FastScan). 100,000 vectors of 512 numbers are scanned in half a millisecond. Codes are overwritten
where they are; whoever keeps them makes them anew only when most of the rows are others.
"""

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from clipseek_server.index.records import Vector
from clipseek_server.index.vectors import Matrix, Slots

SAMPLE = 8192
"""Vectors that are enough to learn from."""

_BITS = 4
_ROUNDS = 5
"""Of k-means. 25, of 20,000 vectors, found no more with benchmarks.resident's."""

_SEGMENT = 32_768
"""Codes lie in segments of so many slots, so that growing copies nothing."""

_STEP = 1024
"""A segment is scanned up to its last used slot, rounded up to a multiple of this."""


@dataclass(frozen=True, slots=True)
class _Segment:
    index: Any
    blocks: npt.NDArray[np.uint8]
    """The memory of the index's codes: some vectors' codes a row."""


class Codes:
    """Codes by slot. One thread writes; others may scan meanwhile, and find any state of what is just written.

    Args:
        sample: Vectors ``[n, dimension]`` to learn from, at most ``SAMPLE`` of them are of use.
    """

    def __init__(self, sample: Matrix) -> None:
        _, self._dimension = sample.shape
        # Pictures' vectors lie in a narrow cone: what tells them apart is how they differ from its middle.
        self._mean = sample.mean(axis=0)
        # Not less than there are centroids to find.
        centred = np.resize(sample - self._mean, (max(len(sample), 2**_BITS), self._dimension))
        _one_thread()
        self._trained = self._new_index()
        self._trained.pq.cp.niter = _ROUNDS
        self._trained.pq.cp.min_points_per_centroid = 1
        self._trained.train(centred)
        self._packer = self._trained.get_CodePacker()
        self._empty_code = self._trained.pq.compute_codes(np.zeros((1, self._dimension), dtype=np.float32))[0]
        self._segments: list[_Segment] = []

    def put(self, slot: int, vector: Vector) -> None:
        """Write one vector's code; 20 µs at 512 dimensions."""
        _one_thread()
        self._write(slot, self._trained.pq.compute_codes((vector - self._mean)[None])[0])

    def clear(self, slot: int) -> None:
        """Make a slot one that no search finds near: as near as the middle of all."""
        self._write(slot, self._empty_code)

    def fill(self, first: int, vectors: Matrix, wanted: npt.NDArray[np.bool_]) -> None:
        """Write the codes of slots from ``first`` on, a multiple of 1,024; those that are not wanted are cleared."""
        segment = self._segment(first + len(vectors) - 1)
        packed = self._pack(np.where(wanted[:, None], vectors - self._mean, np.float32(0)))
        begin = first % _SEGMENT // self._packer.nvec
        segment.blocks[begin : begin + len(packed)] = packed

    def nearest(self, queries: Matrix, count: int) -> list[Slots]:
        """For each query some ``count`` slots whose vectors are probably nearest, in rising order."""
        _one_thread()
        found = [segment.index.search(queries, count) for segment in list(self._segments)]
        scores = np.concatenate([each for each, _ in found], axis=1)
        slots = np.concatenate([each + number * _SEGMENT for number, (_, each) in enumerate(found)], axis=1)
        if len(found) > 1:
            best = np.argpartition(scores, -count, axis=1)[:, -count:]
            slots = np.take_along_axis(slots, best, axis=1)
        return list(np.sort(slots, axis=1))

    def _write(self, slot: int, code: npt.NDArray[np.uint8]) -> None:
        block, place = divmod(slot % _SEGMENT, self._packer.nvec)
        self._packer.pack_1(code, place, self._segment(slot).blocks[block : block + 1])

    def _segment(self, slot: int) -> _Segment:
        while slot >= len(self._segments) * _SEGMENT:
            self._segments.append(self._new_segment())
        segment = self._segments[slot // _SEGMENT]
        if slot % _SEGMENT >= segment.index.ntotal:
            segment.index.ntotal = segment.index.ntotal2 = (slot % _SEGMENT // _STEP + 1) * _STEP
        return segment

    def _new_segment(self) -> _Segment:
        empty = self._pack(np.zeros((1, self._dimension), dtype=np.float32))
        index = self._copy_of_trained()
        # As large as it will be from the start: memory that moved would move under a scan.
        index.codes.resize(_SEGMENT // self._packer.nvec * self._packer.block_size)
        blocks = faiss.rev_swig_ptr(index.codes.get(), index.codes.size()).reshape(-1, self._packer.block_size)
        blocks[:] = empty
        return _Segment(index, blocks)

    def _pack(self, centred: Matrix) -> npt.NDArray[np.uint8]:
        """Their codes as an index keeps them: the last block is filled up with what is cleared."""
        _one_thread()
        short = -len(centred) % self._packer.nvec
        index = self._copy_of_trained()
        index.add(np.pad(centred, ((0, short), (0, 0))))
        return faiss.vector_to_array(index.codes).reshape(-1, self._packer.block_size)

    def _copy_of_trained(self) -> Any:
        index = self._new_index()
        index.pq = self._trained.pq
        index.is_trained = True
        return index

    def _new_index(self) -> Any:
        parts = self._dimension // 2 if self._dimension % 2 == 0 else self._dimension
        return faiss.IndexPQFastScan(self._dimension, parts, _BITS, faiss.METRIC_INNER_PRODUCT)


def _one_thread() -> None:
    """Keep the calling thread from having others beside it, before each use of faiss: the setting is a thread's own.

    A scan or a code is too short to share, and threads that wait for the next one would spin beside the models.
    """
    faiss.omp_set_num_threads(1)
