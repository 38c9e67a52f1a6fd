"""Random filters and records over few keys and values, so that they often meet."""

import random
from typing import Any

from hypothesis import strategies as st

import filter_cases
from clipseek_server.index.filters.tree import (
    And,
    Column,
    Comparison,
    Exists,
    Filter,
    MetadataPath,
    Not,
    OneOf,
    Operator,
    Or,
    Prefix,
    Value,
)
from clipseek_server.index.records import Record

_KEYS = ("a", "b", "and")
_NUMBERS = (-3, 0, 1, 2, 2.5, 1e300, 5e-324, 2**53)
_STRINGS = ("", "a", "ab", "b", "a%", "_", "1", "true", "é", "\uffff", "😀", "\U0010ffff", 'q"\\\n\x00')
_MEDIA_TYPES = ("image/jpeg", "image/png")
_TIMES = (0, 1, filter_cases.NOON)

numbers = st.sampled_from(_NUMBERS)
strings = st.sampled_from(_STRINGS) | st.text(max_size=5)
scalars: st.SearchStrategy[Value] = numbers | strings | st.booleans()
paths = st.lists(st.sampled_from(_KEYS), min_size=1, max_size=3).map(lambda keys: MetadataPath(tuple(keys)))


def _comparisons(value: Value) -> st.SearchStrategy[Filter]:
    operators = [Operator.EQ, Operator.NE] if isinstance(value, bool) else list(Operator)
    return st.builds(Comparison, paths, st.sampled_from(operators), st.just(value))


def _column_filters(name: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[Filter]:
    column = st.just(Column(name))
    return st.builds(Comparison, column, st.sampled_from(Operator), values) | st.builds(
        OneOf, column, st.lists(values, min_size=1, max_size=3).map(tuple)
    )


leaves: st.SearchStrategy[Filter] = st.one_of(
    scalars.flatmap(_comparisons),
    st.builds(OneOf, paths, st.lists(scalars, min_size=1, max_size=4).map(tuple)),
    st.builds(Prefix, paths, strings.filter(lambda text: "%" not in text)),
    st.builds(Exists, paths),
    _column_filters("width", st.integers(0, 3)),
    _column_filters("media_type", st.sampled_from(_MEDIA_TYPES)),
    _column_filters("create_time", st.sampled_from(_TIMES)),
    st.builds(Prefix, st.just(Column("media_type")), st.sampled_from(["", "image/j"])),
)


def _joined(parts: st.SearchStrategy[Filter]) -> st.SearchStrategy[Filter]:
    several = st.lists(parts, min_size=2, max_size=3).map(tuple)
    return st.one_of(st.builds(Not, parts), st.builds(And, several), st.builds(Or, several))


filters: st.SearchStrategy[Filter] = st.recursive(leaves, _joined, max_leaves=8)


def random_records(count: int, seed: int) -> list[Record]:
    """Records of every shape that the filters ask about."""
    choose = random.Random(seed)

    def value(depth: int) -> Any:
        match choose.randrange(8):
            case 0 | 1:
                return choose.choice(_NUMBERS)
            case 2 | 3:
                return choose.choice(_STRINGS)
            case 4:
                return choose.choice((True, False, None))
            case 5:
                return [choose.choice(_NUMBERS), True][: choose.randrange(3)]
            case _:
                return metadata(depth + 1) if depth < 3 else "a"

    def metadata(depth: int) -> dict[str, Any]:
        return {key: value(depth) for key in _KEYS if choose.random() < 0.8}

    return [
        filter_cases.record(
            f"random-{number}",
            metadata(0),
            width=choose.randrange(4),
            media_type=choose.choice(_MEDIA_TYPES),
            create_time=choose.choice(_TIMES),
        )
        for number in range(count)
    ]
