"""Health is honest: a server without Milvus stays up and says so; one with a damaged model does not start."""

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clipseek import Client, UnavailableError
from clipseek_server.config import Settings
from pictures import picture
from servers import ServerProcess, ServerThread

EMBEDDING, SEARCH = "clipseek.v1.EmbeddingService", "clipseek.v1.SearchService"
COLLECTIONS, ADMIN, INFO = "clipseek.v1.CollectionService", "clipseek.v1.AdminService", "clipseek.v1.InfoService"


def test_everything_serves(client):
    for service in ("", EMBEDDING, SEARCH, COLLECTIONS, ADMIN, INFO):
        assert client.health(service) == "serving"


@pytest.fixture(scope="module")
def alone(bundle, tmp_path_factory) -> Iterator[Client]:
    """A client of a server whose Milvus is not there."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        settings = Settings(
            listen="127.0.0.1:0",
            bundles=[bundle],
            data_dir=tmp_path_factory.mktemp("alone"),
            milvus_uri=f"http://127.0.0.1:{taken.getsockname()[1]}",
            milvus_timeout=0.5,
        )
        with ServerThread(settings) as server, Client(server.address) as client:
            yield client


def test_without_milvus_embedding_serves_and_search_does_not(alone):
    assert {name: alone.health(name) for name in ("", SEARCH, COLLECTIONS, ADMIN)} == {
        "": "not_serving",
        SEARCH: "not_serving",
        COLLECTIONS: "not_serving",
        ADMIN: "not_serving",
    }
    assert {alone.health(name) for name in (EMBEDDING, INFO)} == {"serving"}
    assert len(alone.embed_text("a cat").values) == 32
    assert len(alone.embed_image(picture(1)).values) == 32
    assert alone.info().index.engine == "milvus"


def test_without_milvus_everything_else_is_unavailable(alone):
    # Far longer than milvus_timeout, and far shorter than anything without a limit.
    patient = {"collection": "pets", "timeout": 20}
    calls: list[Callable[[], object]] = [
        lambda: alone.insert(picture(1), **patient),
        lambda: alone.delete("a", **patient),
        lambda: alone.update("a", {}, **patient),
        lambda: alone.delete_collection("pets", timeout=20),
        lambda: alone.create_collection("pets", timeout=20),
        lambda: list(alone.rebuild("pets", timeout=20)),
        # Reads are repeated by the client while the server is away.
        lambda: alone.search_text("a cat", **patient),
        lambda: alone.get("a", **patient),
    ]
    for call in calls:
        with pytest.raises(UnavailableError) as caught:
            call()
        assert caught.value.reason == "INDEX_UNAVAILABLE"
        assert caught.value.retry_after
    assert alone.health(EMBEDDING) == "serving"


def test_a_process_without_milvus_stays_up_and_stops_in_order(bundle, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        server = ServerProcess(
            tmp_path / "data",
            bundle,
            CLIPSEEK_MILVUS_URI=f"http://127.0.0.1:{taken.getsockname()[1]}",
            CLIPSEEK_MILVUS_TIMEOUT="0.5",
        )
        server.launch()
        try:
            with Client(server.address) as client:
                assert client.health(EMBEDDING) == "serving"
                assert client.health() == "not_serving"
            assert server.stop() == 0
        finally:
            server.kill()


def flip_a_byte(folder: Path) -> str:
    file = folder / "vision.onnx"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    return "vision.onnx is missing or damaged"


def lose_a_file(folder: Path) -> str:
    (folder / "tokenizer.json").unlink()
    return "tokenizer.json is missing or damaged"


def change_a_golden_embedding(folder: Path) -> str:
    file = folder / "bundle.json"
    manifest = json.loads(file.read_text())
    manifest["golden"][-1]["embedding"].reverse()
    file.write_text(json.dumps(manifest))
    return "does not give what it gave when it was exported"


@pytest.mark.parametrize("damage", [flip_a_byte, lose_a_file, change_a_golden_embedding])
def test_a_damaged_bundle_is_refused_in_words(bundle, tmp_path, damage):
    damaged = shutil.copytree(bundle, tmp_path / "bundle")
    words = damage(damaged)
    options = ["--bundles", damaged, "--data-dir", tmp_path / "data", "--listen", "127.0.0.1:0"]
    ended = subprocess.run(
        [sys.executable, "-m", "clipseek_server", "serve", *options],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ended.returncode == 1
    assert words in ended.stderr
    assert "export" in ended.stderr
    assert "Traceback" not in ended.stderr
