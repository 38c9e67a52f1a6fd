"""Metadata of the command line: ``KEY=VALUE``, and tables with a row a picture."""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = "file"
IMAGE_ID = "image_id"


@dataclass(frozen=True)
class Attached:
    """What is attached to the pictures of an import.

    Attributes:
        to_all: To each of them.
        by_file: To some, by their path below the folder; goes before ``to_all``. ``image_id`` is the id.
    """

    to_all: Mapping[str, Any]
    by_file: Mapping[str, Mapping[str, Any]]

    def of(self, name: str) -> tuple[str | None, dict[str, Any]]:
        """The id (``None``: none was given) and the metadata of a picture."""
        own = dict(self.by_file.get(name, {}))
        image_id = own.pop(IMAGE_ID, None)
        return (None if image_id is None else str(image_id)), {FILE: name, **self.to_all, **own}

    def without_picture(self, names: Iterable[str]) -> list[str]:
        """The files of the table that are not among these."""
        return sorted(self.by_file.keys() - set(names))


def pairs(given: Iterable[str]) -> dict[str, Any]:
    """``KEY=VALUE`` each.

    Raises:
        ValueError: One is not of that form.
    """
    found = {}
    for each in given:
        key, equals, value = each.partition("=")
        if not key or not equals:
            raise ValueError(f"metadata is given as KEY=VALUE, e.g. album=summer; not {each!r}")
        if key == IMAGE_ID:
            raise ValueError("all pictures would have the same id; ids come from a table, with --metadata-from")
        found[key] = _value(value)
    return found


def read_table(path: Path) -> dict[str, dict[str, Any]]:
    """The rows of a CSV file (with a line of names) or of a JSON Lines file, by their column ``file``.

    Cells that are empty in CSV attach nothing.

    Raises:
        OSError: It cannot be read.
        ValueError: A row cannot be understood; the message names its line.
    """
    rows = _json_lines(path) if path.suffix.lower() in {".jsonl", ".ndjson", ".json"} else _csv(path)
    found: dict[str, dict[str, Any]] = {}
    ids: dict[str, str] = {}
    for line, row in _as_utf8(path, rows):
        name = row.pop(FILE, None)
        if not isinstance(name, str) or not name:
            raise ValueError(f"{path}, line {line}: there is no {FILE!r}, the picture's path below the folder")
        if name in found:
            raise ValueError(f"{path}, line {line}: {name} is there already")
        if (given := row.get(IMAGE_ID)) is not None:
            if (image_id := str(given)) in ids:
                raise ValueError(f"{path}, line {line}: {ids[image_id]} has the id {image_id} already")
            ids[image_id] = name
        found[name] = row
    return found


def _as_utf8(path: Path, rows: Iterator[tuple[int, dict[str, Any]]]) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        yield from rows
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from error


def _csv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, strict=True)
        try:
            names = rows.fieldnames or ()
            if twice := [name for name, count in Counter(names).items() if count > 1]:
                raise ValueError(f"{path}, line 1: there are two columns {twice[0]!r}")
            for row in rows:
                if None in row or None in row.values():
                    raise ValueError(f"{path}, line {rows.line_num}: it has not as many cells as the first line")
                keys = {FILE, IMAGE_ID}
                yield (
                    rows.line_num,
                    {key: cell if key in keys else _value(cell) for key, cell in row.items() if cell != ""},
                )
        except csv.Error as error:
            raise ValueError(f"{path}, line {rows.line_num}: {error}") from error


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: this is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}: this is no JSON object")
            yield number, row


def _value(text: str) -> Any:
    """Numbers, ``true``, ``false``, ``null``, lists, objects and quoted text as in JSON, all else as it stands."""
    try:
        value = json.loads(text, parse_constant=_refuse)
    except ValueError:
        return text
    # More digits than a number can hold, or zeros before it: it is a name, a telephone number or the like.
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) > 2**53:
        return text
    return value


def _refuse(name: str) -> None:
    raise ValueError(name)
