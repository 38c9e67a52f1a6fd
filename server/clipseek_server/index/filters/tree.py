"""The tree of a filter, and its canonical text."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from typing import TypeAlias

Value: TypeAlias = str | bool | int | float
"""A literal. Numbers are finite; whole ones up to 2**53 are int. Times are int: microseconds since the epoch, UTC."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ColumnType(Enum):
    """What a column is compared with."""

    INTEGER = auto()
    STRING = auto()
    TIME = auto()


COLUMNS = {
    "width": ColumnType.INTEGER,
    "height": ColumnType.INTEGER,
    "size_bytes": ColumnType.INTEGER,
    "media_type": ColumnType.STRING,
    "image_id": ColumnType.STRING,
    "create_time": ColumnType.TIME,
    "update_time": ColumnType.TIME,
}
"""The fields that every record has, by name: of the record, of the language and of Milvus' schema."""


@dataclass(frozen=True, slots=True)
class Column:
    """A field that every record has; a name in ``COLUMNS``."""

    name: str

    @property
    def type(self) -> ColumnType:
        """What it is compared with."""
        return COLUMNS[self.name]


@dataclass(frozen=True, slots=True)
class MetadataPath:
    """A value in the metadata: one key or more, outermost first; each matches ``[A-Za-z_][A-Za-z0-9_]{0,63}``."""

    keys: tuple[str, ...]


Field: TypeAlias = Column | MetadataPath


class Operator(Enum):
    """How a comparison compares. Strings are ordered by code points; booleans know only the first two."""

    EQ = "=="
    NE = "!="
    LT = "<"
    LE = "<="
    GT = ">"
    GE = ">="


@dataclass(frozen=True, slots=True)
class Comparison:
    """The field has a value of the literal's type, and it compares so."""

    field: Field
    operator: Operator
    value: Value


@dataclass(frozen=True, slots=True)
class OneOf:
    """The field equals one of at least one literal."""

    field: Field
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Prefix:
    """The field is a string that begins so."""

    field: Field
    prefix: str


@dataclass(frozen=True, slots=True)
class Exists:
    """The metadata has a value there; null is none."""

    path: MetadataPath


@dataclass(frozen=True, slots=True)
class Not:
    """The operand does not hold."""

    operand: "Filter"


@dataclass(frozen=True, slots=True)
class And:
    """All of two operands or more hold."""

    operands: tuple["Filter", ...]


@dataclass(frozen=True, slots=True)
class Or:
    """One of two operands or more holds."""

    operands: tuple["Filter", ...]


Filter: TypeAlias = Comparison | OneOf | Prefix | Exists | Not | And | Or

_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})


def quoted(text: str) -> str:
    """A string literal, the same in our language, in Milvus Lite's and in a Milvus server's."""
    return f'"{text.translate(_ESCAPES)}"'


def number(value: float) -> str:
    """A number literal, the same in all three."""
    return repr(value)


def to_text(condition: Filter) -> str:
    """The canonical text: ``parse_filter`` gives the same tree back, unless it is longer than the limit."""
    match condition:
        case Comparison(field, operator, value):
            return f"{_name(field)} {operator.value} {_literal(field, value)}"
        case OneOf(field, values):
            return f"{_name(field)} in [{', '.join(_literal(field, value) for value in values)}]"
        case Prefix(field, prefix):
            return f"{_name(field)} like {quoted(prefix + '%')}"
        case Exists(path):
            return f"exists {_name(path)}"
        case Not(operand):
            return f"not {_nested(operand)}"
        case And(operands):
            return " and ".join(_nested(operand) for operand in operands)
        case Or(operands):
            return " or ".join(_nested(operand) for operand in operands)


def fingerprint(condition: Filter) -> str:
    """32 hex digits that stand for the filter, however it was spelled; stable over releases and processes."""
    return hashlib.sha256(to_text(condition).encode()).hexdigest()[:32]


def _nested(condition: Filter) -> str:
    text = to_text(condition)
    return f"({text})" if isinstance(condition, And | Or) else text


def _name(field: Field) -> str:
    return field.name if isinstance(field, Column) else ".".join(("metadata", *field.keys))


def _literal(field: Field, value: Value) -> str:
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(field, Column) and field.type is ColumnType.TIME:
        return quoted((EPOCH + timedelta(microseconds=value)).isoformat())
    return number(value)
