"""The sweep removes what nothing names and is old enough, and never the bytes of a record."""

import itertools
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest
from structlog.testing import capture_logs

from clipseek import Client, NotFoundError, UnavailableError
from clipseek_server.catalog import sweeper
from clipseek_server.config import Settings
from clipseek_server.errors import IndexUnavailable
from clipseek_server.images.blobs import Blob
from clipseek_server.images.folder import FolderStore
from clipseek_server.index.collection import MilvusCollection
from clipseek_server.index.milvus import MilvusIndex
from clipseek_server.index.records import Row
from clipseek_server.telemetry import Call
from housekept import Background, Gate, HousekeptServer, age, gated
from pictures import picture

GRACE = Settings.model_fields["sweep_grace"].default
OLD = GRACE + 60
YOUNG = GRACE - 60


def test_unnamed_bytes_go_when_they_are_old_enough(housekept, keeper, collection):
    for seed in range(4):
        keeper.insert(picture(seed), image_id=f"p{seed}", collection=collection)
    uid = keeper.get_collection(collection).uid
    old = {seed: housekept.blobs(uid, f"p{seed}") for seed in range(4)}
    keeper.delete(["p0", "p1"], collection=collection)
    keeper.insert(picture(12), image_id="p2", collection=collection)  # other bytes
    keeper.update("p3", {"n": 1}, collection=collection)
    age(housekept.files(uid), OLD)
    age([file for file in housekept.files(uid) if file.name.startswith("p1=")], YOUNG)
    housekept.sweep()
    left = housekept.files(uid)
    assert not [file for file in left if file.name.startswith("p0=")]
    assert len([file for file in left if file.name.startswith("p1=")]) == 2  # with its thumbnail
    assert not old[2][0].exists()
    assert len([file for file in left if file.name.startswith("p2=")]) == 2
    assert len([file for file in left if file.name.startswith("p3=")]) == 2
    assert keeper.download("p2", collection=collection) == picture(12)
    assert keeper.download("p3", collection=collection) == picture(3)
    assert keeper.get("p3", collection=collection, with_thumbnail=True).thumbnail
    age(housekept.files(uid), OLD)
    housekept.sweep()
    assert len(housekept.files(uid)) == 4
    assert [found for report in keeper.check(collection) for found in report.differences] == []


def test_bytes_that_no_record_came_to_name_go(housekept, keeper, collection):
    """What is left of a write that died between the bytes and the record, under an id that has a record."""
    keeper.insert(picture(1), image_id="a", collection=collection)
    uid = keeper.get_collection(collection).uid
    (blob,) = housekept.blobs(uid, "a")
    stray = blob.with_name(blob.name[:-16] + "0" * 16)
    # Where its name says, or the store does not know it.
    path = housekept.sweeper._store._path(f"{uid}/a/{stray.name.removeprefix('a=')}")
    path.parent.mkdir(exist_ok=True)
    shutil.copy(blob, path)
    age(housekept.files(uid), OLD)
    housekept.sweep()
    assert not path.exists()
    assert keeper.download("a", collection=collection) == picture(1)


def test_bytes_go_only_when_they_were_unnamed_for_the_grace_time(housekept, keeper, collection):
    keeper.insert(picture(1), image_id="a", collection=collection)
    uid = keeper.get_collection(collection).uid
    keeper.delete("a", collection=collection)
    age(housekept.files(uid), OLD)
    for _ in range(3):
        housekept.sweep_once()
        assert len(housekept.files(uid)) == 2
    housekept.pass_grace()
    assert housekept.sweep_once().blobs >= 2
    assert housekept.files(uid) == []


