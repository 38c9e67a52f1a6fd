"""Collections on a real Milvus Lite: how they are born, rebuilt, dropped and swept."""

import asyncio
import dataclasses
import errno
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from pymilvus import MilvusClient
from structlog.testing import capture_logs

from clipseek_server.errors import (
    CollectionGone,
    CollectionNotFound,
    DeadlineExceeded,
    IndexUnavailable,
    InvalidField,
    StartupError,
)
from clipseek_server.index import collection as collection_module
from clipseek_server.index import lite, table
from clipseek_server.index.collection import MilvusCollection
from clipseek_server.index.filters import Filter, parse_filter
from clipseek_server.index.generations import Generation
from clipseek_server.index.milvus import MilvusIndex
from clipseek_server.index.records import Effort
from clipseek_server.index.schema import to_entity
from clipseek_server.telemetry import Call, Stage
from index_rows import DIMENSION, listed, lite_settings, make, nearest, row, vector


@pytest.fixture
async def index(tmp_path: Path) -> AsyncIterator[MilvusIndex]:
    opened = await MilvusIndex.connect(lite_settings(tmp_path))
    yield opened
    await opened.close()


async def test_what_is_written_is_read(index: MilvusIndex) -> None:
    collection = await make(index)
    written = row("a:1.x_Y-z", 1, year=2020.0, tags=["x", 1.0, None, {"k": 2.5}], place={"city": "Zürich", "on": True})
    call = Call()
    await collection.upsert(written, call)
    assert call.seconds.keys() == {Stage.QUEUE, Stage.INDEX}
    read = (await collection.get_rows(["a:1.x_Y-z", "absent"], Call()))["a:1.x_Y-z"]
    assert read.record == written.record
    assert isinstance(read.record.metadata["year"], int)
    np.testing.assert_array_equal(read.vector, written.vector)
    assert await collection.get(["absent", "a:1.x_Y-z"], Call()) == {"a:1.x_Y-z": read.record}
    (hit,) = await nearest(collection, written.vector)
    assert (hit.record, hit.score) == (read.record, pytest.approx(1.0, abs=1e-6))


async def test_calls_that_wait_go_together(index: MilvusIndex) -> None:
    collection = await make(index)
    await collection.ready()
    # The same id again and again: no two of them may share a Milvus call, and the last one stays.
    rows = [row(f"i{number % 50:02d}", number, n=number) for number in range(200)]
    await asyncio.gather(*(collection.upsert(each, Call()) for each in rows))
    found = await asyncio.gather(*(collection.get([f"i{number:02d}", "absent"], Call()) for number in range(50)))
    assert [records[f"i{number:02d}"].metadata["n"] for number, records in enumerate(found)] == list(range(150, 200))
    await asyncio.gather(*(collection.delete([f"i{number:02d}", "absent"], Call()) for number in range(0, 50, 2)))
    hits = await asyncio.gather(*(nearest(collection, vector(number), 1) for number in range(150, 200)))
    assert [hit[0].record.metadata["n"] for hit in hits][1::2] == list(range(151, 200, 2))
    assert await collection.count(Call(), strong=True) == 25
    assert await collection.verify_resident(Call()) == []


async def test_searches_with_filters_that_only_python_holds_equal(index: MilvusIndex) -> None:
    collection = await make(index)
    await collection.upsert(row("number", a=1), Call())
    await collection.upsert(row("boolean", a=True), Call())
    texts = ["metadata.a == 1", "metadata.a == true"]
    found = await asyncio.gather(*(nearest(collection, vector(0), condition=parse_filter(text)) for text in texts))
    assert [[hit.record.image_id for hit in hits] for hits in found] == [["number"], ["boolean"]]


@pytest.mark.parametrize("resident_max_rows", [1000, 0])
async def test_answers_from_memory_and_from_lite(tmp_path: Path, resident_max_rows: int) -> None:
    index = await MilvusIndex.connect(lite_settings(tmp_path, resident_max_rows=resident_max_rows))
    collection = await make(index)
    await collection.upsert(row("b", 2, n=2), Call())
    await collection.upsert(row("a", 1, n=1), Call())
    await collection.upsert(row("c", 3, n=3), Call())
    await collection.ready()
    assert collection.resident is (resident_max_rows > 0)
    assert [hit.record.image_id for hit in await nearest(collection, vector(2), 1)] == ["b"]
    assert len(await nearest(collection, vector(2), 10_000)) == 3
    condition = parse_filter("metadata.n >= 2")
    assert {hit.record.image_id for hit in await nearest(collection, vector(2), condition=condition)} == {"b", "c"}
    assert await listed(collection) == ["a", "b", "c"]
    assert await listed(collection, condition) == ["b", "c"]
    page = await collection.page("a", 1, Call(), filter=None, strong=True)
    assert [record.image_id for record in page] == ["b"]
    assert await collection.page("c", 5, Call(), filter=None, strong=False) == []
    assert await collection.count(Call(), strong=False) == 3
    for effort in Effort:
        assert len(await nearest(collection, vector(2), 2, effort=effort)) == 2
    await index.close()


