"""Codes by slot: written one by one or many at once, scanned in segments."""

import os
import subprocess
import sys

import numpy as np
import pytest

from clipseek_server.index import quantised
from clipseek_server.index.quantised import Codes
from clipseek_server.index.vectors import Matrix


def _vectors(count: int, dimension: int, seed: int = 0) -> Matrix:
    drawn = np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


@pytest.mark.parametrize("dimension", [512, 33])
def test_one_by_one_and_many_at_once_are_the_same(dimension: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantised, "_SEGMENT", 1024)
    vectors = _vectors(2500, dimension)
    codes, others = Codes(vectors), Codes(vectors)
    others._trained = codes._trained
    wanted = np.ones(2500, dtype=np.bool_)
    wanted[[3, 1500]] = False
    for first in (0, 1024, 2048):
        codes.fill(first, vectors[first : first + 1024], wanted[first : first + 1024])
    for slot in np.flatnonzero(wanted).tolist():
        others.put(slot, vectors[slot])
    for one, other in zip(codes._segments, others._segments, strict=True):
        np.testing.assert_array_equal(one.blocks, other.blocks)


def test_finds_what_is_written_and_not_what_is_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantised, "_SEGMENT", 1024)
    vectors = _vectors(2500, 64)
    codes = Codes(vectors[:100])
    for slot, each in enumerate(vectors):
        codes.put(slot, each)
    for slot, near in zip((0, 1100, 2499), codes.nearest(vectors[[0, 1100, 2499]], 20), strict=True):
        assert slot in near
        assert len(near) == 20
        assert (np.diff(near) > 0).all()
    codes.clear(1100)
    codes.put(5, vectors[1100])
    (near,) = codes.nearest(vectors[[1100]], 20)
    assert 5 in near
    assert 1100 not in near


def test_a_segment_that_has_just_begun_is_scanned_no_further_than_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantised, "_SEGMENT", 1024)
    monkeypatch.setattr(quantised, "_STEP", 32)
    vectors = _vectors(1030, 64)
    codes = Codes(vectors[:100])
    codes.fill(0, vectors[:1024], np.ones(1024, dtype=np.bool_))
    for slot in range(1024, 1030):
        codes.put(slot, vectors[slot])
    assert [segment.index.ntotal for segment in codes._segments] == [1024, 32]
    # More than there are in the second one.
    for slot, near in zip((0, 1029), codes.nearest(vectors[[0, 1029]], 100), strict=True):
        assert slot in near
        assert (np.diff(near) > 0).all()
        assert near[0] >= 0
        assert near[-1] < 1024 + 32


def test_learns_from_fewer_vectors_than_there_are_codes() -> None:
    vectors = _vectors(3, 8)
    codes = Codes(vectors)
    for slot, each in enumerate(vectors):
        codes.put(slot, each)
    assert all(slot in near for slot, near in enumerate(codes.nearest(vectors, 5)))


def test_no_thread_is_begun_to_write_a_code() -> None:
    script = """
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from clipseek_server.index.quantised import Codes

sample = np.random.default_rng(0).standard_normal((300, 64), dtype=np.float32)
with ThreadPoolExecutor(1) as pool:
    codes = pool.submit(Codes, sample).result()
    pool.submit(codes.fill, 0, sample[:256], np.ones(256, dtype=bool)).result()
before = len(os.listdir("/proc/self/task"))
codes.put(3, sample[0])
print(len(os.listdir("/proc/self/task")) - before)
"""
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "0\n"
