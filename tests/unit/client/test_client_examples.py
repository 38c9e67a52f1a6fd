"""The examples in the docstrings of both clients, run as they stand; the server is a small one."""

import ast
import asyncio
import doctest
import inspect
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import clipseek
from clipseek import AsyncClient, Client, InsertItem, Term
from clipseek.channel import Endpoint
from clipseek.gallery import Section, gallery_html
from small_server import SmallServer


def examples() -> Iterator[tuple[str, str, bool]]:
    """Name, code, and whether it awaits."""
    parser = doctest.DocTestParser()
    documented: list[tuple[str, Any, bool]] = [("clipseek", clipseek, False), ("gallery_html", gallery_html, False)]
    for kind in (Client, AsyncClient):
        documented.append((kind.__name__, kind, kind is AsyncClient))
        for name, member in inspect.getmembers(kind, inspect.isfunction):
            if not name.startswith("_"):
                documented.append((f"{kind.__name__}.{name}", member, kind is AsyncClient))
    for name, thing, awaits in documented:
        code = "".join(example.source for example in parser.get_examples(inspect.getdoc(thing) or ""))
        if code:
            yield name, code, awaits


@pytest.mark.parametrize(("name", "code", "awaits"), list(examples()))
def test_example(
    name: str, code: str, awaits: bool, server: SmallServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("photos", "holiday"):
        (tmp_path / folder).mkdir()
    for file in ("cat.jpg", "dog.jpg", "another-cat.jpg", "beach.jpg", "photos/one.jpg", "holiday/cat.jpg"):
        Image.new("RGB", (8, 8), (1, 2, len(file))).save(tmp_path / file)
    for image_id in ("cat", "a", "b"):
        server.store(image_id.encode(), image_id)
    # Their address is the one that a server has when nobody says otherwise.
    for kind in ("_sync", "_async"):
        monkeypatch.setattr(f"clipseek.{kind}.connection.endpoint", lambda _: Endpoint(server.address, None))
    namespace: dict[str, Any] = {
        "AsyncClient": AsyncClient,
        "Client": Client,
        "InsertItem": InsertItem,
        "Path": Path,
        "Section": Section,
        "Term": Term,
        "gallery_html": gallery_html,
    }
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT if awaits else 0
    with Client(server.address) as client:
        namespace["client"] = client
        code_object = compile(code, name, "exec", flags=flags)
        if awaits:
            asyncio.run(types.FunctionType(code_object, namespace)())
        else:
            exec(code_object, namespace)


def test_every_method_has_an_example() -> None:
    names = {name for name, *_ in examples()}
    methods = {
        f"{kind.__name__}.{name}"
        for kind in (Client, AsyncClient)
        for name, _ in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_") and name != "close"
    }
    assert names >= methods | {"clipseek", "gallery_html", "Client", "AsyncClient"}
