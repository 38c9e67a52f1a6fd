"""Small models and bundles for all tests of the exporter."""

import pytest

from models import SmallClips


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> SmallClips:
    return SmallClips(tmp_path_factory.mktemp("clips"))
