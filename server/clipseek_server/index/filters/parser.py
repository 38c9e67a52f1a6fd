"""From a filter's text to its tree."""

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NoReturn, cast

from lark import Lark, Token, Transformer, UnexpectedCharacters, UnexpectedToken, v_args

from clipseek_server.errors import InvalidFilter
from clipseek_server.index.filters.tree import (
    COLUMNS,
    EPOCH,
    And,
    Column,
    ColumnType,
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
)
from clipseek_server.index.metadata import whole

MAX_CHARACTERS = 4096
MAX_DEPTH = 16
"""Parentheses and ``not`` around each other."""
MAX_COMPARISONS = 256
"""Each value of an ``in`` counts."""
MAX_KEY_CHARACTERS = 64
MAX_KEYS = 16
"""As deep as metadata may be nested."""
MAX_WHOLE_NUMBER = 2**53
"""Metadata's numbers are doubles; beyond this they are no longer exact."""

_FIELDS = ", ".join(COLUMNS)
_KEY_NEEDED = "metadata needs a key, as in metadata.key; keys are made of A-Z, a-z, 0-9 and _"
_EXCERPT = 20
_ESCAPES = {"\\": "\\", '"': '"', "'": "'", "n": "\n", "r": "\r", "t": "\t"}
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)", re.ASCII)
_EXPECTED = {
    "FIELD": "a field",
    "NOT": "`not`",
    "EXISTS": "`exists`",
    "LPAR": "`(`",
    "OPERATOR": "one of `==` `!=` `<` `<=` `>` `>=`",
    "IN": "`in`",
    "LIKE": "`like`",
    "NUMBER": "a number",
    "STRING": "a string in quotes",
    "BOOLEAN": "true or false",
    "LSQB": "`[`",
    "COMMA": "a comma",
    "RSQB": "`]`",
    "AND": "`and`",
    "OR": "`or`",
    "RPAR": "`)`",
    "$END": "its end",
}


@dataclass(frozen=True, slots=True)
class _Part:
    """A parsed part, with how deep it is and how many comparisons it holds."""

    condition: Filter
    depth: int = 0
    comparisons: int = 1


class _Refusal(Exception):
    """What is wrong at a position (from 0) of the text."""

    def __init__(self, position: int, problem: str) -> None:
        super().__init__(problem)
        self.position = position
        self.problem = problem


def parse_filter(text: str, *, field: str = "filter") -> Filter | None:
    """Parse a filter; ``None`` for one that is empty or blank.

    Args:
        text: What the user wrote.
        field: The request field that it came in, for the error.

    Raises:
        InvalidFilter: With the place and what may stand there.
    """
    if len(text) > MAX_CHARACTERS:
        raise InvalidFilter(f"the filter has {len(text)} characters; at most {MAX_CHARACTERS} are allowed", field=field)
    if not text.strip():
        return None
    try:
        # Lark does not know that the transformer makes a part of the tree.
        part = cast(_Part, _PARSER.parse(text))
    except _Refusal as refusal:
        raise _invalid(refusal.problem, text, refusal.position, field) from None
    except UnexpectedCharacters as error:
        position = error.pos_in_stream or 0
        raise _invalid(_explain(error, text, position), text, position, field) from None
    except UnexpectedToken as error:
        position = len(text) if error.token.type == "$END" else _position(error.token)
        raise _invalid(_explain(error, text, position), text, position, field) from None
    return part.condition


def _invalid(problem: str, text: str, position: int, field: str) -> InvalidFilter:
    excerpt = text[position : position + _EXCERPT]
    place = f"at character {position + 1}, {excerpt!r}" if excerpt else "at its end"
    return InvalidFilter(f"the filter is wrong {place}: {problem}", field=field)


def _explain(error: UnexpectedCharacters | UnexpectedToken, text: str, position: int) -> str:
    """What the parser could have gone on with, in words."""
    if text[:position].rstrip().endswith("metadata"):
        return _KEY_NEEDED
    if isinstance(error, UnexpectedCharacters) and (found := text[position]) in "\"'":
        return f"this string does not end; in it, {found} is written \\{found}, \\ is \\\\ and a line break is \\n"
    accepted = error.interactive_parser.accepts()  # type: ignore[no-untyped-call]  # lark leaves it untyped
    expected = [words for name, words in _EXPECTED.items() if name in accepted]
    return f"expected {' or '.join(filter(None, (', '.join(expected[:-1]), expected[-1])))}"


