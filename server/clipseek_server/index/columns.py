"""Filters on all records at once: what they ask of lies in columns, and each comparison is one pass over a column.

The columns are there before a filter asks, so the first search with a filter is as fast as the next. They are kept for
the fields that every record has and for the first keys of metadata that appear; what else a filter asks for is read
from the records, one by one.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from clipseek_server.index.filters import predicate
from clipseek_server.index.filters.tree import (
    COLUMNS,
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
)
from clipseek_server.index.metadata import Kind, kind_of
from clipseek_server.index.records import Record
from clipseek_server.index.vectors import Slots

Mask = npt.NDArray[np.bool_]
_Kinds = npt.NDArray[np.uint8]

MAX_KEYS = 32
"""Keys of metadata that get a column: nine bytes a record each, and for each different text about 100."""

_FIRST_LENGTH = 1024

_CODES = {kind: number for number, kind in enumerate([Kind.NULL, *(kind for kind in Kind if kind is not Kind.NULL)])}
"""Kinds as they lie in columns. Nothing is 0, as null is: no filter tells them apart."""

_ORDER: dict[Operator, Callable[..., Any]] = {
    Operator.LT: operator.lt,
    Operator.LE: operator.le,
    Operator.GT: operator.gt,
    Operator.GE: operator.ge,
}

_Holds: TypeAlias = Callable[[list[str]], list[bool]]
"""A comparison of many texts: a call for each would take three times as long."""


class Columns:
    """The records' fields by slot. What is in slots that are not written meanwhile may be asked for in threads.

    Args:
        record: Reads the record in a slot.
    """

    def __init__(self, record: Callable[[int], Record]) -> None:
        self._record = record
        self._length = _FIRST_LENGTH
        self._fields = {name: _Values(self._length) for name in COLUMNS}
        self._keys: dict[str, _Values] = {}
        self._nothing = _Values(self._length)

    def put(self, slot: int, record: Record) -> None:
        """Write a record into a slot that is empty: any that is not far beyond the last."""
        while slot >= self._length:
            self._length *= 2
            for column in (*self._fields.values(), *self._keys.values(), self._nothing):
                column.grow(self._length)
        for name, column in self._fields.items():
            column.put(slot, getattr(record, name))
        for key, value in record.metadata.items():
            known = self._keys.get(key)
            if known is None:
                if len(self._keys) == MAX_KEYS:
                    # For good: a column that began later would lack the records of before.
                    continue
                known = self._keys[key] = _Values(self._length)
            known.put(slot, value)

    def clear(self, slot: int) -> None:
        """Empty a slot."""
        for column in (*self._fields.values(), *self._keys.values()):
            column.clear(slot)

    def mask(self, condition: Filter, slots: Slots) -> Mask:
        """For which of the slots the filter holds; the same as ``predicate`` of their records."""
        match condition:
            case Not(operand):
                return ~self.mask(operand, slots)
            case And(operands):
                mask = np.ones(len(slots), dtype=np.bool_)
                for operand in operands:
                    open_ = np.flatnonzero(mask)
                    mask[open_] = self.mask(operand, slots[open_])
                return mask
            case Or(operands):
                return ~self.mask(And(tuple(Not(operand) for operand in operands)), slots)
            case Exists(field) | Comparison(field) | OneOf(field) | Prefix(field):
                column = self._column(field)
                return self._mask_by_record(condition, slots) if column is None else column.mask(condition, slots)

    def _column(self, field: Field) -> "_Values | None":
        """The field's column; ``None`` if it has none, though records may have the field."""
        match field:
            case Column(name):
                return self._fields[name]
            case MetadataPath((key,)):
                column = self._keys.get(key)
                return self._nothing if column is None and len(self._keys) < MAX_KEYS else column
            case _:
                return None

    def _mask_by_record(self, condition: Filter, slots: Slots) -> Mask:
        holds = predicate(condition)
        return np.array([holds(self._record(slot)) for slot in slots.tolist()], dtype=np.bool_)


