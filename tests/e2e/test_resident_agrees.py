"""The copy in memory and Milvus Lite's own answers, after random histories of writes that overlap."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipseek_server.index.filters import Filter
from clipseek_server.index.milvus import MilvusIndex
from clipseek_server.index.records import Effort, Match, Row
from clipseek_server.index.table import Table
from clipseek_server.index.vector_index import VectorIndex
from clipseek_server.telemetry import Call
from filter_strategies import filters, random_records
from index_rows import lite_settings, make, nearest, vector

RECORDS = random_records(40, seed=3)
IDS = [*"abcdefgh", "A", "a.1", "a:1", "a_1", "10", "9"]

# Few vectors, so that many are equal.
upserts = st.builds(
    lambda image_id, record, seed: Row(replace(record, image_id=image_id), vector(seed)),
    st.sampled_from(IDS),
    st.sampled_from(RECORDS),
    st.integers(0, 5),
)
deletes = st.lists(st.sampled_from(IDS), min_size=1, max_size=4)
# Writes of one round are under way at the same time; the next round begins when all are done.
histories = st.lists(st.lists(upserts | deletes, min_size=1, max_size=8), max_size=5)

_names = itertools.count()


@pytest.fixture
async def index(tmp_path: Path) -> AsyncIterator[MilvusIndex]:
    opened = await MilvusIndex.connect(lite_settings(tmp_path))
    yield opened
    await opened.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    history=histories,
    conditions=st.lists(filters, max_size=3),
    query=st.integers(0, 8),
    limit=st.integers(1, 20),
    after=st.sampled_from(["", *IDS, "zzz"]),
)
async def test_memory_and_milvus_agree(
    index: MilvusIndex,
    history: list[list[Row | list[str]]],
    conditions: list[Filter],
    query: int,
    limit: int,
    after: str,
) -> None:
    collection = await make(index, f"history_{next(_names)}")
    for together in history:
        await asyncio.gather(
            *(
                collection.upsert(write, Call()) if isinstance(write, Row) else collection.delete(write, Call())
                for write in together
            )
        )
    await collection.ready()
    assert collection.resident
    lite = Table(collection.info.generation, VectorIndex("FLAT"), index._connection, index._settings)

    assert await collection.verify_resident(Call()) == []
    assert await collection.count(Call(), strong=True) == await lite.count(strong=True)
    for condition in [None, *conditions]:
        assert await collection.page(after, limit, Call(), filter=condition, strong=True) == await lite.record_page(
            after, limit, filter=condition, strong=True
        )
        ours = await nearest(collection, vector(query), limit, condition=condition)
        assert ours == sorted(ours, key=lambda match: (-match.score, match.record.image_id))
        (theirs,) = await lite.search([vector(query)], len(IDS), filter=condition, effort=Effort.DEFAULT, strong=True)
        _assert_nearest(ours, theirs, limit)
    await index.drop(collection.info.name, collection.info.uid)


def _assert_nearest(ours: list[Match], theirs: list[Match], limit: int) -> None:
    """``theirs`` are all matches: which of several equal ones is cut off may differ, and the last bits."""
    assert [match.score for match in ours] == pytest.approx([match.score for match in theirs[:limit]], abs=1e-5)
    scores = {match.record.image_id: match for match in theirs}
    for match in ours:
        assert match.record == scores[match.record.image_id].record
        assert match.score == pytest.approx(scores[match.record.image_id].score, abs=1e-5)