def test_an_update_on_another_server_that_read_before_the_bytes_were_replaced(housekept, keeper, collection):
    """It writes the old record back, whole: the old bytes must be there, however old they are."""

    async def read() -> Row:
        rows = await (await housekept.index.open(collection)).get_rows(["a"], Call())
        return rows["a"]

    async def write(row: Row) -> None:
        await (await housekept.index.open(collection)).upsert(row, Call())

    keeper.insert(picture(1), image_id="a", collection=collection)
    uid = keeper.get_collection(collection).uid
    first = housekept.run(read())
    keeper.insert(picture(2), image_id="a", collection=collection)
    second = housekept.run(read())
    age(housekept.files(uid), OLD)
    housekept.sweep_once()
    housekept.run(write(first))
    assert keeper.download("a", collection=collection) == picture(1)
    housekept.pass_grace()
    housekept.sweep_once()
    assert len(housekept.blobs(uid, "a")) == 2
    # The first is unnamed again, and that time begins anew; the second was unnamed in one sweep.
    housekept.run(write(second))
    housekept.pass_grace()
    housekept.sweep_once()
    assert len(housekept.blobs(uid, "a")) == 2
    housekept.pass_grace()
    housekept.sweep_once()
    assert len(housekept.blobs(uid, "a")) == 1
    assert keeper.download("a", collection=collection) == picture(2)


def test_no_more_is_remembered_than_a_bound_and_all_goes_in_the_end(housekept, keeper, collection, monkeypatch):
    housekept.sweep()  # what other tests left
    monkeypatch.setattr(sweeper, "MAX_WAITING", 1)
    for seed in range(3):
        keeper.insert(picture(seed), image_id=f"p{seed}", collection=collection)
    uid = keeper.get_collection(collection).uid
    keeper.delete([f"p{seed}" for seed in range(3)], collection=collection)
    age(housekept.files(uid), OLD)
    for left in (2, 1, 0):
        housekept.sweep()
        assert len(housekept.blobs(uid)) == left
        assert len(housekept.files(uid)) == 2 * left


def test_another_milvus_takes_no_bytes(bundle, tmp_path):
    """Milvus lost its data, or another one is asked: whatever the image store has may be somebody's."""
    settings = Settings(listen="127.0.0.1:0", bundles=[bundle], data_dir=tmp_path / "data", sweep_interval=1e6)
    milvus = settings.data_dir / "milvus"
    with HousekeptServer(settings) as server, Client(server.address) as client:
        client.insert(picture(1), image_id="a", collection="pets")
        uid = client.get_collection("pets").uid
        files = server.files(uid)
    milvus.rename(tmp_path / "away")
    with HousekeptServer(settings) as server, Client(server.address) as client:
        client.insert(picture(2), image_id="a", collection="pets")
        age(files, OLD)
        with capture_logs() as lines:
            server.sweep()
        assert server.files(uid) == files
        warnings = [line for line in lines if line["log_level"] == "warning"]
        assert [(line["blobs"], line["collection_uids"]) for line in warnings] == [(2, [uid])] * 2
    shutil.rmtree(milvus)
    (tmp_path / "away").rename(milvus)
    with HousekeptServer(settings) as server, Client(server.address) as client:
        server.sweep()
        assert client.download("a", collection="pets") == picture(1)


def test_a_drop_that_fails_takes_no_bytes_then_or_later(housekept, keeper, collection):
    keeper.insert(picture(1), image_id="a", collection=collection)
    uid = keeper.get_collection(collection).uid

    async def fail(*_: object) -> None:
        raise IndexUnavailable("Milvus is away")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MilvusIndex, "drop", fail)
        for _ in range(2):
            with pytest.raises(UnavailableError):
                keeper.delete_collection(collection)
    assert len(housekept.files(uid)) == 3
    age(housekept.files(uid), OLD)
    housekept.sweep()
    assert len(housekept.files(uid)) == 2  # without the mark: the collection lives
    assert keeper.download("a", collection=collection) == picture(1)
    assert [found for report in keeper.check(collection) for found in report.differences] == []
    keeper.delete_collection(collection)
    age(housekept.files(uid), OLD)
    housekept.sweep()
    assert housekept.files(uid) == []


def test_the_mark_of_a_dropped_collection_goes_last(housekept, keeper, collection):
    """Bytes that a slow insert wrote when the collection was gone already are younger."""
    keeper.insert(picture(1), image_id="a", collection=collection)
    uid = keeper.get_collection(collection).uid
    keeper.delete_collection(collection)
    age(housekept.files(uid), OLD)
    late = f"{uid}/late/x"
    housekept.run(housekept.sweeper._store.put(late, b"x"))
    housekept.sweep()
    assert {file.name for file in housekept.files(uid)} == {"late=x", "dropped"}
    age(housekept.files(uid), OLD)
    housekept.sweep_once()
    assert housekept.files(uid) == []


