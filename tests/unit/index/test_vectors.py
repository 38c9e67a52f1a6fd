"""Vectors by slot, and their scores, whichever way they are computed."""

import numpy as np
import pytest

from clipseek_server.index import vectors
from clipseek_server.index.vectors import Vectors


@pytest.mark.parametrize("step", [1, 2, 7])
def test_scores_of_many_and_of_few_of_a_block(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    monkeypatch.setattr(vectors, "_BLOCK", 100)
    monkeypatch.setattr(vectors, "_CHUNK", 8)
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(333, 16)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    stored = Vectors(16)
    for slot, each in enumerate(rows):
        stored.put(slot, each)
    slots = np.concatenate([np.arange(0, 150, step), np.arange(210, 333, step)])
    expected = rows[:3].astype(np.float64) @ rows[slots].T.astype(np.float64)
    np.testing.assert_allclose(stored.scores(rows[:3], slots), expected, atol=1e-6)
    np.testing.assert_allclose(stored.exact_scores(rows[1], slots), expected[1], atol=1e-7)
    np.testing.assert_array_equal(stored.take(slots), rows[slots])


def test_no_slots() -> None:
    stored, none = Vectors(4), np.array([], dtype=np.intp)
    query = np.ones((2, 4), dtype=np.float32)
    assert stored.scores(query, none).shape == (2, 0)
    assert stored.exact_scores(query[0], none).shape == (0,)
    assert stored.take(none).shape == (0, 4)
