"""Vectors in memory by slot, and their exact scores."""

import numpy as np
import numpy.typing as npt

from clipseek_server.index.records import Vector

Matrix = npt.NDArray[np.float32]
Slots = npt.NDArray[np.intp]

ROUNDING = 1e-5
"""More than two float32 products of the same vectors may differ by, whatever order they were summed in."""

_BLOCK = 16_384
"""Vectors are kept in blocks of this many, so that growing copies nothing. What is not used of one takes no memory."""

_CHUNK = 256
"""Rows multiplied at a time, with all queries: half a megabyte stays in a core's cache."""

_GATHERED_SHARE = 0.2
"""Of up to this share of a block the rows are gathered first; of more it is faster to multiply all."""


class Vectors:
    """A matrix that grows, row by row in slots from 0 on. Slots that are not written meanwhile may be read in threads.

    Args:
        dimension: Length of the vectors.
    """

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension
        self._blocks: list[Matrix] = []

    def __getitem__(self, slot: int) -> Vector:
        vector: Vector = self._blocks[slot // _BLOCK][slot % _BLOCK]
        return vector

    def put(self, slot: int, vector: Vector) -> None:
        """Write a vector into a slot: one that was written before, or the next."""
        if slot == len(self._blocks) * _BLOCK:
            self._blocks.append(np.zeros((_BLOCK, self._dimension), dtype=np.float32))
        self._blocks[slot // _BLOCK][slot % _BLOCK] = vector

    def take(self, slots: Slots) -> Matrix:
        """The vectors of rising slots: float32 ``[slots, dimension]``."""
        taken = np.empty((len(slots), self._dimension), dtype=np.float32)
        for block, here, rows in self._parts(slots):
            np.take(block, rows, axis=0, out=taken[here], mode="clip")
        return taken

    def scores(self, queries: Matrix, slots: Slots) -> Matrix:
        """The products of queries ``[queries, dimension]`` with the vectors of rising slots: ``[queries, slots]``.

        Equal vectors may differ by less than ``ROUNDING``.
        """
        scores = np.empty((len(queries), len(slots)), dtype=np.float32)
        for block, here, rows in self._parts(slots):
            used = block[: rows[-1] + 1]
            if len(rows) <= _GATHERED_SHARE * len(used):
                for begin in range(0, len(rows), _CHUNK):
                    chunk = np.take(used, rows[begin : begin + _CHUNK], axis=0)
                    _multiply(queries, chunk, scores[:, here][:, begin : begin + _CHUNK])
            else:
                products = np.empty((len(queries), len(used)), dtype=np.float32)
                for begin in range(0, len(used), _CHUNK):
                    _multiply(queries, used[begin : begin + _CHUNK], products[:, begin : begin + _CHUNK])
                scores[:, here] = products[:, rows]
        return scores

    def exact_scores(self, query: Vector, slots: Slots) -> Vector:
        """The cosines of one query with rising slots, in which equal vectors score equal."""
        exact = np.empty(len(slots), dtype=np.float32)
        query = query.astype(np.float64)
        for block, here, rows in self._parts(slots):
            for begin in range(0, len(rows), _CHUNK):
                chunk = block[rows[begin : begin + _CHUNK]].astype(np.float64)
                # A product's last bits depend on where in the matrix a row lies: summed one by one.
                sums = np.einsum("ij,j->i", chunk, query)
                exact[here][begin : begin + _CHUNK] = np.clip(sums, -1.0, 1.0)
        return exact

    def _parts(self, slots: Slots) -> list[tuple[Matrix, slice, Slots]]:
        """Each block with some of the slots: it, where among the slots they are, and its rows."""
        ends = np.searchsorted(slots, np.arange(1, len(self._blocks) + 1) * _BLOCK).tolist()
        parts, begin = [], 0
        for number, end in enumerate(ends):
            if begin < end:
                parts.append((self._blocks[number], slice(begin, end), slots[begin:end] - number * _BLOCK))
            begin = end
        return parts


def _multiply(queries: Matrix, vectors: Matrix, out: Matrix) -> None:
    # Not matmul: it waits for a thread on each core, and while the models use the cores that takes ten times as long.
    np.vecdot(vectors[None], queries[:, None], out=out)
