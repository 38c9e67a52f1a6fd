"""Several servers over one Milvus server and one bucket: what one does the others see, and one may die at any time."""

import asyncio
import itertools
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path

import boto3
import numpy as np
import pytest

import milvus_server
import object_store_server
from clipseek import Client, ClipseekError, InsertItem, NotFoundError, UnavailableError
from clipseek_server.config import Settings
from clipseek_server.index.milvus import MilvusIndex
from housekept import PATIENCE, Background
from object_store_server import BUCKET, CREDENTIALS, ObjectStoreServer
from pictures import picture
from servers import ServerProcess, free_port

pytestmark = pytest.mark.xdist_group("milvus")  # one at a time

GRACE = 20
"""Seconds; calls may take half of it, and making a collection takes three."""


@pytest.fixture(scope="module")
def bucket() -> Iterator[ObjectStoreServer]:
    with object_store_server.running() as server:
        yield server


@pytest.fixture(scope="module")
def servers(
    bucket: ObjectStoreServer, bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ServerProcess, ServerProcess]]:
    """Two servers that sweep all the time."""
    folder = tmp_path_factory.mktemp("several")
    with milvus_server.running(tmp_path_factory.mktemp("milvus")), ExitStack() as stack:
        one, other = (
            stack.enter_context(
                ServerProcess(
                    folder / name,
                    bundle,
                    **CREDENTIALS,
                    CLIPSEEK_LISTEN=f"127.0.0.1:{free_port()}",
                    CLIPSEEK_MILVUS_URI=milvus_server.URI,
                    CLIPSEEK_MILVUS_USER=milvus_server.USER,
                    CLIPSEEK_MILVUS_PASSWORD=milvus_server.PASSWORD,
                    CLIPSEEK_IMAGE_STORE=f"s3://{BUCKET}/shared",
                    CLIPSEEK_S3_ENDPOINT=bucket.endpoint,
                    CLIPSEEK_SWEEP_INTERVAL="1",
                    CLIPSEEK_SWEEP_GRACE=str(GRACE),
                )
            )
            for name in ("one", "other")
        )
        yield one, other
        # Everything is in Milvus and in the bucket.
        assert not list(folder.glob("*/*"))


@pytest.fixture
def one(servers: tuple[ServerProcess, ServerProcess]) -> Iterator[Client]:
    with Client(servers[0].address) as client:
        yield client


@pytest.fixture
def other(servers: tuple[ServerProcess, ServerProcess]) -> Iterator[Client]:
    with Client(servers[1].address) as client:
        yield client


def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.05)


def blob_keys(bucket: ObjectStoreServer, uid: str, image_id: str) -> set[str]:
    """The keys of a picture's bytes, those of earlier writes too."""
    s3 = boto3.client(
        "s3",
        endpoint_url=bucket.endpoint,
        region_name=CREDENTIALS["AWS_REGION"],
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
    )
    found = s3.list_objects_v2(Bucket=BUCKET, Prefix=f"shared/{uid}/{image_id}/").get("Contents", [])
    return {each["Key"] for each in found if not each["Key"].endswith(".thumbnail")}


def assert_whole(client: Client, image_id: str, candidates: list[bytes], collection: str) -> None:
    """One record, of one of the pictures, with its bytes and its vector."""
    record = client.get(image_id, collection=collection, with_embedding=True, consistency="strong")
    (data,) = [each for each in candidates if sha256(each).hexdigest() == record.content_sha256]
    assert client.download(image_id, collection=collection) == data
    assert record.embedding is not None
    assert np.dot(record.embedding.values, client.embed_image(data).values) == pytest.approx(1, abs=1e-3)
    hits = client.search_image(data, collection=collection, consistency="strong", top_k=1000)
    assert [hit.score for hit in hits if hit.image_id == image_id] == [pytest.approx(1, abs=1e-3)]


