"""A filter on records in memory."""

import operator
from collections.abc import Callable
from typing import Any, TypeAlias

from clipseek_server.index.filters.tree import (
    And,
    Column,
    Comparison,
    Exists,
    Field,
    Filter,
    Not,
    OneOf,
    Operator,
    Or,
    Prefix,
)
from clipseek_server.index.metadata import Kind, kind_of
from clipseek_server.index.records import Record

Predicate: TypeAlias = Callable[[Record], bool]

_OPERATORS: dict[Operator, Callable[[Any, Any], bool]] = {
    Operator.EQ: operator.eq,
    Operator.NE: operator.ne,
    Operator.LT: operator.lt,
    Operator.LE: operator.le,
    Operator.GT: operator.gt,
    Operator.GE: operator.ge,
}


def matches(condition: Filter, record: Record) -> bool:
    """Whether the filter holds for the record; for many records make the ``predicate`` once."""
    return predicate(condition)(record)


def predicate(condition: Filter) -> Predicate:
    """The filter as a function; about a microsecond a comparison."""
    match condition:
        case Comparison(field, op, value):
            return _comparison(_reader(field), _OPERATORS[op], value)
        case OneOf(field, values):
            return _membership(_reader(field), {(kind_of(value), value) for value in values})
        case Prefix(field, prefix):
            read = _reader(field)
            return lambda record: isinstance(found := read(record), str) and found.startswith(prefix)
        case Exists(path):
            read = _reader(path)
            return lambda record: read(record) is not None
        case Not(operand):
            test = predicate(operand)
            return lambda record: not test(record)
        case And(operands):
            tests = [predicate(operand) for operand in operands]
            return lambda record: all(test(record) for test in tests)
        case Or(operands):
            tests = [predicate(operand) for operand in operands]
            return lambda record: any(test(record) for test in tests)


def _comparison(read: Callable[[Record], Any], holds: Callable[[Any, Any], bool], value: object) -> Predicate:
    kind = kind_of(value)

    def test(record: Record) -> bool:
        found = read(record)
        return kind_of(found) is kind and holds(found, value)

    return test


def _membership(read: Callable[[Record], Any], wanted: set[tuple[Kind, Any]]) -> Predicate:
    kinds = {kind for kind, _ in wanted}

    def test(record: Record) -> bool:
        found = read(record)
        kind = kind_of(found)
        return kind in kinds and (kind, found) in wanted

    return test


def _reader(field: Field) -> Callable[[Record], Any]:
    """What reads the field's value; ``None`` where there is none."""
    if isinstance(field, Column):
        return operator.attrgetter(field.name)
    first, *others = field.keys
    if not others:
        return lambda record: record.metadata.get(first)

    def read(record: Record) -> Any:
        value: Any = record.metadata.get(first)
        for key in others:
            if not isinstance(value, dict):
                return None
            value = value.get(key)
        return value

    return read
