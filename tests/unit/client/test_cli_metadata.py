"""Metadata from the command line and from tables."""

from pathlib import Path
from typing import Any

import pytest

from clipseek.cli.metadata import Attached, pairs, read_table


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("a=summer", "summer"),
        ("a=2024", 2024),
        ("a=-1.5", -1.5),
        ("a=true", True),
        ("a=null", None),
        ('a="2024"', "2024"),
        ('a=["x", 1]', ["x", 1]),
        ("a=x=y", "x=y"),
        ("a=", ""),
        ("a=007", "007"),
        ("a=NaN", "NaN"),
        ("a=12345678901234567890", "12345678901234567890"),
    ],
)
def test_values(given: str, value: Any) -> None:
    assert pairs([given]) == {"a": value}


@pytest.mark.parametrize(("given", "message"), [("a", "KEY"), ("=b", "KEY"), ("", "KEY"), ("image_id=x", "same id")])
def test_what_is_no_pair(given: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pairs([given])


def test_tables_of_both_kinds_say_the_same(tmp_path: Path) -> None:
    csv, lines = tmp_path / "table.csv", tmp_path / "table.jsonl"
    csv.write_text('\ufefffile,image_id,year,title\na.png,7,2024,"cat, asleep"\nb.png,,,\n', encoding="utf-8")
    lines.write_text('{"file": "a.png", "image_id": "7", "year": 2024, "title": "cat, asleep"}\n\n{"file": "b.png"}\n')
    assert read_table(csv) == read_table(lines)
    attached = Attached({"year": 1}, read_table(csv))
    assert attached.of("a.png") == ("7", {"file": "a.png", "year": 2024, "title": "cat, asleep"})
    assert attached.of("b.png") == (None, {"file": "b.png", "year": 1})
    assert attached.of("c.png") == (None, {"file": "c.png", "year": 1})
    assert attached.without_picture(["a.png"]) == ["b.png"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "name\na\n", "line 2: there is no 'file'"),
        ("t.csv", "file,a\nx,1\nx,2\n", "line 3: x is there already"),
        ("t.csv", "file,image_id\nx,1\ny,2\nz,1\n", "line 4: x has the id 1 already"),
        ("t.csv", "file,a\nx\n", "line 2: it has not as many cells"),
        ("t.csv", "file,a\nx,1,2\n", "line 2: it has not as many cells"),
        ("t.csv", "file,a,b,a\nx,1,2,3\n", "line 1: there are two columns 'a'"),
        ("t.jsonl", "{\n", "line 1: this is not JSON"),
        ("t.jsonl", "[1]\n", "line 1: this is no JSON object"),
        ("t.jsonl", '{"file": 3}\n', "line 1: there is no 'file'"),
    ],
)
def test_rows_that_cannot_be_understood(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path / name)


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_a_table_that_is_not_utf8_is_named(tmp_path: Path, name: str) -> None:
    text = "file,title\nx,caf\u00e9\n" if name == "t.csv" else '{"file": "x", "title": "caf\u00e9"}\n'
    (tmp_path / name).write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=rf"{name} is not UTF-8: .* at byte \d+"):
        read_table(tmp_path / name)