def test_the_bytes_of_a_dropped_collection_go(housekept, keeper, collection):
    other = f"{collection}_other"
    for name in (collection, other):
        keeper.insert(picture(1), image_id="a", collection=name)
    dropped, kept = (keeper.get_collection(name).uid for name in (collection, other))
    keeper.delete_collection(collection)
    keeper.insert(picture(1), image_id="a", collection=collection)
    again = keeper.get_collection(collection).uid
    housekept.sweep()
    assert len(housekept.files(dropped)) == 3  # too young; the third marks that it was dropped
    for uid in (dropped, kept, again):
        age(housekept.files(uid), OLD)
    housekept.sweep()
    assert housekept.files(dropped) == []
    assert not (housekept.images / dropped).exists()
    for name, uid in ((other, kept), (collection, again)):
        assert len(housekept.files(uid)) == 2
        assert keeper.download("a", collection=name) == picture(1)


def test_generations_without_an_alias_go_when_they_are_old_enough(housekept, keeper, collection):
    keeper.insert(picture(1), image_id="a", collection=collection)

    async def make_one() -> str:
        index = housekept.index
        live = await index.open(collection)
        made = await index.begin_generation(live.info, precision=live.info.precision)
        return made.info.generation

    made = housekept.run(make_one())
    (live,) = keeper.get_collection(collection).generations
    assert housekept.run(housekept.index.sweep(0)) == []  # this process is still building it
    housekept.index._building.discard(made)  # as after a restart
    assert made not in housekept.run(housekept.index.sweep(GRACE))
    assert sorted(housekept.generations(collection)) == sorted([live.name, made])
    age(housekept.files(keeper.get_collection(collection).uid), OLD)
    housekept.sweep()  # its uid is the live one's: no bytes go
    assert housekept.run(housekept.index.sweep(0)) == [made]
    assert housekept.generations(collection) == [live.name]
    assert keeper.download("a", collection=collection) == picture(1)
    assert len(keeper.search_text("a", collection=collection)) == 1


def test_delete_and_insert_again_while_a_slow_delete_and_a_sweep_are_under_way(housekept, keeper, collection):
    """The sweep has listed the old bytes when the id comes back: the new record's bytes stay."""
    keeper.insert(picture(1), image_id="a", collection=collection)
    uid = keeper.get_collection(collection).uid
    of_a = {"when": lambda self, image_ids, *_: self.info.name == collection and "a" in image_ids}
    with gated(MilvusCollection, "delete", **of_a) as slow_delete:
        deleting = Background(lambda: keeper.delete("a", collection=collection))
        slow_delete.wait()
        inserting = Background(lambda: keeper.insert(picture(1), image_id="a", collection=collection))
        age(housekept.files(uid), OLD)
        with listing_held(uid) as listed:
            sweeping = Background(housekept.sweep_once)
            listed.wait()
            slow_delete.opened.set()
            assert deleting.result().count == 1
            assert inserting.result().outcome == "created"
            age(housekept.files(uid), OLD)  # as if the sweep took ages
            listed.opened.set()
            sweeping.result()
    housekept.pass_grace()
    assert housekept.sweep_once().blobs >= 2
    assert len(housekept.blobs(uid, "a")) == 1
    assert keeper.download("a", collection=collection) == picture(1)
    assert keeper.get("a", collection=collection, with_thumbnail=True).thumbnail


def test_a_sweep_that_is_about_to_delete_when_the_id_comes_back(housekept, keeper, collection):
    """It has read that nothing names the old bytes; the new record names others."""
    keeper.insert(picture(1), image_id="a", collection=collection)
    uid = keeper.get_collection(collection).uid
    keeper.delete("a", collection=collection)
    age(housekept.files(uid), OLD)
    housekept.sweep_once()
    housekept.pass_grace()
    with gated(FolderStore, "delete", when=lambda _, keys: any(key.startswith(uid) for key in keys)) as gate:
        sweeping = Background(housekept.sweep_once)
        gate.wait()
        assert keeper.insert(picture(1), image_id="a", collection=collection).outcome == "created"
        age(housekept.files(uid), OLD)
        gate.opened.set()
        sweeping.result()
    assert len(housekept.blobs(uid, "a")) == 1
    assert keeper.download("a", collection=collection) == picture(1)


