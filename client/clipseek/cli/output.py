"""Printing: results to standard output, as a table or as JSON; everything else to standard error."""

import base64
import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

# Lines that go to a file or a pipe are not broken at the width of a terminal.
_PIPE_WIDTH = 240


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
    text = value if isinstance(value, str) else compact(value)
    return Text("".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text))


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
