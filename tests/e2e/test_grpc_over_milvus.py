"""The whole server over a real Milvus server: what users see is the same, and what is not is said."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import milvus_server
from clipseek import Client, FailedPreconditionError, InsertItem, NotFoundError, UnavailableError
from clipseek_server.catalog.rebuilds import Rebuilds
from clipseek_server.config import Settings
from clipseek_server.index.collection import MilvusCollection
from clipseek_server.index.milvus import MilvusIndex
from clipseek_server.index.table import Table
from housekept import Background, gated
from pictures import picture
from servers import ServerThread

pytestmark = pytest.mark.xdist_group("milvus")  # one at a time

COUNT = 40


@pytest.fixture(scope="module")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with milvus_server.running(tmp_path_factory.mktemp("milvus")):
        yield


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def _settings(bundle: Path, data_dir: Path, **settings: Any) -> Settings:
    defaults = {
        "listen": "127.0.0.1:0",
        "bundles": [bundle],
        "data_dir": data_dir,
        "milvus_uri": milvus_server.URI,
        "milvus_user": milvus_server.USER,
        "milvus_password": milvus_server.PASSWORD,
        "sweep_interval": 1e6,
    }
    return Settings(**{**defaults, **settings})


@pytest.fixture(scope="module")
def one(milvus: None, bundle: Path, data_dir: Path) -> Iterator[Client]:
    """A client of a server with the index that is made by default."""
    with ServerThread(_settings(bundle, data_dir)) as server, Client(server.address) as client:
        yield client


@pytest.fixture(scope="module")
def other(milvus: None, bundle: Path, data_dir: Path) -> Iterator[Client]:
    """A client of a second server over the same Milvus and the same pictures; what it makes is HNSW."""
    with ServerThread(_settings(bundle, data_dir, index_type="HNSW")) as server, Client(server.address) as client:
        yield client


@pytest.fixture(scope="module")
def filled(one: Client) -> str:
    """A collection of ``COUNT`` pictures that no test changes."""
    items = [InsertItem(picture(number), f"p{number:03}", {"n": number}) for number in range(COUNT)]
    assert {result.outcome for result in one.insert_stream(items, collection="filled")} == {"created"}
    return "filled"


def test_the_server_says_what_it_searches(one: Client, other: Client) -> None:
    index = one.info().index
    assert (index.engine, index.engine_version) == ("milvus", "v2.3.5-lite")
    assert (index.index_type, index.index_params) == ("IVF_FLAT", {"nlist": "1024"})
    assert index.default_consistency == "bounded"
    index = other.info().index
    assert (index.index_type, index.index_params) == ("HNSW", {"M": "32", "efConstruction": "300"})
    assert one.health() == "serving"


def test_insert_search_delete_search(one: Client) -> None:
    first, second = picture(1001), picture(1002)
    image_id = one.insert(first, collection="journey").image_id
    one.insert(second, image_id="second", collection="journey")
    for consistency in ("strong", "bounded"):  # after a strong search a bounded one sees as much
        found = one.search_image(first, collection="journey", consistency=consistency)
        assert [hit.image_id for hit in found] == [image_id, "second"]
        assert found[0].score == pytest.approx(1, abs=1e-3)
    assert one.insert(first, collection="journey").outcome == "unchanged"
    assert one.download("second", collection="journey") == second
    assert one.delete([image_id, "absent"], collection="journey").missing == ("absent",)
    found = one.search_image(first, collection="journey", consistency="strong")
    assert [hit.image_id for hit in found] == ["second"]
    assert not [image for image in one.list(collection="journey") if image.image_id == image_id]
    assert one.get_collection("journey").image_count == 1


def test_pages_filters_and_counts(one: Client, filled: str) -> None:
    every = [f"p{number:03}" for number in range(COUNT)]
    listed = one.list(collection=filled, page_size=7, consistency="strong")
    assert [image.image_id for image in listed] == every
    listed = one.list(collection=filled, page_size=3, filter='metadata.n >= 30 and image_id != "p035"')
    assert [image.image_id for image in listed] == [*every[30:35], *every[36:]]
    found = one.search_image(picture(3), collection=filled, filter="not metadata.n in [3, 4]", top_k=COUNT)
    assert {hit.image_id for hit in found} == {*every} - {"p003", "p004"}
    assert one.get_collection(filled).image_count == COUNT
    whole = one.search_text("a", collection=filled, top_k=COUNT)
    parts = [one.search_text("a", collection=filled, top_k=10, offset=offset) for offset in range(0, COUNT, 10)]
    assert [hit.image_id for part in parts for hit in part] == [hit.image_id for hit in whole]
    found = one.search_image(image_id="p007", collection=filled, top_k=COUNT, with_embeddings=True)
    assert [hit.image_id for hit in found if hit.image_id == "p007" or hit.image.embedding is None] == []
    assert len(found) == COUNT - 1


def test_efforts(one: Client, other: Client, filled: str) -> None:
    other.insert(picture(5), image_id="five", collection="graph")
    # Whichever server searches it: an index is what it was made as.
    for client in (one, other):
        assert set(client.get_collection(filled).efforts) == {"fast", "thorough", "exact"}
        for effort in ("fast", "thorough", "exact"):
            found = client.search_image(picture(5), collection=filled, effort=effort, consistency="strong")
            assert found[0].image_id == "p005"
        assert set(client.get_collection("graph").efforts) == {"fast", "thorough"}
        found = client.search_image(picture(5), collection="graph", effort="thorough", consistency="strong")
        assert [hit.image_id for hit in found] == ["five"]
        with pytest.raises(FailedPreconditionError, match="FAST, THOROUGH") as refused:
            client.search_text("a", collection="graph", effort="exact")
        assert refused.value.reason == "EFFORT_NOT_SERVED"
        assert refused.value.metadata == {"effort": "EXACT", "index": "HNSW", "served": "FAST, THOROUGH"}


def test_two_servers_over_one_milvus(one: Client, other: Client, filled: str) -> None:
    one.insert(picture(2001), image_id="shared", metadata={"by": "one"}, collection="flat")
    found = other.search_image(picture(2001), collection="flat", consistency="strong")
    assert (found[0].image_id, found[0].image.metadata) == ("shared", {"by": "one"})
    assert other.download("shared", collection="flat") == picture(2001)
    assert other.update("shared", {"by": "other"}, collection="flat").metadata == {"by": "other"}
    assert one.get("shared", collection="flat").metadata == {"by": "other"}
    assert other.delete("shared", collection="flat").count == 1
    found = one.search_image(picture(2001), collection="flat", consistency="strong")
    assert "shared" not in {hit.image_id for hit in found}
    assert {"filled", "flat"} <= {each.name for each in one.collections()}


def test_searches_go_on_while_a_collection_is_rebuilt(one: Client, filled: str) -> None:
    before = one.get_collection(filled).generations
    done = threading.Event()

    def search() -> int:
        searches = 0
        while not done.is_set():
            # Strong: what was just filled may lag behind otherwise.
            hits = one.search_image(picture(9), collection=filled, consistency="strong")
            assert hits[0].image_id == "p009"
            searches += 1
        return searches

    searching = Background(search)
    try:
        phases = [progress.phase for progress in one.rebuild(filled)]
    finally:
        done.set()
    assert searching.result() > 1
    assert {"embedding", "dropping"} <= set(phases)
    after = one.get_collection(filled)
    assert [generation.live for generation in after.generations] == [True]
    assert after.generations[0].name != before[0].name
    assert after.image_count == COUNT
    assert len(one.search_text("a", collection=filled, top_k=COUNT, consistency="strong")) == COUNT


def test_a_rebuild_holds_the_writes_of_all_servers(one: Client, other: Client) -> None:
    for number in range(3):
        one.insert(picture(number), image_id=f"p{number}", collection="shared")
    assert len(other.search_text("a", collection="shared", consistency="strong")) == 3
    with gated(MilvusIndex, "publish") as gate:
        rebuilding = Background(lambda: list(one.rebuild("shared")))
        gate.wait()
        for write in (
            lambda: other.insert(picture(9), image_id="late", collection="shared"),
            lambda: other.update("p1", {"n": 1}, collection="shared"),
            lambda: other.delete("p1", collection="shared"),
            lambda: other.delete_collection("shared"),
            lambda: list(other.rebuild("shared")),
        ):
            with pytest.raises(UnavailableError) as caught:
                write()
            assert caught.value.reason == "COLLECTION_HELD"
            assert caught.value.retry_after
        assert len(other.search_text("a", collection="shared", consistency="strong")) == 3
        gate.opened.set()
        assert [progress.phase for progress in rebuilding.result()][-1] == "done"
    assert other.insert(picture(9), image_id="late", collection="shared").outcome == "created"
    for client in (one, other):
        assert {image.image_id for image in client.list(collection="shared", consistency="strong")} == {
            "p0",
            "p1",
            "p2",
            "late",
        }
    assert one.get_collection("shared").generations == other.get_collection("shared").generations


def test_a_write_that_was_under_way_elsewhere_when_a_rebuild_began(one: Client, other: Client) -> None:
    """It is refused, and comes in all the same or not at all: what the rebuild makes is what it read."""
    one.insert(picture(0), image_id="old", collection="overtaken")
    with (
        gated(MilvusCollection, "upsert", when=lambda _, row, __: row.record.image_id == "late") as write,
        gated(Rebuilds, "_check") as check,
    ):
        writing = Background(lambda: other.insert(picture(1), image_id="late", collection="overtaken"))
        write.wait()
        rebuilding = Background(lambda: list(one.rebuild("overtaken")))
        check.wait()
        write.opened.set()
        with pytest.raises(UnavailableError) as caught:
            writing.result()
        assert caught.value.reason == "COLLECTION_HELD"
        check.opened.set()
        assert [progress.phase for progress in rebuilding.result()][-1] == "done"
    assert [image.image_id for image in one.list(collection="overtaken", consistency="strong")] == ["late", "old"]
    assert other.download("late", collection="overtaken") == picture(1)


def test_a_server_that_stands_still_after_a_write_while_another_rebuilds(one: Client, other: Client) -> None:
    """Its write went into the generation that is gone: it is done again before it is acknowledged."""
    for image_id in ("old", "gone"):
        one.insert(picture(ord(image_id[0])), image_id=image_id, collection="paused")
    with gated(Rebuilds, "_check", after=True) as copied:
        rebuilding = Background(lambda: list(one.rebuild("paused")))
        copied.wait()
        # As if its look before the write had been before the hold.
        with (
            pytest.MonkeyPatch.context() as patch,
            gated(Table, "upsert", after=True) as upsert,
            gated(Table, "delete", after=True) as delete,
        ):
            patch.setattr(MilvusIndex, "check_writable", lambda *_: asyncio.sleep(0))
            inserting = Background(lambda: other.insert(picture(1), image_id="late", collection="paused"))
            upsert.wait()
            deleting = Background(lambda: one.delete("gone", collection="paused"))
            copied.opened.set()
            assert [progress.phase for progress in rebuilding.result()][-1] == "done"
            upsert.opened.set()
            delete.opened.set()
            assert inserting.result().outcome == "created"
            with pytest.raises(UnavailableError):  # the rebuilding server's own writes are held
                deleting.result()
    for client in (one, other):
        listed = client.list(collection="paused", consistency="strong")
        assert [image.image_id for image in listed] == ["gone", "late", "old"]


def test_a_collection_that_is_deleted_while_another_server_rebuilds_it(one: Client, other: Client) -> None:
    """Its name can be used, and rebuilt, again."""
    one.insert(picture(1), image_id="a", collection="reborn")
    assert other.get_collection("reborn").image_count >= 0
    with gated(MilvusIndex, "publish") as gate, pytest.MonkeyPatch.context() as patch:
        rebuilding = Background(lambda: list(one.rebuild("reborn")))
        gate.wait()
        patch.setattr(MilvusIndex, "check_writable", lambda *_: asyncio.sleep(0))  # it looked before the hold
        other.delete_collection("reborn")
        gate.opened.set()
        with pytest.raises(NotFoundError):
            rebuilding.result()
    assert other.insert(picture(2), image_id="b", collection="reborn").outcome == "created"
    for client in (one, other):
        assert [progress.phase for progress in client.rebuild("reborn")][-1] == "done"
        assert [image.image_id for image in client.list(collection="reborn", consistency="strong")] == ["b"]


def test_a_wrong_password(milvus: None, bundle: Path, tmp_path: Path) -> None:
    settings = _settings(bundle, tmp_path, milvus_password="wrong")
    with ServerThread(settings) as server, Client(server.address) as client:
        with pytest.raises(UnavailableError, match="credentials"):
            client.insert(picture(1), collection="locked")
        # What needs no Milvus works.
        assert len(client.embed_text("a").values) == client.info().models[0].dimension