async def test_a_collection_that_outgrows_memory_is_answered_by_lite(tmp_path: Path) -> None:
    index = await MilvusIndex.connect(lite_settings(tmp_path, resident_max_rows=3))
    collection = await make(index)
    await collection.ready()
    for number in range(5):
        assert collection.resident is (number < 4)
        await collection.upsert(row(f"{number}", number), Call())
    assert await listed(collection) == ["0", "1", "2", "3", "4"]
    assert [hit.record.image_id for hit in await nearest(collection, vector(4), 1)] == ["4"]
    await index.close()


async def test_a_copy_that_cannot_be_loaded_is_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = await MilvusIndex.connect(lite_settings(tmp_path))
    collection = await make(index)
    await collection.upsert(row("good", 1), Call())
    # Not as we store metadata, whose keys carry a type.
    strange = to_entity(row("strange", 2)) | {"metadata": {"": "nobody wrote this"}}
    await index._connection.write(MilvusClient.upsert, collection.info.generation, [strange])
    await index.close()

    index = await MilvusIndex.connect(lite_settings(tmp_path))
    again = await index.open("default")
    await again.ready()
    assert again._copy is None
    said = capsys.readouterr().out
    assert said.count("collection is not copied into memory") == 1
    assert "again_in_seconds=None" in said
    assert await again.count(Call(), strong=True) == 2
    assert [hit.record.image_id for hit in await nearest(again, vector(1), 1)] == ["good"]
    await index.close()


