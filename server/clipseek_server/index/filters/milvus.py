"""A filter as a Milvus expression.

One expression for Milvus Lite and for a Milvus server, which disagree on more than their manuals say; what it relies on
is tried on both by the tests. Metadata keys carry the type of their value (``index.metadata``), so a comparison meets
its own type or nothing. Where there is nothing, Lite knows neither true nor false, and a server holds ``!=`` for true;
a term with ``exists`` settles both. ``exists`` stands in parentheses, because a server takes all that follows it for
its operand.
"""

from heapq import heappop, heappush
from typing import NamedTuple

from clipseek_server.index.filters.tree import (
    And,
    Column,
    Comparison,
    Exists,
    Field,
    Filter,
    MetadataPath,
    Not,
    OneOf,
    Operator,
    Or,
    Prefix,
    Value,
    number,
    quoted,
)
from clipseek_server.index.metadata import Kind, kind_of, stored_key

MAX_HEIGHT = 49
"""A server's searches take trees of so many levels. What the parser lets through is lower (tried by the tests)."""

_LAST_CHARACTER = "\U0010ffff"


class _Term(NamedTuple):
    """A part of an expression: what it is written as, in parentheses where they matter, and how high its tree is."""

    text: str
    height: int = 1


def to_milvus(condition: Filter) -> str:
    """The expression that holds for the same rows on every engine; ``and`` may join it to others as it is."""
    return _write(condition, negated=False).text


def _write(condition: Filter, *, negated: bool) -> _Term:
    """``negated`` says whether an odd number of ``not`` stands around it: there, unknown must become false."""
    match condition:
        case Comparison(field, operator, value):
            term = _Term(f"{_name(field, kind_of(value))} {operator.value} {_literal(value)}")
            return _guarded(field, kind_of(value), term, needed=negated or operator is Operator.NE)
        case OneOf(field, values):
            return _one_of(field, values, negated=negated)
        case Prefix(field, prefix):
            # Not `like`: in Lite's, % and _ have no escape. Strings are ordered by code points on all engines.
            name, end = _name(field, Kind.STRING), _after(prefix)
            bounds = [_Term(f"{name} >= {quoted(prefix)}")]
            if end is not None:
                bounds.append(_Term(f"{name} < {quoted(end)}"))
            return _guarded(field, Kind.STRING, _joined("and", bounds), needed=negated)
        case Exists(path):
            return _joined("or", [_exists(path, kind) for kind in Kind if kind is not Kind.NULL])
        case Not(operand):
            term = _write(operand, negated=not negated)
            return _Term(f"not ({term.text})", term.height + 1)
        case And(operands):
            return _joined("and", [_write(operand, negated=negated) for operand in operands])
        case Or(operands):
            return _joined("or", [_write(operand, negated=negated) for operand in operands])


def _one_of(field: Field, values: tuple[Value, ...], *, negated: bool) -> _Term:
    if isinstance(field, Column):
        return _Term(f"{field.name} in [{', '.join(_literal(value) for value in values)}]")
    # Lite has no `in` for JSON, and a server's takes one type.
    by_kind: dict[Kind, list[Value]] = {}
    for value in values:
        by_kind.setdefault(kind_of(value), []).append(value)
    terms = []
    for kind, members in by_kind.items():
        name = _name(field, kind)
        term = _joined("or", [_Term(f"{name} == {_literal(value)}") for value in members])
        terms.append(_guarded(field, kind, term, needed=negated))
    return _joined("or", terms)


def _guarded(field: Field, kind: Kind, term: _Term, *, needed: bool) -> _Term:
    if not needed or isinstance(field, Column):
        return term
    return _joined("and", [_exists(field, kind), term])


def _exists(path: MetadataPath, kind: Kind) -> _Term:
    return _Term(f"(exists {_name(path, kind)})")


def _joined(word: str, terms: list[_Term]) -> _Term:
    """Joined two by two, the lowest first: ``a or b or …`` would be as high a tree as it has parts."""
    heap = [(term.height, number, term.text) for number, term in enumerate(terms)]
    while len(heap) > 1:
        _, number, left = heappop(heap)
        height, _, right = heappop(heap)
        heappush(heap, (height + 1, number, f"({left} {word} {right})"))
    return _Term(heap[0][2], heap[0][0])


def _name(field: Field, kind: Kind) -> str:
    if isinstance(field, Column):
        return field.name
    *outer, last = field.keys
    keys = [*(stored_key(key, Kind.OBJECT) for key in outer), stored_key(last, kind)]
    return "metadata" + "".join(f'["{key}"]' for key in keys)


def _literal(value: Value) -> str:
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return number(value)


def _after(prefix: str) -> str | None:
    """The first string after all that begin with the prefix; ``None`` when nothing comes after them."""
    stem = prefix.rstrip(_LAST_CHARACTER)
    if not stem:
        return None
    following = ord(stem[-1]) + 1
    # The surrogates are no characters.
    return stem[:-1] + chr(0xE000 if following == 0xD800 else following)