@v_args(inline=True)
class _Builder(Transformer[Token, _Part]):
    """Builds the tree while the text is read: nothing here recurses, however deep the text is."""

    def disjunction(self, *parts: "_Part | Token") -> _Part:
        return _joined(Or, parts)

    def conjunction(self, *parts: "_Part | Token") -> _Part:
        return _joined(And, parts)

    def negate(self, keyword: Token, part: _Part) -> _Part:
        return _deeper(Not(part.condition), part, keyword)

    def group(self, part: _Part) -> _Part:
        return _deeper(part.condition, part, None)

    def exists(self, keyword: Token, name: Token) -> _Part:
        path = _field(name)
        if isinstance(path, Column):
            _refuse(name, f"exists asks for metadata.key; every picture has {name}")
        return _Part(Exists(path))

    def compare(self, name: Token, operator: Token, literal: Token) -> _Part:
        field = _field(name)
        value = _value(field, literal)
        if isinstance(value, bool) and operator not in ("==", "!="):
            _refuse(operator, "true and false are compared with == or !=")
        return _Part(Comparison(field, Operator(operator), value))

    def one_of(self, name: Token, keyword: Token, *literals: Token) -> _Part:
        field = _field(name)
        values = tuple(_value(field, literal) for literal in literals)
        return _limited(_Part(OneOf(field, values), comparisons=len(values)), keyword)

    def prefix(self, name: Token, keyword: Token, literal: Token) -> _Part:
        field = _field(name)
        if isinstance(field, Column) and field.type is not ColumnType.STRING:
            _refuse(keyword, f"{name} is no text; like takes image_id, media_type or metadata.key")
        pattern = _string(literal)
        if not pattern.endswith("%") or "%" in pattern[:-1]:
            _refuse(literal, 'like finds beginnings: the pattern has one %, at its end, as in like "abc%"')
        return _Part(Prefix(field, pattern[:-1]))


_PARSER = Lark.open("grammar.lark", rel_to=__file__, parser="lalr", transformer=_Builder())


def _refuse(token: Token, problem: str) -> NoReturn:
    raise _Refusal(_position(token), problem)


def _position(token: Token) -> int:
    return token.start_pos or 0


def _joined(kind: type[And] | type[Or], items: tuple["_Part | Token", ...]) -> _Part:
    parts = [item for item in items if isinstance(item, _Part)]
    joined = _Part(
        kind(tuple(part.condition for part in parts)),
        max(part.depth for part in parts),
        sum(part.comparisons for part in parts),
    )
    return _limited(joined, next(item for item in items if isinstance(item, Token)))


def _limited(part: _Part, place: Token) -> _Part:
    if part.comparisons > MAX_COMPARISONS:
        _refuse(place, f"more than {MAX_COMPARISONS} comparisons; each value of an in counts")
    return part


def _deeper(condition: Filter, part: _Part, place: Token | None) -> _Part:
    if part.depth == MAX_DEPTH:
        raise _Refusal(_position(place) if place else 0, f"more than {MAX_DEPTH} levels of parentheses and not")
    return _Part(condition, part.depth + 1, part.comparisons)


def _field(name: Token) -> Field:
    first, *keys = name.split(".")
    if first == "metadata":
        if not keys:
            _refuse(name, _KEY_NEEDED)
        if len(keys) > MAX_KEYS:
            _refuse(name, f"more than {MAX_KEYS} keys in a path")
        if any(len(key) > MAX_KEY_CHARACTERS for key in keys):
            _refuse(name, f"a key of more than {MAX_KEY_CHARACTERS} characters")
        return MetadataPath(tuple(keys))
    if name not in COLUMNS:
        _refuse(name, f"no such field; there are {_FIELDS} and metadata.key")
    return Column(str(name))


def _value(field: Field, literal: Token) -> Value:
    """The literal as the field compares it."""
    column = field.type if isinstance(field, Column) else None
    match literal.type, column:
        case "STRING", None | ColumnType.STRING:
            return _string(literal)
        case "STRING", ColumnType.TIME:
            return _microseconds(literal)
        case "BOOLEAN", None:
            return literal.lower() == "true"
        case "NUMBER", None | ColumnType.INTEGER:
            value = _number(literal)
            if column is ColumnType.INTEGER and isinstance(value, float):
                _refuse(literal, f"expected a whole number of at most {MAX_WHOLE_NUMBER}")
            return value
        case _, ColumnType.TIME:
            _refuse(literal, 'expected a time in quotes, as in "2025-01-31T12:00:00Z"')
        case _, ColumnType.STRING:
            _refuse(literal, "expected a string in quotes")
        case _:
            _refuse(literal, "expected a number")


def _number(literal: Token) -> int | float:
    value = float(literal)
    if not math.isfinite(value):
        _refuse(literal, "this number is too large")
    return whole(value)


def _string(literal: Token) -> str:
    def unescaped(found: re.Match[str]) -> str:
        character = _ESCAPES.get(found[1])
        if character is None:
            position = _position(literal) + 1 + found.start()
            raise _Refusal(position, "a backslash stands before \\, a quote, n, r or t; other characters as they are")
        return character

    if any("\ud800" <= character <= "\udfff" for character in literal):
        _refuse(literal, "this string has half a character (a surrogate)")
    return re.sub(r"\\(.)", unescaped, literal[1:-1])


def _microseconds(literal: Token) -> int:
    text = _string(literal)
    if _RFC3339.fullmatch(text):
        try:
            return (datetime.fromisoformat(text).astimezone(UTC) - EPOCH) // timedelta(microseconds=1)
        except (ValueError, OverflowError):
            pass
    _refuse(literal, 'no such time; write it as in "2025-01-31T12:00:00Z" or "2025-01-31T13:00:00.25+01:00"')