async def test_a_copy_that_could_not_be_loaded_for_now_is_loaded_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written until then, and while it is loaded, is in it too."""
    index = await MilvusIndex.connect(lite_settings(tmp_path))
    collection = await make(index)
    for number in range(3):
        await collection.upsert(row(f"old{number}", number), Call())
    await index.close()

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(collection_module, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(collection_module, "_LONGEST_PAUSE", 0.03)
    with pytest.MonkeyPatch.context() as patch, capture_logs() as logs:
        patch.setattr(table, "_begin_scan", fail)
        index = await MilvusIndex.connect(lite_settings(tmp_path))
        again = await index.open("default")
        await again.ready()  # nobody waits for what may last
        assert not again.resident
        await again.delete(["old1"], Call())
        async with asyncio.timeout(60):
            while len(pauses := [line["again_in_seconds"] for line in logs if "again_in_seconds" in line]) < 4:
                await again.upsert(row("new", 7), Call())
        assert pauses[:4] == [0.01, 0.02, 0.03, 0.03]
        assert [hit.record.image_id for hit in await nearest(again, vector(7), 1)] == ["new"]
    async with asyncio.timeout(60):
        while not again.resident:
            await again.upsert(row("newer", 8), Call())
    assert await again.verify_resident(Call()) == []
    assert await listed(again) == ["new", "newer", "old0", "old2"]
    await index.close()


async def test_metadata_that_grows_too_long_when_it_is_stored(index: MilvusIndex) -> None:
    collection = await make(index)
    with pytest.raises(InvalidField, match="65536 are allowed") as refused:
        await collection.upsert(row("a", text="\x01" * 11_000), Call())
    assert refused.value.field == "metadata"
    await collection.upsert(row("a", text="x" * 65_000), Call())
    assert await listed(collection) == ["a"]


async def test_a_filter_is_written_out_once_for_each_search(
    index: MilvusIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = await make(index)
    await collection.upsert(row("a", n=1), Call())
    written: list[Filter] = []
    to_text = collection_module.to_text
    monkeypatch.setattr(collection_module, "to_text", lambda tree: written.append(tree) or to_text(tree))
    condition = parse_filter("metadata.n == 1")
    found = await asyncio.gather(*(nearest(collection, vector(0), condition=condition) for _ in range(40)))
    assert all([hit.record.image_id for hit in hits] == ["a"] for hits in found)
    assert len(written) == 40


async def test_all_is_there_after_a_restart(tmp_path: Path) -> None:
    index = await MilvusIndex.connect(lite_settings(tmp_path))
    collection = await make(index)
    await asyncio.gather(*(collection.upsert(row(f"{number:03d}", number), Call()) for number in range(300)))
    await collection.delete(["007"], Call())
    await index.close()

    index = await MilvusIndex.connect(lite_settings(tmp_path))
    again = await index.open("default")
    assert again.info == collection.info
    # From Lite at first, from memory then.
    assert [hit.record.image_id for hit in await nearest(again, vector(8), 1)] == ["008"]
    await again.ready()
    assert again.resident
    assert await again.verify_resident(Call()) == []
    assert await again.count(Call(), strong=True) == 299
    assert [hit.record.image_id for hit in await nearest(again, vector(8), 1)] == ["008"]
    await index.close()


async def test_the_copy_that_differs_is_found_out(index: MilvusIndex) -> None:
    collection = await make(index)
    for image_id in ("a", "b", "c", "d"):
        await collection.upsert(row(image_id, 1), Call())
    await collection.ready()
    copy = collection._copy
    assert copy is not None
    copy.put([row("b", 2), row("never-written", 3)])
    copy.put([row("c", 1, changed=True)])
    copy.remove(["d"])
    assert await collection.verify_resident(Call()) == ["b", "c", "d", "never-written"]


async def test_racing_creates_get_one_collection(index: MilvusIndex) -> None:
    others = [f"other_{number}" for number in range(8)]

    async def create(name: str, space_id: str) -> tuple[MilvusCollection, bool]:
        return await index.create(name, space_id=space_id, precision="fp32", dimension=DIMENSION)

    made = await asyncio.gather(
        *(create("race", f"space-{number}") for number in range(8)), *(create(name, "space") for name in others)
    )
    assert len({id(collection) for collection, _ in made[:8]}) == 1
    assert sum(won for _, won in made[:8]) == 1
    assert await index.names() == sorted(["race", *others])
    assert len(await index.uids()) == 9


async def test_dropped_and_made_again(index: MilvusIndex) -> None:
    old = await make(index)
    await old.upsert(row("a", 1), Call())
    with pytest.raises(CollectionNotFound):
        await index.drop("default", "another collection's")
    await index.drop("default", old.info.uid)
    for operation in (
        old.get(["a"], Call()),
        old.upsert(row("b", 1), Call()),
        old.delete(["a"], Call()),
        nearest(old, vector(1)),
        old.count(Call(), strong=True),
        old.page("", 1, Call(), filter=None, strong=True),
    ):
        with pytest.raises(CollectionGone):
            await operation
    with pytest.raises(CollectionNotFound):
        await index.open("default")
    with pytest.raises(CollectionNotFound):
        await index.drop("default", old.info.uid)
    new = await make(index)
    assert new.info.uid != old.info.uid
    assert await index.open("default") is new
    assert await new.count(Call(), strong=True) == 0
    assert await index.uids() == {new.info.uid}


async def test_writes_that_race_a_drop_are_done_or_told(index: MilvusIndex) -> None:
    collection = await make(index)
    writes = [asyncio.create_task(collection.upsert(row(f"{number}", number), Call())) for number in range(50)]
    await asyncio.sleep(0)
    await index.drop("default", collection.info.uid)
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    assert all(outcome is None or isinstance(outcome, CollectionGone) for outcome in outcomes)
    assert await index.names() == []
    await index.ping()


async def test_searches_never_fail_while_a_collection_is_rebuilt(index: MilvusIndex) -> None:
    old = await make(index)
    for number in range(20):
        await old.upsert(row(f"{number:02d}", number), Call())
    answers: asyncio.Queue[None] = asyncio.Queue()

    async def search() -> None:
        while True:
            try:
                hits = await nearest(await index.open("default"), vector(3), 1)
            except CollectionGone:
                hits = await nearest(await index.open("default"), vector(3), 1)
            assert [hit.record.image_id for hit in hits] == ["03"]
            answers.put_nowait(None)

    searches = [asyncio.create_task(search()) for _ in range(4)]
    new = await index.begin_generation(old.info, precision="int8")
    assert await index.sweep(0) == []
    for found in (await old.get_rows([f"{number:02d}" for number in range(20)], Call())).values():
        await new.upsert(found, Call())
    assert await index.open("default") is old
    await index.publish(new.info)
    assert await index.open("default") is new
    assert await index.settle(new.info)
    for _ in range(answers.qsize() + 8):
        await answers.get()
    for task in searches:
        assert not task.done()
        task.cancel()
    await asyncio.wait(searches)
    assert new.info == dataclasses.replace(old.info, generation=new.info.generation, precision="int8")
    assert await index.uids() == {new.info.uid}
    with pytest.raises(CollectionGone):
        await old.get(["00"], Call())


async def test_a_collection_that_is_rebuilt_while_all_are_listed_is_not_missed(
    index: MilvusIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = (await make(index)).info
    describe = index._generations.describe

    async def describe_late(physical: str) -> Generation | None:
        # The sweep would take the bytes of a collection that is not among the known ones.
        monkeypatch.setattr(index._generations, "describe", describe)
        new = await index.begin_generation(old, precision="fp32")
        await index.publish(new.info)
        await index.settle(new.info)
        return await describe(physical)

    monkeypatch.setattr(index._generations, "describe", describe_late)
    assert await index.uids() == {old.uid}
    assert await index.names() == [old.name]


async def test_a_generation_of_a_dropped_collection_is_not_published(index: MilvusIndex) -> None:
    old = await make(index)
    new = await index.begin_generation(old.info, precision="fp32")
    await index.drop("default", old.info.uid)
    again = await make(index)
    with pytest.raises(CollectionNotFound):
        await index.publish(new.info)
    assert not await index.settle(new.info)
    assert await index.open("default") is again


async def test_a_generation_is_not_begun_over_one_that_is_not_live(index: MilvusIndex) -> None:
    old = await make(index)
    new = await index.begin_generation(old.info, precision="fp32")
    await index.publish(new.info)
    with pytest.raises(CollectionGone):
        await index.begin_generation(old.info, precision="fp32")
    assert await index.settle(new.info)
    assert [generation.physical for generation in await index._generations.all()] == [new.info.generation]


async def test_sweep_takes_what_nothing_names(tmp_path: Path) -> None:
    index = await MilvusIndex.connect(lite_settings(tmp_path))
    live = await make(index)
    left = await index.begin_generation(live.info, precision="fp32")
    await index.close()
    # A kill between Lite's making a folder and its schema file leaves this.
    (tmp_path / "milvus" / "collections" / "CS_HALF_0123456789abcdef").mkdir()

    index = await MilvusIndex.connect(lite_settings(tmp_path))
    assert await index.names() == ["default"]
    assert await index.sweep(3600) == []
    assert await index.sweep(0) == [left.info.generation]
    assert await index.sweep(0) == []
    assert (await index.open("default")).info.generation == live.info.generation
    await index.close()


async def test_one_server_a_folder(index: MilvusIndex, tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="another server uses the data folder"):
        await MilvusIndex.connect(lite_settings(tmp_path))


async def test_engine(index: MilvusIndex) -> None:
    assert index.engine_version == ""
    await index.ping()
    assert (index.engine, index.engine_version) == ("milvus-lite", "milvus_lite-3.2.2")
    assert index.default_consistency == "strong"


async def test_nothing_is_written_to_a_full_disk(index: MilvusIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    collection = await make(index)
    monkeypatch.setattr(lite, "RESERVED_BYTES", 1 << 62)
    with pytest.raises(IndexUnavailable, match="disk is full"):
        await collection.upsert(row("a"), Call())
    monkeypatch.undo()
    assert await listed(collection) == []
    await collection.upsert(row("a"), Call())
    assert await listed(collection) == ["a"]


@pytest.mark.parametrize("values", [[float("nan")] * DIMENSION, [1.0]])
async def test_wrong_vectors_are_refused(index: MilvusIndex, values: list[float]) -> None:
    collection = await make(index)
    with pytest.raises(ValueError, match="finite"):
        await collection.upsert(dataclasses.replace(row("a"), vector=np.array(values, dtype=np.float32)), Call())


async def test_no_text_becomes_part_of_an_expression(index: MilvusIndex) -> None:
    collection = await make(index)
    await collection.upsert(row("a"), Call())
    with pytest.raises(ValueError, match="not an image id"):
        await collection.delete(['x"] or image_id in ["a'], Call())
    assert await listed(collection) == ["a"]


async def test_a_deadline_that_has_passed(index: MilvusIndex) -> None:
    collection = await make(index)
    with pytest.raises(DeadlineExceeded):
        await collection.upsert(row("a"), Call(deadline=0.0))
    assert await listed(collection) == []


async def test_a_caller_that_goes_away_stops_no_write(index: MilvusIndex) -> None:
    collection = await make(index)
    await collection.ready()
    writes = [asyncio.create_task(collection.upsert(row(f"{number}", number), Call())) for number in range(3)]
    # All three are taken into a batch before they are cancelled.
    for _ in range(3):
        await asyncio.sleep(0)
    for write in writes:
        write.cancel()
    await asyncio.gather(*writes, return_exceptions=True)
    await collection.upsert(row("last"), Call())
    assert await collection.verify_resident(Call()) == []
    assert "last" in await listed(collection)