def test_what_one_stores_the_other_finds(one: Client, other: Client) -> None:
    for writer, reader, number in ((one, other, 1), (other, one, 2)):
        image_id = writer.insert(picture(number), metadata={"n": number}, collection="shared").image_id
        hits = reader.search_image(picture(number), collection="shared", consistency="strong", with_thumbnails=True)
        assert (hits[0].image_id, hits[0].image.metadata) == (image_id, {"n": number})
        assert hits[0].image.thumbnail
        assert reader.download(image_id, collection="shared") == picture(number)
        assert reader.insert(picture(number), collection="shared").outcome == "unchanged"


def test_the_same_id_from_both_at_once(one: Client, other: Client) -> None:
    barrier = threading.Barrier(2)

    def insert(client: Client, data: bytes) -> str:
        barrier.wait(PATIENCE)
        return client.insert(data, image_id="same", collection="shared").outcome

    for number in range(5):
        pictures = [picture(1000 + 2 * number), picture(1001 + 2 * number)]
        writing = [Background(lambda c=c, d=d: insert(c, d)) for c, d in zip((one, other), pictures, strict=True)]
        assert {each.result() for each in writing} <= {"created", "updated"}
        for client in (one, other):
            assert_whole(client, "same", pictures, "shared")
    listed = [image.image_id for image in one.list(collection="shared", consistency="strong")]
    assert listed.count("same") == 1


def test_a_rebuild_on_one_is_followed_by_the_other(one: Client, other: Client) -> None:
    pictures = {f"p{number:02}": picture(number) for number in range(40)}
    for result in one.insert_stream([InsertItem(data, each) for each, data in pictures.items()], collection="rebuilt"):
        assert result.error is None
    (before,) = other.get_collection("rebuilt").generations
    rebuilding = Background(lambda: [progress.phase for progress in one.rebuild("rebuilt")])
    held = 0
    for number in itertools.count():
        image_id = f"late{number:03}"
        try:
            other.insert(picture(100 + number), image_id=image_id, collection="rebuilt")
            pictures[image_id] = picture(100 + number)
        except UnavailableError as error:
            assert error.reason == "COLLECTION_HELD"
            assert error.retry_after
            held += 1
        # Whichever generation is live: all that was there when the rebuild began is found.
        assert len(other.search_text("a", collection="rebuilt", consistency="strong", top_k=1000)) >= 40
        if rebuilding.done:
            break
    assert rebuilding.result()[-1] == "done"
    assert held

    def followed() -> bool:
        generations = other.get_collection("rebuilt").generations
        return len(generations) == 1 and generations[0].name != before.name

    until(followed, 10)
    assert other.insert(picture(99), image_id="after", collection="rebuilt").outcome == "created"
    pictures["after"] = picture(99)
    for client in (one, other):
        listed = {image.image_id for image in client.list(collection="rebuilt", consistency="strong")}
        # A write that was refused may have been copied all the same.
        assert listed >= set(pictures)
        hits = client.search_image(pictures["p07"], collection="rebuilt", consistency="strong")
        assert hits[0].image_id == "p07"


def test_an_alias_that_somebody_moves_is_followed(one: Client, other: Client, tmp_path: Path) -> None:
    one.insert(picture(1), image_id="here", collection="moved")
    assert other.get("here", collection="moved", consistency="strong").image_id == "here"

    async def move() -> None:
        """To an empty generation; the old one stays where it is until it is swept."""
        index = await MilvusIndex.connect(
            Settings(
                data_dir=tmp_path,
                milvus_uri=milvus_server.URI,
                milvus_user=milvus_server.USER,
                milvus_password=milvus_server.PASSWORD,
            )
        )
        old = (await index.open("moved")).info
        await index.publish((await index.begin_generation(old, precision="fp32")).info)
        await index.close()

    asyncio.run(move())

    def is_empty(client: Client) -> bool:
        try:
            client.get("here", collection="moved", consistency="strong")
        except NotFoundError:
            return True
        return False

    # Before it is swept.
    until(lambda: is_empty(one) and is_empty(other), GRACE / 2)


