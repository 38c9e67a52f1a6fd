"""Finding checkpoints: folders, a hub that answers, and hubs that don't."""

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from clipseek_export import clip
from clipseek_export.errors import ExportError, HubUnreachable
from clipseek_export.hub import DEFAULT_MODEL, find_checkpoint
from models import SmallClips

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and nothing from the user's environment."""
    cache = tmp_path / "hub-cache"
    monkeypatch.setenv("HF_HOME", str(cache))
    for name in ("HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return cache


class Hub(BaseHTTPRequestHandler):
    """What the exporter needs of the hub's protocol, over a folder of ``owner/name`` folders."""

    models: Path
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self._describe("/".join(parts[2:4]), parts[5:], tree=parts[4:5] == ["tree"])
        else:
            self._send(self.models / "/".join(parts[:2]) / parts[-1])

    do_HEAD = do_GET  # noqa: N815 (the name that http.server calls)

    def _describe(self, model: str, revision: list[str], *, tree: bool) -> None:
        folder = self.models / model
        if not folder.is_dir():
            return self._fail(401, "RepoNotFound")
        if revision and revision[0] not in ("main", COMMIT):
            return self._fail(404, "RevisionNotFound")
        if tree:
            entries = [
                {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": path.name}
                for path in sorted(folder.iterdir())
            ]
            return self._answer(json.dumps(entries).encode(), "application/json")
        files = [{"rfilename": path.name} for path in sorted(folder.iterdir())]
        return self._answer(json.dumps({"id": model, "sha": COMMIT, "siblings": files}).encode(), "application/json")

    def _send(self, path: Path) -> None:
        if path.is_file():
            self._answer(path.read_bytes(), "application/octet-stream")
        else:
            self._fail(404, "EntryNotFound")

    def _answer(self, body: bytes, media_type: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _fail(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def serving(models: Path) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    handler = type("OneHub", (Hub,), {"models": models, "asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def models(clips: SmallClips, tmp_path: Path) -> Path:
    """Three models on a hub: a whole one, one with only a pickle, one without weights."""
    folder = tmp_path / "models"
    for name in ("whole", "pickled", "empty"):
        (folder / "acme" / name).mkdir(parents=True)
        for path in clips.checkpoint().iterdir():
            if path.suffix != ".safetensors" or name == "whole":
                (folder / "acme" / name / path.name).write_bytes(path.read_bytes())
    (folder / "acme" / "whole" / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\n")
    (folder / "acme" / "whole" / "tf_model.h5").write_bytes(b"another framework's weights")
    (folder / "acme" / "pickled" / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    return folder


def test_a_model_is_downloaded(models: Path, clips: SmallClips, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(models) as (endpoint, asked):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        found = find_checkpoint("acme/whole")
    assert (found.id, found.revision, found.license) == ("acme/whole", COMMIT, "apache-2.0")
    assert not any("tf_model" in path for path in asked)
    source = clip.load(found)
    assert (source.source.revision, source.name) == (COMMIT, "whole")
    assert source.tensors.keys() == clip.load(find_checkpoint(str(clips.checkpoint()))).tensors.keys()


def test_what_was_downloaded_is_found_without_the_hub(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(models) as (endpoint, asked):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        found = find_checkpoint("acme/whole")
        asked.clear()
        assert find_checkpoint("acme/whole", COMMIT) == found
        assert asked == [], "a commit never changes: the cache is enough"
    assert find_checkpoint("acme/whole") == found, "the hub is gone by now"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert find_checkpoint("acme/whole") == found
    with pytest.raises(ExportError, match="HF_HUB_OFFLINE"):
        find_checkpoint("acme/other")


@pytest.mark.parametrize(
    ("model", "revision", "words"),
    [
        ("acme/pickled", None, "pickle"),
        ("acme/empty", None, "no weights"),
        ("acme/nowhere", None, "no such model"),
        ("acme/whole", "v9", "no revision v9"),
    ],
)
def test_what_the_hub_cannot_give(
    models: Path, monkeypatch: pytest.MonkeyPatch, model: str, revision: str | None, words: str
) -> None:
    with serving(models) as (endpoint, asked):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        with pytest.raises(ExportError, match=words) as raised:
            find_checkpoint(model, revision)
    assert not isinstance(raised.value, HubUnreachable)
    assert not any("resolve" in path for path in asked), "nothing is downloaded before it is known to be of use"


def test_a_closed_port_is_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
        with pytest.raises(HubUnreachable, match="--model starter") as raised:
            find_checkpoint(DEFAULT_MODEL)
    assert raised.value.exit_status == 3


# At most 10 s of trying is the promise; the library's own patience would be minutes.
@pytest.mark.timeout(30)
def test_a_hub_that_accepts_and_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(HubUnreachable):
            find_checkpoint("acme/whole")


@pytest.mark.parametrize("model", ["no/such/folder", "/nowhere", "../up", "a b", "a..b/c", "https://example.org/model"])
def test_what_is_neither_a_folder_nor_an_id(model: str) -> None:
    with pytest.raises(ExportError, match=r"neither a folder nor a hub id|cannot be on the hub"):
        find_checkpoint(model)


def test_a_folder_has_no_revision(clips: SmallClips) -> None:
    with pytest.raises(ExportError, match="--revision"):
        find_checkpoint(str(clips.checkpoint()), "main")
