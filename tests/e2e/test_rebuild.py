"""A rebuild: a new generation takes the old one's place, whole; whatever happens meanwhile, one is live."""

import shutil
import threading
from pathlib import Path

import pytest
from grpc import StatusCode

from clipseek import Client, ClipseekError, InsertItem, InternalError, UnavailableError
from clipseek_server.catalog import rebuilds
from clipseek_server.config import Settings
from clipseek_server.errors import IndexUnavailable
from clipseek_server.index.milvus import MilvusIndex
from clipseek_server.index.records import CollectionInfo
from housekept import Background, HousekeptServer, age, gated
from pictures import picture
from servers import ServerProcess

COUNT = rebuilds.PAGE + 10
GRACE = Settings.model_fields["sweep_grace"].default


def fill(client: Client, collection: str, count: int = COUNT) -> dict[str, bytes]:
    """Insert pictures; returns their bytes by id."""
    pictures = {f"p{number:03}": picture(number) for number in range(count)}
    items = [InsertItem(data, image_id, {"id": image_id}) for image_id, data in pictures.items()]
    assert [result.error for result in client.insert_stream(items, collection=collection) if result.error] == []
    return pictures


def assert_whole(client: Client, collection: str, pictures: dict[str, bytes]) -> None:
    """One live generation holds every record, vector and picture."""
    described = client.get_collection(collection)
    assert described.image_count == len(pictures)
    assert [generation.live for generation in described.generations] == [True]
    images = list(client.list(collection=collection))
    assert {image.image_id: image.metadata for image in images} == {each: {"id": each} for each in pictures}
    assert len(client.search_text("a", collection=collection, top_k=1000)) == len(pictures)
    reports = list(client.check(collection, verify_bytes=True))
    kinds = {found.kind for report in reports for found in report.differences}
    assert kinds <= {"orphaned_bytes"}  # of pictures that were deleted


def phase_of(client: Client, collection: str, phase: str) -> None:
    """Rebuild until the stream reports a phase."""
    for progress in client.rebuild(collection):
        if progress.phase == phase and (phase != "embedding" or progress.images_done):
            return
    pytest.fail(f"the rebuild never said that it is {phase}")


def leave_half_dropped(collections: Path) -> None:
    """What a kill in the middle of dropping a Milvus Lite collection may leave of it."""
    (whole,) = [folder for folder in collections.iterdir() if folder.name.startswith("CS_PETS_")][:1]
    for name, lost in (("1", "[!s]*"), ("2", "schema.json"), ("3", "manifest*"), ("4", "partitions"), ("5", "wal")):
        copy = Path(shutil.copytree(whole, whole.with_name(f"CS_HALF_{name}")))
        for path in copy.glob(lost):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_kill_in_each_phase(bundle, tmp_path):
    server = ServerProcess(tmp_path / "data", bundle)
    pictures: dict[str, bytes] = {}
    uid = ""
    for phase in ("embedding", "checking", "switching", "dropping"):
        with server, Client(server.address) as client:
            if not pictures:
                pictures = fill(client, "pets")
                uid = client.get_collection("pets").uid
            else:
                assert_whole(client, "pets", pictures)
            assert client.insert(pictures["p000"], image_id="p000", collection="pets").outcome == "unchanged"
            client.insert(picture(1), image_id="new", collection="pets")
            client.delete("new", collection="pets")
            phase_of(client, "pets", phase)
            server.kill()
    leave_half_dropped(tmp_path / "data" / "milvus" / "collections")
    settings = Settings(listen="127.0.0.1:0", bundles=[bundle], data_dir=tmp_path / "data", sweep_interval=1e6)
    with HousekeptServer(settings) as swept, Client(swept.address) as client:
        assert_whole(client, "pets", pictures)
        assert client.get_collection("pets").uid == uid
        (live,) = client.get_collection("pets").generations
        swept.run(swept.index.sweep(0))
        age(swept.files(uid), GRACE + 60)
        swept.sweep()
        assert swept.generations("pets") == [live.name]
        assert {path.name.partition("=")[0] for path in swept.blobs(uid)} == set(pictures)
        assert_whole(client, "pets", pictures)