def test_a_collection_that_one_deletes_is_gone_for_the_other(one: Client, other: Client) -> None:
    one.insert(picture(1), image_id="a", collection="doomed")
    assert other.search_image(picture(1), collection="doomed", consistency="strong")[0].image_id == "a"
    uid = other.get_collection("doomed").uid
    one.delete_collection("doomed")
    for call in (
        lambda: other.search_text("a", collection="doomed"),
        lambda: other.get("a", collection="doomed"),
        lambda: other.download("a", collection="doomed"),
        lambda: other.get_collection("doomed"),
        lambda: other.delete("a", collection="doomed"),
    ):
        with pytest.raises(NotFoundError) as caught:
            call()
        assert caught.value.reason == "COLLECTION_NOT_FOUND"
    other.insert(picture(2), image_id="b", collection="doomed")
    assert one.get_collection("doomed").uid == other.get_collection("doomed").uid != uid
    assert [image.image_id for image in one.list(collection="doomed", consistency="strong")] == ["b"]


def test_sweeps_beside_each_other_take_only_what_nothing_names(
    one: Client, other: Client, bucket: ObjectStoreServer
) -> None:
    one.insert(picture(1), image_id="replaced", collection="swept")
    uid = one.get_collection("swept").uid
    (old,) = blob_keys(bucket, uid, "replaced")
    other.insert(picture(2), image_id="replaced", collection="swept")
    stop = threading.Event()

    def write(client: Client, name: str) -> dict[str, bytes]:
        """New pictures, replaced and deleted ones; returns what is left."""
        left = {}
        for number in itertools.count():
            if stop.wait(0.1):  # no more than the sweeps need beside them
                return left
            image_id = f"{name}{number % 20:02}"
            left[image_id] = picture(number)
            client.insert(left[image_id], image_id=image_id, collection="swept")
            if number % 5 == 4:
                client.delete(image_id, collection="swept")
                del left[image_id]
        raise AssertionError

    writing = [Background(lambda: write(one, "a")), Background(lambda: write(other, "b"))]
    try:
        until(lambda: old not in blob_keys(bucket, uid, "replaced") or any(each.done for each in writing), 6 * GRACE)
    finally:
        stop.set()
    left = {"replaced": picture(2)} | writing[0].result() | writing[1].result()

    kinds = {found.kind for report in one.check("swept", verify_bytes=True) for found in report.differences}
    assert kinds <= {"orphaned_bytes"}  # of pictures that were deleted or replaced a moment ago
    for client in (one, other):
        assert {image.image_id for image in client.list(collection="swept", consistency="strong")} == set(left)
        for image_id, data in left.items():
            assert client.download(image_id, collection="swept", consistency="bounded") == data


