"""The index room on a real Milvus server: the same contract as on Milvus Lite."""

import asyncio
import dataclasses
import ssl
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import trustme
from annotated_types import Le
from pymilvus import MilvusClient

import filter_cases
import milvus_proxy
import milvus_server
from clipseek_server.config import Settings
from clipseek_server.errors import (
    CollectionGone,
    CollectionHeld,
    CollectionNotFound,
    EffortNotServed,
    IndexUnavailable,
)
from clipseek_server.index import holds
from clipseek_server.index import milvus as milvus_index
from clipseek_server.index.filters import parse_filter
from clipseek_server.index.generations import Generations
from clipseek_server.index.holds import LEASE_SECONDS
from clipseek_server.index.metadata import MAX_STORED_BYTES, stored_bytes
from clipseek_server.index.milvus import MilvusIndex
from clipseek_server.index.records import Effort, Row
from clipseek_server.index.schema import VECTOR_FIELD
from clipseek_server.telemetry import Call
from housekept import gated
from index_rows import DIMENSION, listed, make, nearest, row, vector
from servers import free_port

pytestmark = pytest.mark.xdist_group("milvus")  # one at a time

LARGEST = {
    name: next(bound.le for bound in Settings.model_fields[name].metadata if isinstance(bound, Le))
    for name in ("max_batch_ids", "max_offset_plus_top_k", "max_search_terms")
}
"""The most that settings can be set to."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with milvus_server.running(tmp_path_factory.mktemp("milvus")) as group:
        yield group


def _settings(folder: Path, **settings: Any) -> Settings:
    defaults = {
        "milvus_uri": milvus_server.URI,
        "milvus_user": milvus_server.USER,
        "milvus_password": milvus_server.PASSWORD,
        "ivf_nlist": 16,
        "ivf_nprobe": 4,
    }
    return Settings(data_dir=folder, **{**defaults, **settings})


@asynccontextmanager
async def _connected(folder: Path, **settings: Any) -> AsyncIterator[MilvusIndex]:
    index = await MilvusIndex.connect(_settings(folder, **settings))
    yield index
    await index.close()


@pytest.fixture
async def index(server: int, tmp_path: Path) -> AsyncIterator[MilvusIndex]:
    async with _connected(tmp_path) as connected:
        yield connected


async def test_contract(index: MilvusIndex) -> None:
    await index.ping()
    assert (index.engine, index.engine_version) == ("milvus", "v2.3.5-lite")
    assert index.default_consistency == "bounded"
    collection = await make(index, "contract")
    assert collection.info.index == "IVF_FLAT"
    assert collection.info.efforts == {Effort.FAST, Effort.THOROUGH, Effort.EXACT}
    written = [row(f"{number:03d}", number, n=float(number), name="x") for number in range(300)]
    # The same id once more: the later row stays, and counts once.
    await asyncio.gather(*(collection.upsert(each, Call()) for each in [*written, row("000", 0, n=-1, name="y")]))

    assert await collection.count(Call(), strong=True) == 300
    found = await collection.get_rows(["000", "299", "absent"], Call())
    assert found.keys() == {"000", "299"}
    assert found["000"].record.metadata == {"n": -1, "name": "y"}
    np.testing.assert_array_equal(found["299"].vector, written[299].vector)
    for effort in Effort:
        hits = await nearest(collection, vector(17), 3, effort=effort)
        assert hits[0].record.image_id == "017"
        assert hits[0].score == pytest.approx(1.0, abs=1e-5)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert len(await nearest(collection, vector(17), 300)) == 300

    assert await listed(collection) == [each.record.image_id for each in written]
    page = await collection.page("100", 2, Call(), filter=parse_filter("metadata.n >= 200"), strong=True)
    assert [record.image_id for record in page] == ["200", "201"]
    await collection.delete([f"{number:03d}" for number in range(0, 300, 2)], Call())
    assert await collection.count(Call(), strong=True) == 150
    assert await collection.get(["000", "001"], Call()) == {"001": (await collection.get(["001"], Call()))["001"]}
    # Bounded reads may lag, but answer.
    assert len(await nearest(collection, vector(17), 5, strong=False)) == 5
    assert not collection.resident
    assert await collection.verify_resident(Call()) == []


async def test_filters(index: MilvusIndex) -> None:
    collection = await make(index, "filters")
    await asyncio.gather(*(collection.upsert(Row(record, vector(1)), Call()) for record in filter_cases.RECORDS))
    # After a strong read a bounded one sees as much, and costs a hundredth.
    assert set(await listed(collection)) == {record.image_id for record in filter_cases.RECORDS}
    for text, expected in filter_cases.CASES:
        condition = parse_filter(text)
        found = await collection.page("", 1000, Call(), filter=condition, strong=False)
        assert {record.image_id for record in found} == set(expected), text
    text, expected = filter_cases.CASES[0]
    hits = await nearest(collection, vector(1), 100, condition=parse_filter(text))
    assert {hit.record.image_id for hit in hits} == set(expected)


@pytest.mark.parametrize(
    ("index_type", "served"),
    [
        ("FLAT", "EXACT, FAST, THOROUGH"),
        ("IVF_FLAT", "EXACT, FAST, THOROUGH"),
        ("HNSW", "FAST, THOROUGH"),
        ("AUTOINDEX", "none"),
    ],
)
async def test_index_types(server: int, tmp_path: Path, index_type: str, served: str) -> None:
    async with _connected(tmp_path, index_type=index_type) as index:
        collection = await make(index, f"index_{index_type.lower()}")
        assert collection.info.index == index_type
        assert (", ".join(sorted(effort.name for effort in collection.info.efforts)) or "none") == served
        await asyncio.gather(*(collection.upsert(row(f"{number:03d}", number), Call()) for number in range(200)))
        await collection.count(Call(), strong=True)
        for effort in [Effort.DEFAULT, *collection.info.efforts]:
            hits = await nearest(collection, vector(42), 5, effort=effort)
            assert hits[0].record.image_id == "042"
        if "EXACT" in served:
            scores = np.sort([vector(number) @ vector(42) for number in range(200)])[::-1]
            hits = await nearest(collection, vector(42), 50, effort=Effort.EXACT)
            np.testing.assert_allclose([hit.score for hit in hits], scores[:50], atol=1e-5)
        else:
            with pytest.raises(EffortNotServed, match="EXACT") as refused:
                await nearest(collection, vector(42), effort=Effort.EXACT)
            assert refused.value.metadata == {"effort": "EXACT", "index": index_type, "served": served}
    # An index is what it was made as, whatever the settings say now.
    async with _connected(tmp_path, index_type="FLAT" if index_type == "HNSW" else "HNSW") as later:
        assert (await later.open(collection.info.name)).info.index == index_type


@pytest.mark.parametrize(
    ("settings", "described"),
    [
        ({"index_type": "IVF_FLAT", "ivf_nlist": 1024, "ivf_nprobe": 5}, {"nlist": "1024"}),
        ({"index_type": "HNSW", "hnsw_m": 8, "hnsw_ef": 64}, {"M": "8", "efConstruction": "300"}),
    ],
    ids=["IVF_FLAT", "HNSW"],
)
async def test_an_index_is_made_and_searched_as_the_settings_say(
    server: int, tmp_path: Path, settings: dict[str, Any], described: dict[str, str]
) -> None:
    async with _connected(tmp_path, **settings) as index:
        collection = await make(index, f"set_{settings['index_type'].lower()}")
        made = await index._connection.call(MilvusClient.describe_index, collection.info.generation, VECTOR_FIELD)
        assert {name: str(made[name]) for name in described} == described
        await asyncio.gather(*(collection.upsert(row(f"{number:03d}", number), Call()) for number in range(200)))
        assert [hit.record.image_id for hit in await nearest(collection, vector(42), 1)] == ["042"]


async def test_a_collection_is_loaded_once(server: int, tmp_path: Path) -> None:
    """Not by each search, as it could be: only when it is made, and once more by a server that starts."""
    loads: list[int] = []
    with milvus_proxy.proxied(f"127.0.0.1:{milvus_server.PORT}") as proxy:
        proxy.before["LoadCollection"] = [lambda _: loads.append(1)] * 100
        async with _connected(tmp_path, milvus_uri=f"http://{proxy.address}") as index:
            await make(index, "loaded")
            made = len(loads)
            assert made
            for number in range(3):
                collection = await index.open("loaded")
                await collection.upsert(row(f"{number}", number), Call())
                await nearest(collection, vector(number))
                await nearest(collection, vector(number), strong=False)
                await collection.get([f"{number}"], Call())
                assert len(await listed(collection)) == number + 1
            assert len(loads) == made
        async with _connected(tmp_path, milvus_uri=f"http://{proxy.address}") as index:
            opened = await asyncio.gather(*(index.open("loaded") for _ in range(3)))
            for collection in opened:
                assert (await nearest(collection, vector(1)))[0].record.image_id == "1"
            assert len(loads) == made + 1


async def test_the_largest_requests(index: MilvusIndex) -> None:
    collection = await make(index, "largest")
    # {"s:text":"…"}
    text = "\x01" * ((MAX_STORED_BYTES - 13) // 6)
    written = [row("large", 1, text=text + "x" * (MAX_STORED_BYTES - 13 - 6 * len(text))), row("small", 2, n=1)]
    assert stored_bytes(written[0].record.metadata) == MAX_STORED_BYTES
    await asyncio.gather(*(collection.upsert(each, Call()) for each in written))
    ids = [f"{number:0128}" for number in range(LARGEST["max_batch_ids"] - 1)]
    assert await collection.get([*ids, "large"], Call()) == {"large": written[0].record}
    limit = LARGEST["max_offset_plus_top_k"] + LARGEST["max_search_terms"]
    for effort in (Effort.DEFAULT, Effort.THOROUGH):
        assert len(await nearest(collection, vector(1), limit, effort=effort)) == 2
    for text in filter_cases.LARGEST:
        condition = parse_filter(text)
        assert "small" in await listed(collection, condition)
        hits = await nearest(collection, vector(2), condition=condition)
        assert hits[0].record.image_id == "small"
    await collection.delete([*ids, "large"], Call())
    assert await listed(collection) == ["small"]


async def test_two_servers_race_for_a_name(server: int, tmp_path: Path) -> None:
    async with _connected(tmp_path) as one, _connected(tmp_path) as other:
        made = await asyncio.gather(
            *(
                index.create("race", space_id=f"s{number}", precision="fp32", dimension=DIMENSION)
                for number, index in enumerate((one, other))
            )
        )
        assert made[0][0].info == made[1][0].info
        assert sorted(won for _, won in made) == [False, True]
        assert "race" in await one.names()
        winner = made[0][0].info
        assert [generation.physical for generation in await one._generations.all() if generation.name == "race"] == [
            winner.generation
        ]

        # One drops what the other has open.
        await one.drop("race", winner.uid)
        with pytest.raises(CollectionGone):
            await nearest(made[1][0], vector(1))
        with pytest.raises(CollectionNotFound):
            await other.open("race")


async def test_rebuild_and_sweep(index: MilvusIndex) -> None:
    old = await make(index, "rebuilt")
    await old.upsert(row("a", 1), Call())
    new = await index.begin_generation(old.info, precision="int8")
    await new.upsert(row("a", 1), Call())
    assert await index.open("rebuilt") is old
    assert new.info.generation not in await index.sweep(0)
    await index.publish(new.info)
    assert await index.open("rebuilt") is new
    assert await index.settle(new.info)
    assert [hit.record.image_id for hit in await nearest(new, vector(1))] == ["a"]
    with pytest.raises(CollectionGone):
        await old.upsert(row("b", 1), Call())

    await index.drop("rebuilt", new.info.uid)
    assert new.info.uid not in await index.uids()


async def test_an_alias_that_somebody_moves_is_followed(index: MilvusIndex, tmp_path: Path) -> None:
    old = await make(index, "moved")
    async with _connected(tmp_path / "other") as other:
        assert (await other.open("moved")).info == old.info
        new = await index.begin_generation(old.info, precision="fp32")
        await new.upsert(row("a", 1), Call())
        # The old one is there still.
        await index.publish(new.info)
        await other.follow()
        followed = await other.open("moved")
        assert followed.info.generation == new.info.generation
        assert [hit.record.image_id for hit in await nearest(followed, vector(1))] == ["a"]
        assert await index.settle(new.info)


async def test_one_alias_of_hundreds_is_followed_in_a_few_turns(index: MilvusIndex, tmp_path: Path) -> None:
    """A few calls of Milvus at a time: as many as the barrier waits for, and never more."""
    old, new = await make(index, "many"), await make(index, "flipped")
    names = [f"many_{number:03d}" for number in range(300)]
    for name in names:
        await index._connection.call_catalogue(MilvusClient.create_alias, old.info.generation, name)
    side_by_side = threading.Barrier(milvus_index._LOOKS)
    under_way: list[int] = []

    def count(_: grpc.ServicerContext) -> None:
        under_way.append(proxy.under_way)

    def wait(context: grpc.ServicerContext) -> None:
        side_by_side.wait(60)
        count(context)

    with milvus_proxy.proxied(f"127.0.0.1:{milvus_server.PORT}") as proxy:
        async with _connected(tmp_path / "other", milvus_uri=f"http://{proxy.address}") as other:
            for name in names:
                assert (await other.open(name)).info == old.info
            await index._connection.call_catalogue(MilvusClient.alter_alias, new.info.generation, names[-1])
            proxy.before["DescribeCollection"] = [wait] * milvus_index._LOOKS + [count] * 1000
            turns = 0
            while (await other.open(names[-1])).info == old.info:
                turns += 1
                assert turns <= 3, "it is not followed"
                await other.follow()
            assert {(await other.open(name)).info.generation for name in names[:-1]} == {old.info.generation}
    assert max(under_way) == milvus_index._LOOKS


async def test_what_another_server_replaced_or_dropped_is_closed(index: MilvusIndex, tmp_path: Path) -> None:
    replaced, dropped, kept = [await make(index, f"{name}_elsewhere") for name in ("replaced", "dropped", "kept")]
    async with _connected(tmp_path / "other") as other:
        theirs = {name: await other.open(f"{name}_elsewhere") for name in ("replaced", "dropped", "kept")}
        built = await other.begin_generation(kept.info, precision="fp32")
        new = await index.begin_generation(replaced.info, precision="fp32")
        await index.publish(new.info)
        assert await index.settle(new.info)
        await index.drop("dropped_elsewhere", dropped.info.uid)

        # One that is asked for before the alias is looked at, and one that nobody asks for any more.
        with pytest.raises(CollectionGone):
            await theirs["replaced"].upsert(row("late"), Call())
        reopened = await other.open("replaced_elsewhere")
        await other.follow()
        assert other._collections.keys() == {
            collection.info.generation for collection in (theirs["kept"], built, reopened)
        }
        for gone in (theirs["replaced"], theirs["dropped"]):
            assert gone.gone
            with pytest.raises(CollectionGone):
                await nearest(gone, vector(1))
        assert await other.open("kept_elsewhere") is theirs["kept"]
        await built.upsert(row("a", 1), Call())
        assert not await other.settle(built.info)
        await other.follow()
        assert other._collections.keys() == {theirs["kept"].info.generation, new.info.generation}


async def test_no_server_writes_to_what_another_rebuilds(server: int, tmp_path: Path) -> None:
    async with _connected(tmp_path) as one, _connected(tmp_path) as other:
        old = await make(one, "held")
        theirs = await other.open("held")
        await theirs.upsert(row("before", 1), Call())
        new = await one.begin_generation(old.info, precision="fp32")

        with pytest.raises(CollectionHeld):
            await other.check_writable(theirs.info)
        with pytest.raises(CollectionHeld):  # what was looked for before the hold is looked for again
            await theirs.upsert(row("late", 2), Call())
        with pytest.raises(CollectionHeld):
            await theirs.delete(["before"], Call())
        with pytest.raises(CollectionHeld):
            await other.begin_generation(theirs.info, precision="fp32")
        assert await other.sweep(0) == []

        await new.upsert(row("before", 1), Call())
        await one.publish(new.info)
        with pytest.raises(CollectionHeld):  # the old one is still there
            await theirs.upsert(row("late", 2), Call())
        assert await one.settle(new.info)
        with pytest.raises(CollectionGone):
            await theirs.upsert(row("late", 2), Call())
        reopened = await other.open("held")
        assert reopened.info == new.info
        await other.check_writable(reopened.info)
        await reopened.upsert(row("after", 3), Call())
        assert await listed(reopened) == ["after", "before"]


@pytest.mark.parametrize("published", [False, True])
async def test_a_hold_ends_with_the_server_that_has_it(server: int, tmp_path: Path, published: bool) -> None:
    now = 0.0
    async with _connected(tmp_path) as dead, _connected(tmp_path) as other:
        name = f"dead_{published}".lower()
        old = await make(dead, name)
        theirs = await other.open(name)
        new = await dead.begin_generation(old.info, precision="fp32")
        if published:
            await dead.publish(new.info)
        assert dead._holds is not None
        assert other._holds is not None
        other._holds._clock = lambda: now

        async def assert_held() -> None:
            with pytest.raises(CollectionHeld):
                await other.check_writable(theirs.info)
            assert new.info.generation not in await other.sweep(0)

        await assert_held()
        now += LEASE_SECONDS * 0.9
        await dead._generations.beat(new.info.generation, 1)  # it lives
        await assert_held()
        now += LEASE_SECONDS * 0.9
        await assert_held()
        dead._holds.close()
        now += LEASE_SECONDS * 0.2
        with pytest.raises(CollectionHeld):  # retry later: now
            await other.check_writable(theirs.info)
        live = await other.open(name)
        before = (new if published else old).info
        # What its builder knows it by is no name of it any more.
        assert (live.info.generation == before.generation) is not published
        assert dataclasses.replace(live.info, generation=before.generation) == before
        await other.check_writable(live.info)
        await live.upsert(row("a", 1), Call())
        found = [generation.physical for generation in await other._generations.all() if generation.name == name]
        assert found == [live.info.generation]

        # Should it only have been asleep, it notices.
        if not published:
            with pytest.raises(IndexUnavailable, match="rebuild again"):
                await dead.publish(new.info)
        assert not await dead.settle(new.info)
        assert (await other.open(name)).info == live.info


async def test_a_builder_that_could_not_show_that_it_lives_gives_up(index: MilvusIndex) -> None:
    old = await make(index, "asleep")
    new = await index.begin_generation(old.info, precision="fp32")
    assert index._holds is not None
    index._holds._clock = lambda: time.monotonic() + LEASE_SECONDS / 2
    with pytest.raises(IndexUnavailable, match="rebuild again"):
        await index.publish(new.info)
    assert not await index.settle(new.info)
    assert (await index.open("asleep")).info == old.info


async def test_a_builder_that_wakes_up_when_it_is_settled_makes_nothing_live(server: int, tmp_path: Path) -> None:
    """Its switch comes between the other's look at what is live and its drop."""
    async with _connected(tmp_path) as asleep, _connected(tmp_path) as other:
        old = await make(asleep, "sleepy")
        new = await asleep.begin_generation(old.info, precision="fp32")
        assert asleep._holds is not None
        assert other._holds is not None
        asleep._holds.close()
        await other._settle_abandoned("sleepy")  # seen for the first time
        other._holds._clock = lambda: time.monotonic() + LEASE_SECONDS
        with gated(Generations, "release") as gate:
            settling = asyncio.create_task(other._settle_abandoned("sleepy"))
            await asyncio.to_thread(gate.wait)
            with pytest.raises(CollectionGone):
                await asleep._generations.publish(new.info.generation, "sleepy")
            gate.opened.set()
            await settling
        live = await other.open("sleepy")
        assert live.info == old.info
        await live.upsert(row("a", 1), Call())


