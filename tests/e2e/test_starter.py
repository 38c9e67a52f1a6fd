"""The stand-in model behind the real server finds, among all of scikit-image's pictures, what everyone expects."""

from collections.abc import Iterator
from importlib.resources import files

import pytest

from clipseek import Client, InvalidArgumentError
from clipseek_server.config import Settings
from pictures import ANSWERS
from servers import ServerThread

pytestmark = pytest.mark.xdist_group("starter")  # built once

NOT_PICTURES = {".npy", ".npz", ".txt", ".xml", ".py", ".pyc", ".json", ".pyi"}


@pytest.fixture(scope="module")
def starter_client(starter_bundle, tmp_path_factory) -> Iterator[Client]:
    """A server with the starter and every picture of scikit-image's wheel."""
    settings = Settings(listen="127.0.0.1:0", bundles=[starter_bundle], data_dir=tmp_path_factory.mktemp("starter"))
    with ServerThread(settings) as server, Client(server.address) as client:
        stored = 0
        for file in (files("skimage") / "data").iterdir():
            if file.is_file() and "." + file.name.rpartition(".")[2] not in NOT_PICTURES:
                try:
                    client.insert(file.read_bytes(), metadata={"file": file.name})
                    stored += 1
                except InvalidArgumentError as error:
                    assert error.reason == "INVALID_IMAGE", file.name
        assert stored >= 28
        yield client


@pytest.mark.parametrize("sentence", ANSWERS)
def test_the_right_picture_comes_first(starter_client, sentence):
    assert starter_client.search_text(sentence)[0].image.metadata["file"] in ANSWERS[sentence]


def test_the_server_says_that_it_is_not_clip(starter_client):
    model = starter_client.info().models[0]
    assert model.name == "starter"
    assert "not CLIP" in model.description
