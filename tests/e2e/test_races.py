"""Callers that get in each other's way."""

import asyncio
import hashlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

from clipseek import AlreadyExistsError, AsyncClient, Client, NotFoundError, UnavailableError
from clipseek_server.encoding.model import LoadedModel
from clipseek_server.images.folder import FolderStore
from clipseek_server.index.collection import MilvusCollection
from clipseek_server.index.generations import Generations
from clipseek_server.index.table import Table
from housekept import Background, gated
from pictures import picture

T = TypeVar("T")


def together(works: Sequence[Callable[[], T]]) -> list[T]:
    """Run all at the same time, each on its own thread."""
    barrier = threading.Barrier(len(works))

    def start(work: Callable[[], T]) -> T:
        barrier.wait()
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(start, works))


def test_racing_first_inserts_make_one_collection(housekept, collection):
    clients = [Client(housekept.address) for _ in range(4)]
    works = [
        lambda client=clients[number % 4], number=number: client.insert(
            picture(number), image_id=f"p{number}", collection=collection
        )
        for number in range(16)
    ]
    assert {inserted.outcome for inserted in together(works)} == {"created"}
    assert len(housekept.generations(collection)) == 1
    assert [image.image_id for image in clients[0].list(collection=collection)] == sorted(f"p{n}" for n in range(16))
    assert {hit.image_id for hit in clients[1].search_text("a", collection=collection, top_k=20)} == {
        f"p{number}" for number in range(16)
    }
    for client in clients:
        client.close()


async def test_racing_first_inserts_of_async_clients(housekept, collection):
    clients = [AsyncClient(housekept.address) for _ in range(4)]
    inserted = await asyncio.gather(
        *(client.insert(picture(n), collection=collection) for client in clients for n in range(4))
    )
    # Every client sends the same four pictures: each is created once.
    assert sorted(each.outcome for each in inserted) == ["created"] * 4 + ["unchanged"] * 12
    assert len({each.image_id for each in inserted}) == 4
    for client in clients:
        assert (await client.get_collection(collection)).image_count == 4
        await client.close()


def test_racing_inserts_of_one_id_end_as_one_whole_record(housekept, keeper, collection):
    keeper.create_collection(collection)
    for _ in range(5):
        works = [
            lambda n=n: keeper.insert(picture(n), image_id="same", metadata={"n": n}, collection=collection)
            for n in range(8)
        ]
        inserted = together(works)
        assert sum(each.outcome == "created" for each in inserted) <= 1
        image = keeper.get("same", collection=collection)
        n = image.metadata["n"]
        assert image.content_sha256 == hashlib.sha256(picture(n)).hexdigest()
        assert keeper.download("same", collection=collection) == picture(n)
        (hit,) = keeper.search_image(picture(n), collection=collection)
        assert (hit.image, hit.score) == (image, pytest.approx(1, abs=1e-3))
    assert keeper.get_collection(collection).image_count == 1
    assert housekept.run(_differs(housekept, collection)) == []


async def _differs(housekept, collection):
    from clipseek_server.telemetry import Call

    return await (await housekept.index.open(collection)).verify_resident(Call())


def test_the_same_bytes_at_once_are_embedded_once(keeper, collection):
    keeper.create_collection(collection)
    inserted = together([lambda: keeper.insert(picture(1), collection=collection)] * 8)
    assert sorted(each.outcome for each in inserted) == ["created"] + ["unchanged"] * 7
    assert sorted(each.timing.inference > 0 for each in inserted) == [False] * 7 + [True]


def test_racing_creates_make_one_and_say_so_to_the_others(housekept, keeper, collection):
    def create():
        try:
            return keeper.create_collection(collection).uid
        except AlreadyExistsError:
            return None

    made = together([create] * 8)
    assert [uid for uid in made if uid] == [keeper.get_collection(collection).uid]
    assert len(housekept.generations(collection)) == 1


def test_racing_creates_inserts_and_deletes_of_one_collection(housekept, keeper, collection):
    """Every answer is one that the contract names, and what is left is a whole collection or none."""
    answers = set()

    def insert(n: int) -> None:
        for _ in range(6):
            try:
                answers.add(keeper.insert(picture(n), image_id=f"p{n}", collection=collection).outcome)
            except UnavailableError as error:
                answers.add(error.reason)

    def drop() -> None:
        for _ in range(6):
            try:
                keeper.delete_collection(collection)
            except (NotFoundError, UnavailableError) as error:
                answers.add(error.reason)

    def create() -> None:
        for _ in range(6):
            try:
                keeper.create_collection(collection)
            except (AlreadyExistsError, UnavailableError, NotFoundError) as error:
                answers.add(error.reason)

    together([*(lambda n=n: insert(n) for n in range(4)), drop, drop, create])
    assert answers <= {
        "created",
        "unchanged",
        "updated",
        "COLLECTION_HELD",
        "COLLECTION_NOT_FOUND",
        "COLLECTION_EXISTS",
    }
    keeper.insert(picture(9), image_id="last", collection=collection)
    images = list(keeper.list(collection=collection))
    assert keeper.get_collection(collection).image_count == len(images)
    for image in images:
        assert (
            hashlib.sha256(keeper.download(image.image_id, collection=collection)).hexdigest() == image.content_sha256
        )
    assert len(housekept.generations(collection)) == 1