async def test_a_builder_shows_that_it_lives(index: MilvusIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holds, "BEAT_SECONDS", 0.01)
    old = await make(index, "beating")
    new = await index.begin_generation(old.info, precision="fp32")
    async with asyncio.timeout(60):
        counted = 0
        while counted < 2:
            holder = await index._generations.holder("beating")
            counted = holder.beat if holder else 0
    assert not await index.settle(new.info)
    assert index._holds is not None
    assert index._holds._beating == {}


async def test_wrong_password(server: int, tmp_path: Path) -> None:
    async with _connected(tmp_path, milvus_password="wrong") as index:
        with pytest.raises(IndexUnavailable, match="credentials"):
            await index.ping()


async def test_a_token(server: int, tmp_path: Path) -> None:
    nobody = {"milvus_user": "", "milvus_password": ""}
    async with _connected(tmp_path, **nobody, milvus_token=f"{milvus_server.USER}:{milvus_server.PASSWORD}") as index:
        await index.ping()
    for token in ("root:wrong", ""):
        async with _connected(tmp_path, **nobody, milvus_token=token) as index:
            with pytest.raises(IndexUnavailable, match="credentials"):
                await index.ping()


async def test_tls(server: int, tmp_path: Path) -> None:
    """Through a proxy that ends the encryption, as one in front of Milvus would."""
    ours, another = trustme.CA(), trustme.CA()
    for name, authority in (("ours", ours), ("another", another)):
        authority.cert_pem.write_to_path(tmp_path / f"{name}.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["h2"])
    ours.issue_cert("localhost").configure_cert(context)
    port = free_port()
    uri = f"https://localhost:{port}"
    async with _link(port, tls=context):
        async with _connected(tmp_path, milvus_uri=uri, milvus_tls_ca=tmp_path / "ours.pem") as index:
            await index.ping()
            collection = await make(index, "encrypted")
            await collection.upsert(row("a", 1), Call())
            assert [hit.record.image_id for hit in await nearest(collection, vector(1))] == ["a"]
        for settings in ({"milvus_tls_ca": tmp_path / "another.pem"}, {}):
            async with _connected(tmp_path, milvus_uri=uri, milvus_timeout=3.0, **settings) as index:
                with pytest.raises(IndexUnavailable):
                    await index.ping()


async def test_a_database(server: int, tmp_path: Path, index: MilvusIndex) -> None:
    await index._connection.call_catalogue(MilvusClient.create_database, "elsewhere")
    async with _connected(tmp_path, milvus_database="elsewhere") as other:
        collection = await make(other, "apart")
        await collection.upsert(row("a", 1), Call())
        assert await listed(collection) == ["a"]
        assert [hit.record.image_id for hit in await nearest(collection, vector(1))] == ["a"]
        assert await other.names() == ["apart"]
        assert await other.sweep(0) == []
        assert "apart" not in await index.names()
        with pytest.raises(CollectionNotFound):
            await index.open("apart")
    async with _connected(tmp_path, milvus_database="nowhere") as other:
        with pytest.raises(IndexUnavailable):
            await other.names()


async def test_a_server_that_does_not_answer(server: int, tmp_path: Path) -> None:
    port = free_port()
    async with _link(port) as link, _connected(tmp_path, milvus_uri=_uri(port), milvus_timeout=5.0) as index:
        collection = await make(index, "frozen")
        link.flows.clear()
        failed = await asyncio.gather(
            index.ping(),
            collection.upsert(row("a"), Call()),
            collection.get(["a"], Call()),
            nearest(collection, vector(1)),
            collection.count(Call(), strong=True),
            index.names(),
            return_exceptions=True,
        )
        assert [type(error) for error in failed] == [IndexUnavailable] * 6
        link.flows.set()
        await _until_it_answers(index)
        await collection.upsert(row("a"), Call())
        assert await listed(collection) == ["a"]


async def test_a_write_that_failed_does_not_come_back(server: int, tmp_path: Path) -> None:
    """Pymilvus would try it once more, for as long again, behind the caller and behind what is written next."""
    landed = threading.Event()

    def refuse(context: grpc.ServicerContext) -> None:
        context.abort(grpc.StatusCode.UNAVAILABLE, "a broken link")

    def hold(context: grpc.ServicerContext) -> None:
        landed.wait(60)

    with milvus_proxy.proxied(f"127.0.0.1:{milvus_server.PORT}") as proxy:
        settings = {"milvus_uri": f"http://{proxy.address}", "milvus_timeout": 3.0}
        async with _connected(tmp_path, **settings) as index:
            collection = await make(index, "undead")
            await collection.upsert(row("a", 1), Call())
            proxy.before["Upsert"] = [refuse, hold]
            with pytest.raises(IndexUnavailable):
                await collection.upsert(row("a", 2), Call())
            await collection.delete(["a"], Call())
            landed.set()
            await asyncio.to_thread(proxy.wait_until_over)
            assert await collection.get(["a"], Call()) == {}
            assert proxy.before["Upsert"] == [hold]


async def test_nothing_is_written_beside_a_write_that_hangs(server: int, tmp_path: Path) -> None:
    order = []

    def hang(context: grpc.ServicerContext) -> None:
        over = threading.Event()
        # Told where the proxy hears of it, before it hears of what comes next on the connection.
        context.add_callback(lambda: order.append("upsert is over"))
        context.add_callback(over.set)
        assert over.wait(60)
        context.abort(grpc.StatusCode.CANCELLED, "over")

    with milvus_proxy.proxied(f"127.0.0.1:{milvus_server.PORT}") as proxy:
        settings = {"milvus_uri": f"http://{proxy.address}", "milvus_timeout": 3.0}
        async with _connected(tmp_path, **settings) as index:
            collection = await make(index, "undead")
            proxy.before = {"Upsert": [hang], "Delete": [lambda context: order.append("delete")]}
            failed, _ = await asyncio.gather(
                collection.upsert(row("a", 2), Call()), collection.delete(["a"], Call()), return_exceptions=True
            )
            assert isinstance(failed, IndexUnavailable)
            assert order == ["upsert is over", "delete"]
            assert await collection.get(["a"], Call()) == {}


async def test_a_server_that_comes_and_goes(server: int, tmp_path: Path) -> None:
    port = free_port()
    async with _connected(tmp_path, milvus_uri=_uri(port), milvus_timeout=5.0) as index:
        for _ in range(2):
            with pytest.raises(IndexUnavailable):
                await index.ping()
        assert index.engine_version == ""
        for attempt in range(2):
            async with _link(port):
                await _until_it_answers(index)
                collection = await make(index, "link")
                await collection.upsert(row(f"{attempt}", attempt), Call())
                assert len(await listed(collection)) == attempt + 1
            with pytest.raises(IndexUnavailable):
                await collection.upsert(row("lost"), Call())
            with pytest.raises(IndexUnavailable):
                await index.ping()


def _uri(port: int) -> str:
    return f"http://127.0.0.1:{port}"


async def _until_it_answers(index: MilvusIndex) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                return await index.ping()
            except IndexUnavailable:
                continue


class _Link:
    """Milvus at another port. While nothing flows it is connected, and silent."""

    def __init__(self) -> None:
        self.flows = asyncio.Event()
        self.flows.set()
        self.pumps: set[asyncio.Task[None]] = set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        milvus_reader, milvus_writer = await asyncio.open_connection("127.0.0.1", milvus_server.PORT)
        self.pumps.add(asyncio.create_task(self._pump(reader, milvus_writer)))
        self.pumps.add(asyncio.create_task(self._pump(milvus_reader, writer)))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                await self.flows.wait()
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()


@asynccontextmanager
async def _link(port: int, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[_Link]:
    """A link until the context ends; then all its connections break. With ``tls`` it is encrypted up to here."""
    link = _Link()
    listener = await asyncio.start_server(link.accept, "127.0.0.1", port, ssl=tls)
    try:
        yield link
    finally:
        listener.close()
        for pump in link.pumps:
            pump.cancel()
        await asyncio.gather(*link.pumps, return_exceptions=True)
