"""CheckCollection tells of everything that does not fit, in messages that a client can receive."""

import asyncio
import threading
import time
from collections import Counter
from dataclasses import replace

from clipseek import Client
from clipseek_server.catalog.checks import MAX_DIFFERENCES, PAGE
from clipseek_server.images.blobs import drop_mark_key, new_blob_key, thumbnail_key
from clipseek_server.index.collection import MilvusCollection
from clipseek_server.index.records import Row
from clipseek_server.telemetry import Call
from housekept import Background, gated
from pictures import large_picture, picture

MANY = 2 * MAX_DIFFERENCES + 100
LARGEST_MESSAGE = max(MAX_DIFFERENCES, 2 * PAGE)


def test_everything_that_does_not_fit(housekept, keeper, collection):
    large = large_picture(3 * 1024 * 1024)
    for image_id, data in {
        "good": picture(1),
        "lost": picture(2),
        "cut": picture(3),
        "bent": picture(5),
        "large": large,
    }.items():
        keeper.insert(data, image_id=image_id, collection=collection)
    keeper.insert(picture(4), image_id="gone", collection=collection)
    uid = keeper.get_collection(collection).uid
    keeper.delete("gone", collection=collection)
    (lost,), (cut,) = housekept.blobs(uid, "lost"), housekept.blobs(uid, "cut")
    lost.unlink()
    cut.write_bytes(cut.read_bytes()[:-1])
    (bent,) = housekept.blobs(uid, "bent")
    bent.write_bytes(bent.read_bytes()[:-1] + b"?")
    # Of a drop that failed: no difference, the sweep takes it away.
    housekept.run(housekept.sweeper._store.put(drop_mark_key(uid), b""))
    for verify_bytes in (False, True):
        reports = list(keeper.check(collection, verify_bytes=verify_bytes))
        found = {(each.kind, each.image_id) for report in reports for each in report.differences}
        by_hash = {("corrupt_bytes", "bent")} if verify_bytes else set()
        assert found == {("missing_bytes", "lost"), ("corrupt_bytes", "cut"), ("orphaned_bytes", "gone")} | by_hash
        assert (reports[-1].differences, reports[-1].images_checked, reports[-1].images_total) == ((), 5, 5)


def test_many_differences_come_in_many_messages(housekept, keeper, collection):
    keeper.insert(picture(1), image_id="a", collection=collection)
    uid = keeper.get_collection(collection).uid
    store = housekept.sweeper._store
    for number in range(MANY):
        blob = new_blob_key(uid, f"orphan-{number}", "0" * 64)
        # Without their durability, which takes long.
        for key in (blob, thumbnail_key(blob)):
            path = store._path(key)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"x")

    async def forget_rows() -> None:
        """Write rows, and take them out of the copy in memory."""
        live = await housekept.index.open(collection)
        row = (await live.get_rows(["a"], Call()))["a"]
        rows = [Row(replace(row.record, image_id=f"row-{number}"), row.vector) for number in range(MANY)]
        await asyncio.gather(*(live.upsert(each, Call()) for each in rows))
        live._copy.remove([each.record.image_id for each in rows])

    housekept.run(forget_rows())
    reports = list(keeper.check(collection))
    assert max(len(report.differences) for report in reports) <= LARGEST_MESSAGE
    found = Counter(each.kind for report in reports for each in report.differences)
    assert found == {"orphaned_bytes": MANY, "stale_resident_copy": MANY}
    ids = {each.image_id for report in reports for each in report.differences}
    assert len(ids) == 2 * MANY


def test_writes_during_a_check_are_no_differences(keeper, housekept, collection):
    for number in range(20):
        keeper.insert(picture(number), image_id=f"p{number:02}", metadata={"n": 0}, collection=collection)
    stop = threading.Event()

    def write() -> None:
        with Client(housekept.address) as client:
            while not stop.is_set():
                for number in range(20):
                    client.update(f"p{number:02}", {"n": time.time()}, collection=collection)

    writing = Background(write)
    try:
        for _ in range(20):
            reports = list(keeper.check(collection))
            assert [found for report in reports for found in report.differences] == []
    finally:
        stop.set()
    writing.result()


def test_a_check_goes_on_when_the_collection_is_rebuilt(keeper, housekept, collection):
    for number in range(3):
        keeper.insert(picture(number), image_id=f"p{number}", collection=collection)
    with gated(MilvusCollection, "verify_resident", when=lambda held, _: held.info.name == collection) as gate:
        checking = Background(lambda: list(keeper.check(collection)))
        gate.wait()
        with Client(housekept.address) as other:
            assert [progress.phase for progress in other.rebuild(collection)][-1] == "done"
        gate.opened.set()
        reports = checking.result()
    assert [found for report in reports for found in report.differences] == []
    assert reports[-1].images_checked == 3
