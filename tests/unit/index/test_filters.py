"""The filter language, in memory."""

import itertools
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import filter_cases
from clipseek_server.errors import InvalidFilter
from clipseek_server.index.filters import Filter, fingerprint, matches, parse_filter, predicate, to_milvus, to_text
from clipseek_server.index.filters.milvus import MAX_HEIGHT
from clipseek_server.index.filters.tree import (
    And,
    Comparison,
    Exists,
    Not,
    OneOf,
    Operator,
    Or,
    Prefix,
)
from clipseek_server.index.records import Record
from filter_strategies import filters, random_records

RECORDS = [*filter_cases.RECORDS, *random_records(60, seed=1)]


CASE_IDS = [ascii(text)[:60] for text, _ in filter_cases.CASES]


@pytest.mark.parametrize(("text", "expected"), filter_cases.CASES, ids=CASE_IDS)
def test_table_in_memory(text: str, expected: set[str]) -> None:
    condition = parse_filter(text)
    assert condition is not None
    assert {each.image_id for each in filter_cases.RECORDS if matches(condition, each)} == expected


@pytest.mark.parametrize(("text", "reason"), filter_cases.REFUSED, ids=lambda value: ascii(value)[:60])
def test_refused_with_place_and_reason(text: str, reason: str) -> None:
    with pytest.raises(InvalidFilter) as caught:
        parse_filter(text, field="options.filter")
    assert reason in caught.value.message
    assert caught.value.field == "options.filter"
    # It travels in an error's details: short, and encodable.
    assert len(caught.value.message.encode()) < 400


@pytest.mark.parametrize("text", filter_cases.LARGEST, ids=lambda text: text[:20])
def test_the_largest_filters_are_not_too_high_for_a_server(text: str) -> None:
    condition = parse_filter(text)
    assert condition is not None
    assert matches(condition, filter_cases.record("small", {"n": 1}))
    depth = list(itertools.accumulate((each == "(") - (each == ")") for each in to_milvus(condition)))
    # What is joined, or negated, stands in parentheses; within them a term and an exists.
    assert max(depth) + 2 <= MAX_HEIGHT


@pytest.mark.parametrize("text", ["", " ", "\r\n\t "])
def test_blank_is_no_filter(text: str) -> None:
    assert parse_filter(text) is None


def test_longest_filter_is_taken() -> None:
    text = "width == 1".ljust(4096)
    assert parse_filter(text) is not None
    with pytest.raises(InvalidFilter, match="4097 characters"):
        parse_filter(text + " ")


def test_fingerprint_is_of_the_meaning_not_the_spelling() -> None:
    marks = [
        _mark("metadata.a == 3 and create_time > '2025-01-01T13:00:00+01:00'"),
        _mark(' (metadata.a==3.0)AND create_time>"2025-01-01T12:00:00.000Z"'),
    ]
    assert marks[0] == marks[1]
    # Pinned: page tokens outlive a release of the server.
    assert _mark("width == 1") == "afc2e9613040fbf767b1dc3b55e7501e"
    others = ["metadata.a == 1", "metadata.a == true", 'metadata.a == "1"', "metadata.b == 1", "not metadata.a == 1"]
    assert len({_mark(text) for text in others}) == len(others)


@given(filters)
def test_text_gives_the_tree_back(condition: Filter) -> None:
    text = to_text(condition)
    parsed = parse_filter(text)
    assert parsed == condition
    # True equals 1 in Python; their texts differ.
    assert to_text(parsed) == text
    assert fingerprint(parsed) == fingerprint(condition)


@given(filters)
def test_agrees_with_a_naive_evaluation(condition: Filter) -> None:
    test = predicate(condition)
    assert [test(each) for each in RECORDS] == [_holds(condition, each) for each in RECORDS]


_TOKENS = [
    *("metadata", "metadata.a", "width", "create_time", "and", "or", "not", "in", "like", "exists", "true", "null"),
    *("(", ")", "[", "]", ",", "==", "!=", "<", "=", "1", "-1.5e3", "1e999", '"x%"', "'", '"', "\\", "\ud800", "\x00"),
]


@given(st.text(max_size=80) | st.lists(st.sampled_from(_TOKENS), max_size=30).map(" ".join))
@example("width == 1" + "\u2028")
@example("'\\\ud800'")
def test_any_text_is_taken_or_refused(text: str) -> None:
    try:
        condition = parse_filter(text)
    except InvalidFilter as error:
        error.message.encode()
        return
    if condition is not None:
        to_milvus(condition).encode()
        assert parse_filter(to_text(condition)) == condition


def test_milvus_gets_our_writing_only() -> None:
    condition = parse_filter(
        "metadata.a == '\" or 1==1 --' and not metadata.b.c < 1e3 or WIDTH_ == 1".replace("WIDTH_", "width")
    )
    assert condition is not None
    assert to_milvus(condition) == (
        r'((metadata["s:a"] == "\" or 1==1 --" and '
        r'not (((exists metadata["o:b"]["n:c"]) and metadata["o:b"]["n:c"] < 1000))) or width == 1)'
    )


def _mark(text: str) -> str:
    condition = parse_filter(text)
    assert condition is not None
    return fingerprint(condition)


def _holds(condition: Filter, record: Record) -> bool:
    """The documentation of the language, word by word; shares nothing with the evaluation."""
    if isinstance(condition, Not):
        return not _holds(condition.operand, record)
    if isinstance(condition, And):
        return False not in [_holds(operand, record) for operand in condition.operands]
    if isinstance(condition, Or):
        return True in [_holds(operand, record) for operand in condition.operands]
    found = _find(condition.path if isinstance(condition, Exists) else condition.field, record)
    if isinstance(condition, Exists):
        return found is not None
    if isinstance(condition, Prefix):
        return isinstance(found, str) and found[: len(condition.prefix)] == condition.prefix
    if isinstance(condition, OneOf):
        return any(_type(found) == _type(value) and found == value for value in condition.values)
    assert isinstance(condition, Comparison)
    if _type(found) != _type(condition.value):
        return False
    order: int = (found > condition.value) - (found < condition.value)
    match condition.operator:
        case Operator.EQ:
            return order == 0
        case Operator.NE:
            return order != 0
        case Operator.LT:
            return order < 0
        case Operator.LE:
            return order <= 0
        case Operator.GT:
            return order > 0
        case Operator.GE:
            return order >= 0


def _find(field: Any, record: Record) -> Any:
    if hasattr(field, "name"):
        return getattr(record, field.name)
    value: Any = record.metadata
    for key in field.keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _type(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return type(value).__name__
