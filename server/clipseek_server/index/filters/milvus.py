"""A filter as a Milvus expression.

One expression for Milvus Lite and for a Milvus server, which disagree on more than their manuals say; what it relies on
is tried on both by the tests. Metadata keys carry the type of their value (``index.metadata``), so a comparison meets
its own type or nothing. Where there is nothing, Lite knows neither true nor false, and a server holds ``!=`` for true;
a term with ``exists`` settles both. ``exists`` stands in parentheses, because a server takes all that follows it for
its operand.
"""

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

_LAST_CHARACTER = "\U0010ffff"


def to_milvus(condition: Filter) -> str:
    """The expression that holds for the same rows on every engine; ``and`` may join it to others as it is."""
    return _write(condition, negated=False)


def _write(condition: Filter, *, negated: bool) -> str:
    """``negated`` says whether an odd number of ``not`` stands around it: there, unknown must become false."""
    match condition:
        case Comparison(field, operator, value):
            term = f"{_name(field, kind_of(value))} {operator.value} {_literal(value)}"
            return _guarded(field, kind_of(value), term, needed=negated or operator is Operator.NE)
        case OneOf(field, values):
            return _one_of(field, values, negated=negated)
        case Prefix(field, prefix):
            # Not `like`: in Lite's, % and _ have no escape. Strings are ordered by code points on all engines.
            name, end = _name(field, Kind.STRING), _after(prefix)
            begin = f"{name} >= {quoted(prefix)}"
            term = begin if end is None else f"({begin} and {name} < {quoted(end)})"
            return _guarded(field, Kind.STRING, term, needed=negated)
        case Exists(path):
            return _any_of([_exists(path, kind) for kind in Kind if kind is not Kind.NULL])
        case Not(operand):
            return f"not ({_write(operand, negated=not negated)})"
        case And(operands):
            return f"({' and '.join(_write(operand, negated=negated) for operand in operands)})"
        case Or(operands):
            return _any_of([_write(operand, negated=negated) for operand in operands])


def _one_of(field: Field, values: tuple[Value, ...], *, negated: bool) -> str:
    if isinstance(field, Column):
        return f"{field.name} in [{', '.join(_literal(value) for value in values)}]"
    # Lite has no `in` for JSON, and a server's takes one type.
    by_kind: dict[Kind, list[Value]] = {}
    for value in values:
        by_kind.setdefault(kind_of(value), []).append(value)
    terms = []
    for kind, members in by_kind.items():
        name = _name(field, kind)
        term = _any_of([f"{name} == {_literal(value)}" for value in members])
        terms.append(_guarded(field, kind, term, needed=negated))
    return _any_of(terms)


def _guarded(field: Field, kind: Kind, term: str, *, needed: bool) -> str:
    if not needed or isinstance(field, Column):
        return term
    return f"({_exists(field, kind)} and {term})"


def _exists(path: MetadataPath, kind: Kind) -> str:
    return f"(exists {_name(path, kind)})"


def _any_of(terms: list[str]) -> str:
    return terms[0] if len(terms) == 1 else f"({' or '.join(terms)})"


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
