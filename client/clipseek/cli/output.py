"""Printing: results to standard output, as a table or as JSON; everything else to standard error."""

import base64
import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import chain, islice
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

# Lines that go to a file or a pipe are not broken at the width of a terminal.
_PIPE_WIDTH = 240

_MEASURED_ROWS = 100
"""A page of a listing: so many rows say how wide its columns are."""


class Output:
    """Where a command prints."""

    def __init__(self, *, json: bool) -> None:
        self.json = json
        self._out = Console(highlight=False, soft_wrap=False)
        if not self._out.is_terminal:
            self._out.width = _PIPE_WIDTH
        self.err = Console(stderr=True, highlight=False)

    def value(self, value: object) -> None:
        """A line of JSON."""
        typer.echo(json.dumps(plain(value), ensure_ascii=False))

    def table(
        self, columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: frozenset[str] = frozenset()
    ) -> None:
        """A table; columns named in ``right`` are aligned right. Where none has a name, there is no line for names."""
        table = Table(box=None, header_style="bold", pad_edge=False, show_header=any(columns))
        for column in columns:
            table.add_column(column, justify="right" if column in right else "left", overflow="fold")
        for row in rows:
            table.add_row(*(clean(cell) for cell in row))
        self._out.print(table)

    def listing(
        self, columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: frozenset[str] = frozenset()
    ) -> None:
        """Rows as they come, however many, each in one line; columns are as wide as the first of them need.

        A cell that is longer moves what stands right of it; the last column may be of any length.
        """
        lines = ([one_line(cell) for cell in row] for row in rows)
        first = list(islice(lines, _MEASURED_ROWS))
        widths = [max(map(len, cells)) for cells in zip(columns, *first, strict=True)]
        widths[-1] = 0

        def aligned(cells: Iterable[str]) -> str:
            padded = (
                cell.rjust(width) if column in right else cell.ljust(width)
                for column, cell, width in zip(columns, cells, widths, strict=True)
            )
            return "  ".join(padded).rstrip()

        self._out.print(Text(aligned(columns), style="bold"), soft_wrap=True)
        for cells in chain(first, lines):
            typer.echo(aligned(cells))

    def facts(self, facts: Mapping[str, object]) -> None:
        """Names and values, one a line."""
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in facts.items():
            table.add_row(clean(name), clean(value))
        self._out.print(table)

    def note(self, text: str) -> None:
        """A line for people, on standard error."""
        self.err.print(clean(text), soft_wrap=True)


def clean(value: object) -> Text:
    """A value as text that can do nothing to a terminal."""
    return Text("\n".join(_printable(line) for line in _as_text(value).split("\n")))


def one_line(value: object) -> str:
    """A value as text that can do nothing to a terminal and breaks no line."""
    return _printable(_as_text(value).replace("\n", " "))


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else compact(value)


def _printable(line: str) -> str:
    if line.isprintable():
        return line
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in line)


def compact(value: object) -> str:
    """A value in a cell: ``key=value`` for metadata, nothing for nothing."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={item if isinstance(item, str) else plain_json(item)}" for key, item in value.items())
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return str(value)


def plain_json(value: object) -> str:
    """JSON in one line."""
    return json.dumps(plain(value), ensure_ascii=False)


def plain(value: object) -> Any:
    """A result as JSON has it: times in RFC 3339, bytes in base64, what is not there left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {name: plain(item) for name, item in items if item is not None}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return value
