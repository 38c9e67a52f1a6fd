"""The whole server with its pictures in a bucket, which goes away and comes back."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import object_store_server
from clipseek import Client, InsertItem, UnavailableError
from clipseek_server.config import Settings
from clipseek_server.errors import StartupError
from object_store_server import BUCKET, CREDENTIALS, Link, ObjectStoreServer
from pictures import large_picture, picture
from servers import ServerThread, free_port


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def bucket() -> Iterator[ObjectStoreServer]:
    with object_store_server.running() as server:
        yield server


@pytest.fixture
def link(bucket: ObjectStoreServer) -> Iterator[Link]:
    with object_store_server.linked(bucket.port) as link:
        yield link


def settings(bundle: Path, folder: Path, endpoint: str, **more: Any) -> Settings:
    defaults = {"image_store": f"s3://{BUCKET}/{folder.name}", "s3_endpoint": endpoint, "s3_timeout": 2.0}
    return Settings(
        listen="127.0.0.1:0", bundles=[bundle], data_dir=folder / "data", sweep_interval=1e6, **{**defaults, **more}
    )


def test_pictures_in_a_bucket(bundle: Path, tmp_path: Path, bucket: ObjectStoreServer) -> None:
    large = large_picture(3_000_000)
    with ServerThread(settings(bundle, tmp_path, bucket.endpoint)) as server, Client(server.address) as client:
        client.insert(large, image_id="large")
        items = [InsertItem(picture(number), f"p{number}") for number in range(20)]
        assert {result.outcome for result in client.insert_stream(items)} == {"created"}
        assert client.download("large") == large
        assert client.insert(large, image_id="large").outcome == "unchanged"
        assert client.search_image(picture(3), with_thumbnails=True)[0].image.thumbnail
        assert [progress.phase for progress in client.rebuild()][-1] == "done"
        assert [found for report in client.check(verify_bytes=True) for found in report.differences] == []
        assert client.delete_collection("default") == 21
    assert not (tmp_path / "data" / "images").exists()


def test_a_bucket_that_goes_away_and_comes_back(bundle: Path, tmp_path: Path, link: Link) -> None:
    with ServerThread(settings(bundle, tmp_path, link.endpoint)) as server, Client(server.address) as client:
        for number in range(3):
            client.insert(picture(number), image_id=f"p{number}")
        link.instead = [b""] * 100_000
        for call in (
            lambda: client.insert(picture(3), image_id="p3"),
            lambda: client.insert(picture(1), image_id="p1"),  # are its bytes still there?
            lambda: client.download("p1"),
            lambda: client.search_text("a", with_thumbnails=True),
            lambda: client.delete_collection("default"),
        ):
            with pytest.raises(UnavailableError, match="image store does not answer") as caught:
                call()
            assert caught.value.reason == "IMAGE_STORE_UNAVAILABLE"
            assert caught.value.retry_after
        assert client.health() == "serving"
        assert client.search_image(picture(1))[0].image_id == "p1"
        assert client.update("p2", {"n": 1}).metadata == {"n": 1}
        assert client.delete("p2").count == 1
        assert {image.image_id for image in client.list()} == {"p0", "p1"}
        link.instead = []
        assert client.insert(picture(3), image_id="p3").outcome == "created"
        assert client.download("p1") == picture(1)


def test_a_server_starts_while_its_store_is_away(bundle: Path, tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    with ServerThread(settings(bundle, tmp_path, endpoint)) as server, Client(server.address) as client:
        assert client.health() == "serving"
        with pytest.raises(UnavailableError, match="image store"):
            client.insert(picture(1))


def test_a_server_does_not_start_over_a_bucket_that_does_not_exist(
    bundle: Path, tmp_path: Path, bucket: ObjectStoreServer
) -> None:
    server = ServerThread(settings(bundle, tmp_path, bucket.endpoint, image_store="s3://nowhere"))
    with pytest.raises(StartupError, match=r"bucket does not exist.*s3://nowhere"), server:
        pass