def test_what_goes_on_during_a_rebuild(housekept, keeper, collection):
    pictures = fill(keeper, collection)
    before = keeper.get_collection(collection)
    with gated(MilvusIndex, "publish", when=lambda _, generation: generation.name == collection) as gate:
        first = keeper.rebuild(collection)
        rebuild_id = next(first).rebuild_id
        first.close()  # closing the stream does not stop it
        gate.wait()
        with Client(housekept.address) as other:
            second = other.rebuild(collection)
            attached = next(second)
            assert (attached.rebuild_id, attached.phase) == (rebuild_id, "switching")
            assert (attached.images_done, attached.images_total) == (COUNT, COUNT)
            live, made = keeper.get_collection(collection).generations
            assert (live.name, live.live, live.rebuild) == (before.generations[0].name, True, None)
            assert (made.live, made.rebuild and made.rebuild.rebuild_id) == (False, rebuild_id)

            for write in (
                lambda: keeper.insert(picture(1), collection=collection),
                lambda: keeper.update("p001", {"n": 1}, collection=collection),
                lambda: keeper.delete("p001", collection=collection),
                lambda: keeper.delete_collection(collection),
            ):
                with pytest.raises(UnavailableError) as caught:
                    write()
                assert caught.value.reason == "COLLECTION_HELD"
                assert caught.value.retry_after
            (result,) = keeper.insert_stream([picture(1)], collection=collection, patience=0)
            assert result.error is not None
            assert result.error.reason == "COLLECTION_HELD"
            late = InsertItem(picture(2000), "late", {"id": "late"})
            waiting = Background(lambda: list(other.insert_stream([late], collection=collection)))

            assert keeper.search_image(pictures["p003"], collection=collection)[0].image_id == "p003"
            assert keeper.download("p003", collection=collection) == pictures["p003"]
            assert len(list(keeper.list(collection=collection))) == COUNT
            gate.opened.set()
            assert [progress.phase for progress in second][-1] == "done"
            # Who imports waits for the end of it.
            assert [(result.outcome, result.error) for result in waiting.result()] == [("created", None)]
    assert_whole(keeper, collection, pictures | {"late": picture(2000)})
    after = keeper.get_collection(collection)
    assert (after.uid, after.created) == (before.uid, before.created)
    assert housekept.generations(collection) == [after.generations[0].name] == [made.name]
    assert keeper.delete("p001", collection=collection).count == 1


def test_searches_never_fail_while_generations_change(housekept, keeper, collection):
    fill(keeper, collection, 40)
    stop, failures, searches = threading.Event(), [], []

    def search() -> None:
        with Client(housekept.address) as client:
            while not stop.is_set():
                try:
                    searches.append(len(client.search_text("a", collection=collection, top_k=100)))
                    client.get_many(["p001", "p039"], collection=collection)
                    client.download("p007", collection=collection)
                    assert len(list(client.list(collection=collection))) == 40
                    assert client.get_collection(collection).image_count == 40
                except ClipseekError as error:
                    failures.append(error)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(4):
        assert [progress.phase for progress in keeper.rebuild(collection)][-1] == "done"
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert set(searches) == {40}


def test_missing_bytes_keep_their_vector(housekept, keeper, collection):
    fill(keeper, collection, 3)
    before = keeper.get("p001", collection=collection, with_embedding=True)
    (blob,) = housekept.blobs(keeper.get_collection(collection).uid, "p001")
    blob.unlink()
    assert [progress.phase for progress in keeper.rebuild(collection)][-1] == "done"
    assert keeper.get("p001", collection=collection, with_embedding=True) == before
    kinds = [found.kind for report in keeper.check(collection) for found in report.differences]
    assert kinds == ["missing_bytes"]
    assert keeper.insert(picture(1), image_id="p001", collection=collection).outcome == "updated"
    assert keeper.download("p001", collection=collection) == picture(1)
    kinds = [found.kind for report in keeper.check(collection) for found in report.differences]
    assert kinds == ["orphaned_bytes"]  # the thumbnail of the bytes that were lost


