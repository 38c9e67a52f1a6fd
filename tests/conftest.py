"""Fixtures for all tests: small models, pictures, and servers that really run."""

import signal
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from clipseek import Client
from clipseek_export import starter
from clipseek_export.export import export
from clipseek_export.source import SourceModel
from clipseek_server.config import Settings
from models import export_bundle, make_small_clip
from servers import ServerThread

# Timings decide no test.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")


def pytest_configure() -> None:
    """Have Ctrl-C mean something: a shell's background jobs ignore it, and so would the programs that tests start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


_LONGEST = "milvus", "ui", "test_benchmarks_run", "starter", "test_demo"
"""Groups of tests."""


@pytest.hookimpl(tryfirst=True)  # pytest-xdist takes down the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Several processes run the tests: those of a module, or of a group that says so, share one and its fixtures."""

    def group(item: pytest.Item) -> str:
        marker = item.get_closest_marker("xdist_group")
        return item.path.stem if marker is None else str(marker.args[0])

    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))
    # The longest first, or the other processes would wait for it in the end.
    items.sort(key=lambda item: _LONGEST.index(group(item)) if group(item) in _LONGEST else len(_LONGEST))


def pytest_collection_finish(session: pytest.Session) -> None:
    """See that the groups count: pytest-xdist tells them by the tests' names, which pytest may have changed."""
    if session.config.getoption("loadgroup", default=False):
        ungrouped = [item.nodeid for item in session.items if "@" not in item.nodeid]
        if ungrouped:
            raise pytest.UsageError(f"{len(ungrouped)} tests are in no group, such as {ungrouped[0]}")


@pytest.fixture(scope="session")
def small_clip(tmp_path_factory) -> Path:
    """A random CLIP of two layers a tower, in transformers' format."""
    return make_small_clip(tmp_path_factory.mktemp("model") / "small-clip")


@pytest.fixture(scope="session")
def bundle(small_clip, tmp_path_factory) -> Path:
    """Its bundle."""
    return export_bundle(small_clip, tmp_path_factory.mktemp("bundles") / "small-clip")


@pytest.fixture(scope="session")
def other_bundle(tmp_path_factory) -> Path:
    """A bundle of another space."""
    model = make_small_clip(tmp_path_factory.mktemp("model") / "other-clip", seed=1)
    return export_bundle(model, tmp_path_factory.mktemp("bundles") / "other-clip")


@pytest.fixture(scope="session")
def starter_model() -> SourceModel:
    """The starter, loaded without touching the network."""

    def refuse(*_: object) -> None:
        raise AssertionError("the starter must not use the network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        return starter.load()


@pytest.fixture(scope="session")
def starter_bundle(starter_model, tmp_path_factory) -> Path:
    """The starter's bundle."""
    folder = tmp_path_factory.mktemp("bundles") / "starter"
    export(starter_model, folder)
    return folder


@pytest.fixture(scope="session")
def server(bundle, tmp_path_factory) -> Iterator[ServerThread]:
    """A server over Milvus Lite for all tests that need no other settings; each uses a collection of its own."""
    settings = Settings(listen="127.0.0.1:0", bundles=[bundle], data_dir=tmp_path_factory.mktemp("data"))
    with ServerThread(settings) as running:
        yield running


@pytest.fixture
def client(server) -> Iterator[Client]:
    """A client of that server."""
    with Client(server.address) as connected:
        yield connected


@pytest.fixture
def collection() -> str:
    """A name that no other test uses."""
    return f"test_{uuid.uuid4().hex}"
