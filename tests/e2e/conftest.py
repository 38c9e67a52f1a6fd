"""Fixtures for the end-to-end tests."""

from collections.abc import Iterator

import pytest

from clipseek import Client
from clipseek_server.config import Settings
from housekept import HousekeptServer


@pytest.fixture(scope="session")
def housekept(bundle, tmp_path_factory) -> Iterator[HousekeptServer]:
    """A server whose sweep the tests call; its own first sweep is far away."""
    settings = Settings(
        listen="127.0.0.1:0", bundles=[bundle], data_dir=tmp_path_factory.mktemp("housekept"), sweep_interval=1e6
    )
    with HousekeptServer(settings) as running:
        yield running


@pytest.fixture
def keeper(housekept) -> Iterator[Client]:
    """A client of that server."""
    with Client(housekept.address) as connected:
        yield connected