def test_an_insert_whose_record_comes_late_keeps_its_bytes(housekept, keeper, collection):
    """Its bytes are stored and no record names them yet when the sweep looks: they are younger than the grace time."""
    keeper.create_collection(collection)
    with gated(MilvusCollection, "upsert", when=lambda self, *_: self.info.name == collection) as gate:
        inserting = Background(lambda: keeper.insert(picture(1), image_id="a", collection=collection))
        gate.wait()
        housekept.sweep()
        gate.opened.set()
        assert inserting.result().outcome == "created"
    assert keeper.download("a", collection=collection) == picture(1)


@pytest.mark.parametrize("step", ["list", "names", "uids"])
def test_a_collection_that_comes_during_a_sweep_loses_nothing(housekept, keeper, collection, step):
    dropped = f"{collection}_dropped"
    keeper.insert(picture(1), image_id="a", collection=dropped)
    uid = keeper.get_collection(dropped).uid
    keeper.delete_collection(dropped)
    age(housekept.files(uid), OLD)  # so that there is something to ask about
    housekept.sweep_once()
    housekept.pass_grace()
    with listing_held() if step == "list" else gated(MilvusIndex, step, after=True) as gate:
        sweeping = Background(housekept.sweep_once)
        gate.wait()
        keeper.insert(picture(2), image_id="a", collection=collection)
        born = keeper.get_collection(collection).uid
        age(housekept.files(born), OLD)
        gate.opened.set()
        sweeping.result()
    assert housekept.files(uid) == []
    housekept.pass_grace()
    housekept.sweep_once()
    assert keeper.download("a", collection=collection) == picture(2)


def test_a_rebuild_during_a_sweep_loses_nothing(housekept, keeper, collection):
    """Names were read while the old generation was live; when records are read it is gone."""
    keeper.insert(picture(1), image_id="a", collection=collection)
    keeper.insert(picture(2), image_id="b", collection=collection)
    uid = keeper.get_collection(collection).uid
    age(housekept.files(uid), OLD)
    for method in ("names", "uids"):
        with gated(MilvusIndex, method, after=True) as gate:
            sweeping = Background(housekept.sweep_once)
            gate.wait()
            assert [progress.phase for progress in keeper.rebuild(collection)][-1] == "done"
            gate.opened.set()
            try:
                sweeping.result()
            except Exception as error:
                # Put off: the generation that it was about to ask is gone.
                assert "does not exist any more" in str(error)
        housekept.pass_grace()
        assert len(housekept.files(uid)) == 4
    assert keeper.download("a", collection=collection) == picture(1)


def test_the_server_sweeps_by_itself(bundle, tmp_path):
    swept = threading.Event()
    original = FolderStore.delete

    async def delete(self: FolderStore, keys: list[str]) -> None:
        await original(self, keys)
        if keys:
            swept.set()

    settings = Settings(listen="127.0.0.1:0", bundles=[bundle], data_dir=tmp_path, sweep_interval=0.2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FolderStore, "delete", delete)
        # The sweeper reads its clock once a sweep.
        hours = itertools.count(step=GRACE).__next__
        with HousekeptServer(settings, clock=hours) as server, Client(server.address) as client:
            client.insert(picture(1), image_id="a", collection="pets")
            client.insert(picture(2), image_id="b", collection="pets")
            uid = client.get_collection("pets").uid
            client.delete("a", collection="pets")
            age(server.files(uid), OLD)
            assert swept.wait(60)
            assert client.download("b", collection="pets") == picture(2)
            assert {file.name.partition("=")[0] for file in server.files(uid)} == {"b"}
            with pytest.raises(NotFoundError):
                client.get("a", collection="pets")


@contextmanager
def listing_held(uid: str = "") -> Iterator[Gate]:
    """Hold a listing of the image store back: before it begins, or when it has seen the bytes of a collection."""
    gate, original = Gate(), FolderStore.list

    async def held(self: FolderStore, prefix: str = "") -> AsyncIterator[Blob]:
        if not uid:
            await gate.pass_through()
        blobs = [blob async for blob in original(self, prefix)]
        if uid:
            assert any(blob.key.startswith(uid) for blob in blobs)
            await gate.pass_through()
        for blob in blobs:
            yield blob

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FolderStore, "list", held)
        try:
            yield gate
        finally:
            gate.opened.set()