def test_a_drop_waits_for_the_insert_that_is_under_way(housekept, keeper, collection):
    uid = keeper.create_collection(collection).uid
    with gated(MilvusCollection, "upsert", when=lambda self, *_: self.info.name == collection) as gate:
        inserting = Background(lambda: keeper.insert(picture(1), image_id="a", collection=collection))
        gate.wait()
        dropping = Background(lambda: keeper.delete_collection(collection))
        _until_held(keeper, collection)
        assert not dropping.done
        gate.opened.set()
        assert inserting.result().outcome == "created"
        assert dropping.result() == 1
    with pytest.raises(NotFoundError):
        keeper.get("a", collection=collection)
    assert keeper.insert(picture(1), image_id="a", collection=collection).outcome == "created"
    assert keeper.get_collection(collection).uid != uid


def _until_held(client: Client, collection: str) -> None:
    """Return when writes are held, which they are as soon as a drop or a rebuild has begun."""
    while True:
        try:
            client.update("nobody", {}, collection=collection)
        except NotFoundError:
            continue
        except UnavailableError as error:
            assert error.reason == "COLLECTION_HELD"
            return


async def test_a_drop_whose_caller_went_is_finished(housekept, keeper, collection):
    keeper.insert(picture(1), image_id="a", collection=collection)
    async with AsyncClient(housekept.address) as client:
        with gated(Generations, "unpublish", when=lambda _, name: name == collection, after=True) as gate:
            dropping = asyncio.create_task(client.delete_collection(collection))
            await asyncio.to_thread(gate.wait)
            dropping.cancel()
            with pytest.raises(asyncio.CancelledError):
                await dropping
            # It goes on behind its caller, and writes are held as long.
            with pytest.raises(UnavailableError):
                keeper.insert(picture(1), image_id="b", collection=collection)
            gate.opened.set()
    inserted = await _insert_when_let(keeper, collection)
    assert inserted.outcome == "created"
    assert [image.image_id for image in keeper.list(collection=collection)] == ["b"]
    assert len(housekept.generations(collection)) == 1


async def _insert_when_let(client: Client, collection: str):
    while True:
        try:
            return await asyncio.to_thread(client.insert, picture(1), image_id="b", collection=collection)
        except UnavailableError:
            continue


async def test_a_birth_whose_caller_went_is_finished(housekept, keeper, collection):
    async with AsyncClient(housekept.address) as client:
        with gated(Generations, "make", when=lambda _, made: made.name == collection) as gate:
            creating = asyncio.create_task(client.create_collection(collection))
            await asyncio.to_thread(gate.wait)
            creating.cancel()
            with pytest.raises(asyncio.CancelledError):
                await creating
            gate.opened.set()
            assert keeper.insert(picture(1), image_id="a", collection=collection).outcome == "created"
    assert len(housekept.generations(collection)) == 1
    assert housekept.index._building == set()


@pytest.mark.parametrize(
    ("owner", "method"), [(LoadedModel, "embed_picture"), (FolderStore, "put"), (MilvusCollection, "upsert")]
)
async def test_a_client_that_goes_away_does_not_upset_the_next_write(housekept, keeper, collection, owner, method):
    """Wherever its insert is: the next write on the id comes after it, and its own bytes stay."""
    keeper.insert(picture(1), image_id="a", collection=collection)
    async with AsyncClient(housekept.address) as client:
        with gated(owner, method) as gate:
            first = asyncio.create_task(client.insert(picture(2), image_id="a", collection=collection))
            await asyncio.to_thread(gate.wait)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            second = Background(
                lambda: keeper.insert(picture(3), image_id="a", metadata={"n": 3}, collection=collection)
            )
            gate.opened.set()
            assert second.result().outcome == "updated"
    assert keeper.get("a", collection=collection).metadata == {"n": 3}
    assert keeper.download("a", collection=collection) == picture(3)
    assert keeper.search_image(picture(3), collection=collection)[0].score == pytest.approx(1, abs=1e-3)
    assert keeper.delete("a", collection=collection).count == 1
    with pytest.raises(NotFoundError):
        keeper.get("a", collection=collection)


async def test_the_next_write_sees_what_a_client_that_went_away_has_begun(housekept, keeper, collection):
    keeper.create_collection(collection)
    async with AsyncClient(housekept.address) as client:
        with gated(Table, "upsert") as gate:
            first = asyncio.create_task(client.insert(picture(2), image_id="a", collection=collection))
            await asyncio.to_thread(gate.wait)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            second = Background(
                lambda: keeper.insert(picture(3), image_id="a", collection=collection, on_exists="keep")
            )
            keeper.embed_image(picture(4))  # by now the server has heard of both
            gate.opened.set()
            assert second.result().outcome == "unchanged"
    assert keeper.download("a", collection=collection) == picture(2)
