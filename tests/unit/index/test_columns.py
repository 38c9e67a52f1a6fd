"""Filters on columns: the same as record by record."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import filter_cases
from clipseek_server.index import columns
from clipseek_server.index.columns import Columns
from clipseek_server.index.filters import Filter, parse_filter, predicate
from clipseek_server.index.records import Record
from filter_strategies import filters, random_records
from index_rows import record

RECORDS = [*filter_cases.RECORDS, *random_records(60, seed=1)]


class _Slots:
    """Records in slots, and their columns."""

    def __init__(self) -> None:
        self.records: dict[int, Record] = {}
        self.columns = Columns(lambda slot: self.records[slot])

    def put(self, slot: int, each: Record) -> None:
        if slot in self.records:
            self.columns.clear(slot)
        self.records[slot] = each
        self.columns.put(slot, each)

    def holding(self, condition: Filter) -> list[int]:
        slots = np.array(sorted(self.records), dtype=np.intp)
        return [int(slot) for slot in slots[self.columns.mask(condition, slots)]]


@pytest.fixture(scope="module")
def all_records() -> _Slots:
    slots = _Slots()
    # Each slot held another record before.
    for each in (*reversed(RECORDS), *RECORDS):
        slots.put(len(slots.records) % len(RECORDS), each)
    for slot, each in enumerate(RECORDS):
        slots.put(slot, each)
    return slots


@pytest.mark.parametrize("text", [text for text, _ in filter_cases.CASES], ids=lambda text: ascii(text)[:60])
def test_table_in_columns(all_records: _Slots, text: str) -> None:
    condition = parse_filter(text)
    assert condition is not None
    _assert_same(all_records, condition)


@given(condition=filters)
def test_agrees_with_the_records(all_records: _Slots, condition: Filter) -> None:
    _assert_same(all_records, condition)


@given(
    writes=st.lists(st.tuples(st.integers(0, 8), st.sampled_from(RECORDS)), min_size=1, max_size=30),
    conditions=st.lists(filters, min_size=1, max_size=3),
    max_keys=st.integers(0, 4),
)
def test_agrees_after_any_writes(writes: list[tuple[int, Record]], conditions: list[Filter], max_keys: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "MAX_KEYS", max_keys)
        patch.setattr(columns, "_FIRST_LENGTH", 2)
        slots = _Slots()
        for slot, each in writes:
            slots.put(slot, each)
            _assert_same(slots, conditions[0])
        for condition in conditions:
            _assert_same(slots, condition)


def _assert_same(slots: _Slots, condition: Filter) -> None:
    holds = predicate(condition)
    assert slots.holding(condition) == [slot for slot, each in sorted(slots.records.items()) if holds(each)]


def test_texts_that_are_gone_take_no_memory() -> None:
    slots = _Slots()
    for number in range(5000):
        slots.put(number % 10, record(f"id-{number}", caption=f"caption {number}"))
    kept = slots.columns._keys["caption"]._texts
    assert len(kept._texts) <= 11
    assert set(kept._numbers) == {f"caption {number}" for number in range(4990, 5000)}


def test_only_the_first_keys_get_a_column() -> None:
    slots = _Slots()
    values: dict[str, Any] = {f"key_{number}": number for number in range(columns.MAX_KEYS + 5)}
    slots.put(0, record("a", **values))
    slots.put(1, record("b", late=True))
    assert list(slots.columns._keys) == [f"key_{number}" for number in range(columns.MAX_KEYS)]
    for text, expected in (
        ("metadata.key_36 == 36", [0]),
        ("metadata.late == true", [1]),
        ("metadata.key_0 == 0", [0]),
        ("metadata.never == 0", []),
    ):
        condition = parse_filter(text)
        assert condition is not None
        assert slots.holding(condition) == expected