class Load:
    """Calls of one client from several threads, until it is told to stop.

    Attributes:
        acknowledged: What was stored, by id.
        deleted: The ids of pictures that were stored, and deleted again.
        updated: The last number that was stored with each picture that is updated again and again.
        reads: How many calls of the others were answered.
        failures: What their callers saw.
    """

    def __init__(self, client: Client, collection: str) -> None:
        self.acknowledged: dict[str, bytes] = {}
        self.deleted: list[str] = []
        self.updated = dict.fromkeys(["p0", "p4"], 0)
        self.reads = 0
        self.failures: list[tuple[str, ClipseekError]] = []
        self._client = client
        self._collection = collection
        self._stop = threading.Event()
        named = {"collection": collection}
        reads: list[Callable[[], object]] = [
            lambda: client.search_text("a", **named),
            lambda: client.search_image(picture(3), consistency="strong", **named),
            lambda: client.get("p3", **named),
            lambda: client.get_many(["p1", "p2"], **named),
            lambda: client.download("p1", **named),
            lambda: list(client.list(**named)),
            lambda: client.embed_text("a"),
            lambda: client.get_collection(collection),
        ]
        work = [lambda each=each: self._read(each) for each in [reads[:4], reads[4:], reads]]
        # So many that some are under way whenever a server dies.
        work += [lambda name=name: self._insert(name) for name in "abcdefgh"] + [self._insert_stream]
        work += [lambda image_id=image_id: self._update(image_id) for image_id in self.updated]
        work += [lambda name=name: self._insert_and_delete(name) for name in "qrstuvwx"]
        self._threads = [Background(self._until_stopped(each)) for each in work]

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.result()

    def _until_stopped(self, work: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            while not self._stop.is_set():
                work()

        return run

    def _read(self, calls: list[Callable[[], object]]) -> None:
        for number, call in enumerate(calls):
            try:
                call()
                self.reads += 1
            except ClipseekError as error:
                self.failures.append((f"read {number} of {len(calls)}", error))

    def _insert(self, name: str) -> None:
        number = len(self.acknowledged) + 1000 * ord(name)
        image_id = f"{name}{number}"
        try:
            self._client.insert(picture(number), image_id=image_id, collection=self._collection)
            self.acknowledged[image_id] = picture(number)
        except ClipseekError as error:
            self.failures.append(("insert", error))

    def _insert_and_delete(self, name: str) -> None:
        image_id = f"{name}{len(self.deleted)}"
        try:
            self._client.insert(picture(600_000 + ord(name)), image_id=image_id, collection=self._collection)
            for _ in range(5):  # most of the time, so that some are under way whenever a server dies
                self._client.delete(image_id, collection=self._collection)
            self.deleted.append(image_id)
        except ClipseekError as error:
            self.failures.append(("insert and delete", error))

    def _update(self, image_id: str) -> None:
        number = self.updated[image_id] + 1
        try:
            self._client.update(image_id, {"n": number}, collection=self._collection)
            self.updated[image_id] = number
        except ClipseekError as error:
            self.failures.append(("update", error))

    def _insert_stream(self) -> None:
        begin = len(self.acknowledged) + 500_000
        items = [InsertItem(picture(number), f"z{number}") for number in range(begin, begin + 5)]
        for result in self._client.insert_stream(items, collection=self._collection):
            if result.error:
                self.failures.append(("insert_stream", result.error))
            else:
                self.acknowledged[result.image_id] = picture(int(result.image_id[1:]))


def calls_of(server: ServerProcess, begin: int = 0) -> int:
    """How many searches a server has answered since its log was so long."""
    return len(re.findall(rb'"method": "SearchService/Search', server.log.read_bytes()[begin:]))


def test_one_is_killed_under_load_and_comes_back(servers: tuple[ServerProcess, ServerProcess]) -> None:
    dying, living = servers
    with Client(f"{dying.address},{living.address}") as client:
        for number in range(5):
            client.insert(picture(number), image_id=f"p{number}", collection="loaded")
        begin = [len(server.log.read_bytes()) for server in servers]
        load = Load(client, "loaded")
        # Both are at work.
        until(lambda: all(calls_of(*each) > 20 for each in zip(servers, begin, strict=True)))
        before, reads = len(load.acknowledged), load.reads
        deleted, updated = len(load.deleted), dict(load.updated)
        address = dying.address
        dying.kill()
        until(
            lambda: (
                len(load.acknowledged) > before + 20
                and load.reads > reads + 40
                and len(load.deleted) > deleted + 8
                and all(load.updated[each] > updated[each] + 2 for each in updated)
            )
        )
        load.stop()
        assert load.failures == []
        assert before > 0

        # Nobody has to tell the client that it is back.
        again = len(dying.log.read_bytes())
        dying.start()
        assert dying.address == address
        end = time.monotonic() + PATIENCE
        while calls_of(dying, again) < 5:
            client.search_text("a", collection="loaded")
            assert time.monotonic() < end
        batch = client.get_many(list(load.acknowledged), collection="loaded", consistency="strong")
        assert batch.missing == ()
        assert client.get_many(load.deleted, collection="loaded", consistency="strong").images == ()
        stored = client.get_many(list(load.updated), collection="loaded", consistency="strong").images
        assert {image.image_id: image.metadata for image in stored} == {
            image_id: {"n": number} for image_id, number in load.updated.items()
        }
        # After a strong read a bounded one sees as much, and costs a hundredth.
        for image_id, data in load.acknowledged.items():
            assert client.download(image_id, collection="loaded", consistency="bounded") == data
