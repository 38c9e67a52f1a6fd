"""The copy in memory and Milvus Lite's own answers, after random histories of writes that overlap.

Of few rows the copy's answers are exact: the same scores as Milvus', and of equal ones those with the smallest ids. Of
many, where codes choose the candidates, a near row may be missed; but what is found is found with its exact score and
its record, best first and equal ones by id, a query that is a row's own vector finds it (or its equal) first, and
efforts and filters that are exact stay so.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipseek_server.index import resident
from clipseek_server.index.collection import MilvusCollection
from clipseek_server.index.filters import Filter
from clipseek_server.index.milvus import MilvusIndex
from clipseek_server.index.records import Effort, Match, Row
from clipseek_server.index.table import Table
from clipseek_server.index.vector_index import VectorIndex
from clipseek_server.telemetry import Call
from filter_strategies import filters, random_records
from index_rows import DIMENSION, lite_settings, make, nearest, vector

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


async def _write(collection: MilvusCollection, history: list[list[Row | list[str]]]) -> None:
    for together in history:
        await asyncio.gather(
            *(
                collection.upsert(write, Call()) if isinstance(write, Row) else collection.delete(write, Call())
                for write in together
            )
        )


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
    await _write(collection, history)
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
        (theirs,) = await lite.search([vector(query)], len(IDS), filter=condition, effort=Effort.DEFAULT, strong=True)
        _assert_nearest(ours, theirs, limit)
    await index.drop(collection.info.name, collection.info.uid)


# Beside the rows of the histories, so that there are always many.
OTHERS = [Row(replace(RECORDS[number % 40], image_id=f"other-{number:02d}"), vector(number)) for number in range(60)]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=histories,
    after=histories,
    condition=filters,
    query=st.integers(0, 70),
    limit=st.integers(1, 8),
)
async def test_memory_and_milvus_agree_where_codes_choose(
    index: MilvusIndex,
    before: list[list[Row | list[str]]],
    after: list[list[Row | list[str]]],
    condition: Filter,
    query: int,
    limit: int,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resident, "EXACT_BYTES", 40 * DIMENSION * 4)
        patch.setattr(resident, "_CANDIDATES", {Effort.FAST: 10, Effort.DEFAULT: 20, Effort.THOROUGH: 30})
        patch.setattr(resident, "_CANDIDATES_PER_HIT", {Effort.FAST: 1, Effort.DEFAULT: 2, Effort.THOROUGH: 3})
        patch.setattr(resident, "_EXACT_SHARE", 1.0)
        collection = await make(index, f"history_{next(_names)}")
        await _write(collection, before)
        await _write(collection, [list(OTHERS)])
        await collection.ready()
        copy = collection._copy
        assert copy is not None
        if copy._making_codes is not None:
            await copy._making_codes
        assert copy._codes is not None
        await _write(collection, after)
        assert await collection.verify_resident(Call()) == []

        lite = Table(collection.info.generation, VectorIndex("FLAT"), index._connection, index._settings)
        everything = len(OTHERS) + len(IDS)
        (theirs,) = await lite.search([vector(query)], everything, filter=None, effort=Effort.DEFAULT, strong=True)
        for effort in (Effort.FAST, Effort.DEFAULT, Effort.THOROUGH):
            ours = await nearest(collection, vector(query), limit, effort=effort)
            _assert_sound(ours, theirs, limit)
            if theirs[0].score > 1 - 1e-6:
                assert ours[0].score == pytest.approx(1.0, abs=1e-5)
        exact = await nearest(collection, vector(query), limit, effort=Effort.EXACT)
        _assert_nearest(exact, theirs, limit)
        (theirs,) = await lite.search([vector(query)], everything, filter=condition, effort=Effort.DEFAULT, strong=True)
        _assert_nearest(await nearest(collection, vector(query), limit, condition=condition), theirs, limit)
        await index.drop(collection.info.name, collection.info.uid)


def _assert_sound(ours: list[Match], theirs: list[Match], limit: int) -> None:
    assert len({match.record.image_id for match in ours}) == len(ours) == min(limit, len(theirs))
    assert ours == sorted(ours, key=lambda match: (-match.score, match.record.image_id))
    known = {match.record.image_id: match for match in theirs}
    for match in ours:
        assert match.record == known[match.record.image_id].record
        assert match.score == pytest.approx(known[match.record.image_id].score, abs=1e-5)


def _assert_nearest(ours: list[Match], theirs: list[Match], limit: int) -> None:
    """``theirs`` are all matches: which of several equal ones is cut off may differ, and the last bits."""
    assert [match.score for match in ours] == pytest.approx([match.score for match in theirs[:limit]], abs=1e-5)
    _assert_sound(ours, theirs, limit)
