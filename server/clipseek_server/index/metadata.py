"""How metadata lies in Milvus' JSON field: every key carries the type of its value.

``{"year": 2020, "place": {"city": "Oslo"}}`` is stored as ``{"n:year": 2020, "o:place": {"s:city": "Oslo"}}``. Milvus'
engines disagree on comparisons between types (Lite takes ``true`` and ``1`` for equal, and "a list is less than 3" for
neither true nor false), and none can ask for a type. With the type in the key a comparison only ever meets values of
its own type, so one expression means the same everywhere. Lists, and what is in them, are kept as they are.
"""

import json
from collections.abc import Mapping
from enum import Enum
from typing import Any

MAX_STORED_BYTES = 65_536
"""What a Milvus server takes for one JSON value, unless it is configured otherwise."""

_LARGEST_EXACT_INTEGER = 2**53


class Kind(Enum):
    """A JSON type; the value is its tag in stored keys."""

    NUMBER = "n"
    STRING = "s"
    BOOLEAN = "b"
    OBJECT = "o"
    LIST = "l"
    NULL = "0"


_KINDS: dict[type, Kind] = {
    int: Kind.NUMBER,
    float: Kind.NUMBER,
    str: Kind.STRING,
    bool: Kind.BOOLEAN,
    dict: Kind.OBJECT,
    list: Kind.LIST,
    type(None): Kind.NULL,
}


def whole(number: float) -> int | float:
    """3 for 3.0: a Struct knows doubles only, and people write 3. Beyond 2**53 doubles are not exact."""
    return int(number) if number.is_integer() and abs(number) <= _LARGEST_EXACT_INTEGER else number


def kind_of(value: object) -> Kind:
    """The JSON type of a value; ``KeyError`` for what is no plain JSON value."""
    return _KINDS[type(value)]


def stored_key(key: str, kind: Kind) -> str:
    """The key under which a value of that kind is stored."""
    return f"{kind.value}:{key}"


def encode(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata as it is stored; two bytes a key longer."""
    stored: dict[str, Any] = {}
    for key, value in metadata.items():
        kind = kind_of(value)
        stored[stored_key(key, kind)] = encode(value) if kind is Kind.OBJECT else value
    return stored


def decode(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata that ``encode`` was given."""
    return {key[2:]: decode(value) if key[0] == Kind.OBJECT.value else value for key, value in stored.items()}


def stored_bytes(metadata: Mapping[str, Any]) -> int:
    """Length of the JSON that is stored. A control character takes six bytes of it, and each key two more."""
    return len(json.dumps(encode(metadata), ensure_ascii=False, separators=(",", ":")).encode())