class _Values:
    """One column: the kind of each value, and its number; a text's number is where it stands among the texts."""

    def __init__(self, length: int) -> None:
        self._kinds = np.zeros(length, dtype=np.uint8)
        # Doubles hold all numbers that metadata has, and times until the year 2255.
        self._numbers = np.zeros(length, dtype=np.float64)
        self._texts = _Texts()

    def grow(self, length: int) -> None:
        # What reads in a thread goes on with the old ones.
        self._kinds = np.concatenate([self._kinds, np.zeros(length - len(self._kinds), dtype=np.uint8)])
        self._numbers = np.concatenate([self._numbers, np.zeros(length - len(self._numbers))])

    def put(self, slot: int, value: object) -> None:
        self._kinds[slot] = _CODES[kind_of(value)]
        if isinstance(value, str):
            self._numbers[slot] = self._texts.take(value)
        elif isinstance(value, int | float):
            self._numbers[slot] = value

    def clear(self, slot: int) -> None:
        if self._kinds[slot] == _CODES[Kind.STRING]:
            self._texts.give_back(int(self._numbers[slot]))
        self._kinds[slot] = 0

    def mask(self, condition: Comparison | OneOf | Prefix | Exists, slots: Slots) -> Mask:
        kinds = self._kinds[slots]
        match condition:
            case Exists():
                mask: Mask = kinds != 0
                return mask
            case OneOf(_, values):
                return self._equal(values, kinds, slots)
            case Prefix(_, prefix):
                return self._texts_mask(lambda texts: [text.startswith(prefix) for text in texts], kinds, slots)
            case Comparison(_, Operator.EQ, value):
                return self._equal((value,), kinds, slots)
            case Comparison(_, Operator.NE, value):
                return _are(kinds, kind_of(value)) & ~self._equal((value,), kinds, slots)
            case Comparison(_, operator_, str() as value):
                holds = _ORDER[operator_]
                return self._texts_mask(lambda texts: [holds(text, value) for text in texts], kinds, slots)
            case Comparison(_, operator_, value):
                compared: Mask = _ORDER[operator_](self._numbers[slots], float(value))
                return compared & _are(kinds, kind_of(value))

    def _equal(self, values: Sequence[Value], kinds: _Kinds, slots: Slots) -> Mask:
        mask = np.zeros(len(slots), dtype=np.bool_)
        numbers = self._numbers[slots]
        by_kind: dict[Kind, list[float]] = {}
        for value in values:
            number = self._texts.number(value) if isinstance(value, str) else float(value)
            if number is not None:
                by_kind.setdefault(kind_of(value), []).append(number)
        for kind, wanted in by_kind.items():
            mask |= _are(kinds, kind) & np.isin(numbers, wanted)
        return mask

    def _texts_mask(self, holds: _Holds, kinds: _Kinds, slots: Slots) -> Mask:
        mask = _are(kinds, Kind.STRING)
        mask[mask] = self._texts.mask(holds, self._numbers[slots[mask]].astype(np.intp))
        return mask


def _are(kinds: _Kinds, kind: Kind) -> Mask:
    mask: Mask = kinds == _CODES[kind]
    return mask


class _Texts:
    """Different texts, each with a number for as long as it is in use."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._texts: list[str] = []
        self._uses: list[int] = []
        self._unused: list[int] = []

    def take(self, text: str) -> int:
        number = self._numbers.get(text)
        if number is not None:
            self._uses[number] += 1
            return number
        if self._unused:
            number = self._unused.pop()
            self._texts[number], self._uses[number] = text, 1
        else:
            number = len(self._texts)
            self._texts.append(text)
            self._uses.append(1)
        self._numbers[text] = number
        return number

    def give_back(self, number: int) -> None:
        self._uses[number] -= 1
        if not self._uses[number]:
            del self._numbers[self._texts[number]]
            self._texts[number] = ""
            self._unused.append(number)

    def number(self, text: str) -> int | None:
        return self._numbers.get(text)

    def mask(self, holds: _Holds, numbers: Slots) -> Mask:
        texts = self._texts
        if len(numbers) < len(texts):
            return np.array(holds([texts[number] for number in numbers.tolist()]), dtype=np.bool_)
        mask: Mask = np.array(holds(texts.copy()), dtype=np.bool_)[numbers]
        return mask