def test_a_rebuild_that_fails_leaves_the_old_generation_live(housekept, keeper, collection):
    pictures = fill(keeper, collection, 10)
    before = keeper.get_collection(collection)
    (blob,) = housekept.blobs(before.uid, "p004")
    whole = blob.read_bytes()
    blob.write_bytes(whole[: len(whole) // 2])
    phases = []
    with pytest.raises(InternalError) as caught:
        for progress in keeper.rebuild(collection):
            phases.append(progress.phase)  # noqa: PERF401 - what came before the error counts
    assert phases[-1] == "failed"
    assert (caught.value.code, caught.value.reason) == (StatusCode.DATA_LOSS, "IMAGE_DAMAGED")
    assert caught.value.metadata["image_id"] == "p004"
    assert "p004" in caught.value.message
    assert keeper.get_collection(collection) == before
    assert housekept.generations(collection) == [before.generations[0].name]
    reports = list(keeper.check(collection))  # a look at the sizes is enough
    found = [(each.kind, each.image_id) for report in reports for each in report.differences]
    assert found == [("corrupt_bytes", "p004")]
    keeper.insert(picture(99), image_id="new", metadata={"id": "new"}, collection=collection)
    blob.write_bytes(whole)
    assert [progress.phase for progress in keeper.rebuild(collection)][-1] == "done"
    assert_whole(keeper, collection, pictures | {"new": picture(99)})


def test_pictures_that_are_larger_than_the_server_takes_now(bundle, tmp_path):
    settings = Settings(listen="127.0.0.1:0", bundles=[bundle], data_dir=tmp_path)
    with HousekeptServer(settings) as server, Client(server.address) as client:
        fill(client, "pets", 2)
        image = client.get("p000", collection="pets")
    smaller = settings.model_copy(update={"max_image_pixels": image.width * image.height - 1})
    with HousekeptServer(smaller) as server, Client(server.address) as client:
        with pytest.raises(InternalError, match=r"'p00[01]' cannot be decoded") as caught:
            list(client.rebuild("pets"))
        assert caught.value.reason == "IMAGE_DAMAGED"


def test_an_old_generation_that_cannot_be_dropped_is_left_to_the_sweep(housekept, keeper, collection):
    pictures = fill(keeper, collection, 3)

    async def fail(*_: object) -> None:
        raise IndexUnavailable("Milvus is away")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MilvusIndex, "settle", fail)
        assert [progress.phase for progress in keeper.rebuild(collection)][-1] == "done"
    assert len(housekept.generations(collection)) == 2
    assert keeper.insert(pictures["p000"], image_id="p000", collection=collection).outcome == "unchanged"
    housekept.run(housekept.index.sweep(0))
    assert_whole(keeper, collection, pictures)
    assert len(housekept.generations(collection)) == 1


def test_a_switch_whose_answer_is_lost_is_done(housekept, keeper, collection):
    pictures = fill(keeper, collection, 3)
    (old,) = keeper.get_collection(collection).generations
    publish = MilvusIndex.publish

    async def lose_the_answer(self: MilvusIndex, generation: CollectionInfo) -> None:
        await publish(self, generation)
        raise IndexUnavailable("Milvus is away")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MilvusIndex, "publish", lose_the_answer)
        assert [progress.phase for progress in keeper.rebuild(collection)][-1] == "done"
    assert_whole(keeper, collection, pictures)
    (new,) = keeper.get_collection(collection).generations
    assert new.name != old.name


def test_a_server_that_stops_after_the_switch_says_done(bundle, tmp_path):
    settings = Settings(listen="127.0.0.1:0", bundles=[bundle], data_dir=tmp_path, drain_timeout=600)
    with gated(MilvusIndex, "settle") as gate:
        with HousekeptServer(settings) as server:
            client = Client(server.address)
            pictures = fill(client, "pets", 3)
            (old,) = client.get_collection("pets").generations
            watching = Background(lambda: list(client.rebuild("pets")))
            gate.wait()
        with client:
            assert [progress.phase for progress in watching.result()][-1] == "done"
    with HousekeptServer(settings) as server, Client(server.address) as client:
        assert_whole(client, "pets", pictures)
        assert client.get_collection("pets").generations[0].name != old.name


def test_a_server_that_stops_gives_a_rebuild_up_and_says_so(bundle, tmp_path):
    settings = Settings(listen="127.0.0.1:0", bundles=[bundle], data_dir=tmp_path, drain_timeout=600)
    with gated(MilvusIndex, "publish") as gate:
        with HousekeptServer(settings) as server:
            client = Client(server.address)
            fill(client, "pets", 3)
            watching = Background(lambda: list(client.rebuild("pets")))
            gate.wait()
        with client, pytest.raises(UnavailableError) as caught:
            watching.result()
        assert caught.value.reason == "NOT_SERVING"
    with HousekeptServer(settings) as server, Client(server.address) as client:
        assert client.get_collection("pets").image_count == 3
        assert len(server.generations("pets")) == 1
