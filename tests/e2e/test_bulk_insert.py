"""BulkInsert over the wire: results for all, slow readers, broken streams, and what others feel of it."""

import asyncio
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct

from clipseek import Client, InsertItem
from clipseek.v1 import errors_pb2, image_pb2
from clipseek.v1.search_service_pb2 import (
    BulkInsertBatch,
    BulkInsertConfig,
    BulkInsertItem,
    BulkInsertRequest,
    BulkInsertResponse,
    BulkInsertResult,
)
from clipseek_server.config import Settings
from clipseek_server.rpc import bulk_insert
from open_server import OpenServer
from pictures import picture
from raw_calls import refused, stream_raw

METHOD = "SearchService/BulkInsert"
INVALID = grpc.StatusCode.INVALID_ARGUMENT
WINDOW = 8


class Stream(bulk_insert._Stream):
    """The real stream, which remembers the most that it had unanswered."""

    last: "Stream"
    most = 0

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        Stream.last = self

    def _start(self, *args) -> None:
        super()._start(*args)
        self.most = max(self.most, self._unanswered)


@pytest.fixture
def open_server(bundle, tmp_path, monkeypatch) -> Iterator[OpenServer]:
    """A server whose queues take one and whose window is small."""
    monkeypatch.setattr(bulk_insert, "_Stream", Stream)
    settings = Settings(
        listen="127.0.0.1:0",
        bundles=[bundle],
        data_dir=tmp_path / "data",
        queue_length=1,
        vision_batch=1,
        bulk_window=WINDOW,
        max_batch_items=16,
    )
    with OpenServer(settings) as running:
        yield running
        running.at_rest()


@pytest.fixture
def channel(open_server) -> Iterator[grpc.Channel]:
    # Without room on the way, so that who does not read is felt at the other side.
    options = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65536)]
    with grpc.insecure_channel(open_server.address, options) as connected:
        yield connected


@pytest.fixture
def client(open_server) -> Iterator[Client]:
    with Client(open_server.address) as connected:
        yield connected


def config(collection: str = "", on_exists: int = 0) -> bytes:
    return BulkInsertRequest(config=BulkInsertConfig(collection=collection, on_exists=on_exists)).SerializeToString()


def batch(*items: BulkInsertItem) -> bytes:
    return BulkInsertRequest(batch=BulkInsertBatch(items=items)).SerializeToString()


def item(number: int, **changes: object) -> BulkInsertItem:
    return BulkInsertItem(**{"sequence": number, "image_data": picture(number), "image_id": f"p{number}"} | changes)


def results(responses: Iterable[bytes]) -> Iterator[BulkInsertResult]:
    for response in responses:
        yield from BulkInsertResponse.FromString(response).results


def outcome(result: BulkInsertResult) -> str:
    if result.HasField("success"):
        return image_pb2.InsertOutcome.Name(result.success.outcome).removeprefix("INSERT_OUTCOME_")
    return errors_pb2.ErrorReason.Name(result.error.reason).removeprefix("ERROR_REASON_")


def test_every_item_has_one_result(channel, client):
    deep = Struct()
    deep.update({"a b": 1})
    items = [
        item(1),
        item(2, image_data=b""),
        item(3, image_data=b"no picture"),
        item(4, image_id="a b"),
        item(5, image_id="0" * 64),
        item(6, metadata=deep),
        item(7, image_data=picture(7)[:100]),
        item(8, sequence=-(2**63)),
        BulkInsertItem(sequence=9, image_data=picture(9)),
        item(10, image_id=""),
    ]
    found = list(results(stream_raw(channel, METHOD, [config(), batch(*items[:5]), batch(), batch(*items[5:])])))
    assert {result.sequence: outcome(result) for result in found} == {
        1: "CREATED",
        2: "INVALID_IMAGE",
        3: "INVALID_IMAGE",
        4: "INVALID_FIELD",
        5: "INVALID_FIELD",
        6: "INVALID_FIELD",
        7: "INVALID_IMAGE",
        -(2**63): "CREATED",
        9: "CREATED",
        10: "INVALID_FIELD",
    }
    assert len(found) == len(items)
    for result in found:
        if result.HasField("error"):
            assert result.error.code == INVALID.value[0]
            assert result.error.message
    assert client.get_collection().image_count == 3


def test_on_exists_holds_for_the_stream(channel, client):
    client.insert(picture(1), image_id="p1")
    for on_exists, same, other in (
        (image_pb2.ON_EXISTS_KEEP, "UNCHANGED", "UNCHANGED"),
        (image_pb2.ON_EXISTS_FAIL, "IMAGE_EXISTS", "IMAGE_EXISTS"),
        (image_pb2.ON_EXISTS_UNSPECIFIED, "UNCHANGED", "UPDATED"),
    ):
        [result] = results(stream_raw(channel, METHOD, [config(on_exists=on_exists), batch(item(1))]))
        assert outcome(result) == same
        changed = item(1, image_data=picture(2))
        [result] = results(stream_raw(channel, METHOD, [config(on_exists=on_exists), batch(changed)]))
        assert outcome(result) == other
        if on_exists == image_pb2.ON_EXISTS_FAIL:
            assert result.error.metadata["content_sha256"] == client.get("p1").content_sha256


def test_one_id_many_times_in_a_batch_is_done_in_order(channel, client):
    items = [item(number, image_id="same") for number in range(8)]
    responses = stream_raw(channel, METHOD, [config(), batch(*items)])
    found = {result.sequence: outcome(result) for result in results(responses)}
    assert sorted(found.values()) == ["CREATED"] + ["UPDATED"] * 7
    assert found[0] == "CREATED"
    assert client.get_collection().image_count == 1
    assert client.download("same") == picture(7)


def test_the_same_picture_twice_in_a_batch_is_stored_once(channel, client):
    items = [BulkInsertItem(sequence=number, image_data=picture(1)) for number in range(4)]
    found = [outcome(result) for result in results(stream_raw(channel, METHOD, [config(), batch(*items)]))]
    assert sorted(found) == ["CREATED"] + ["UNCHANGED"] * 3
    assert client.get_collection().image_count == 1


def test_outcomes_are_counted(client):
    client.insert(picture(1), image_id="same")
    client.insert(picture(2), image_id="other")
    items = [InsertItem(picture(1), "same"), InsertItem(picture(3), "other"), InsertItem(picture(4)), b"no picture"]
    summary = client.insert_many(items)
    assert (summary.created, summary.updated, summary.unchanged, summary.failed) == (1, 1, 1, 1)
    assert [failure.item.picture for failure in summary.failures] == [b"no picture"]


def test_tiny_queues_slow_it_down_and_refuse_nothing(client):
    found = list(client.insert_stream(InsertItem(picture(number), image_id=f"p{number}") for number in range(60)))
    assert [result.error for result in found] == [None] * 60
    assert client.get_collection().image_count == 60
    assert Stream.last.most <= WINDOW + 16


def long_error(number: int) -> BulkInsertItem:
    """An item that costs nothing and whose result is long."""
    metadata = Struct()
    metadata.update({"\U000e0001" * 80: 1})
    return item(number, image_data=picture(1), metadata=metadata)


def test_who_does_not_read_is_not_read_from(open_server, channel):
    total, size = 3000, 4
    sent = 0

    def requests() -> Iterator[bytes]:
        nonlocal sent
        yield config()
        for start in range(0, total, size):
            sent = start + size
            yield batch(*(long_error(number) for number in range(start, start + size)))

    Stream.last = None  # type: ignore[assignment]
    responses = stream_raw(channel, METHOD, requests())

    def stalled() -> bool:
        stream = Stream.last
        return stream is not None and not stream._room.is_set() and not stream._items

    # A moment of that comes often. It lasts only when the client's side is full of results.
    read = -1
    while read != bytes_read():
        open_server.until(stalled)
        read = bytes_read()
        open_server.run(turns(500))
    assert 0 < sent < total
    assert Stream.last.most < WINDOW + size
    assert open_server.pictures.free == open_server.settings.max_bytes_in_flight
    found = list(results(responses))
    assert sorted(result.sequence for result in found) == list(range(total))
    assert {outcome(result) for result in found} == {"INVALID_FIELD"}
    assert Stream.last.most < WINDOW + size


def bytes_read() -> int:
    return Stream.last._requests.bytes_read if Stream.last is not None else 0


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0.0005)


def test_a_message_that_cannot_be_parsed_ends_the_stream_after_the_results(channel, client):
    responses = results(stream_raw(channel, METHOD, [config(), batch(item(1), item(2)), b"\xff\xff", batch(item(3))]))
    found = {}
    with refused(INVALID, "MALFORMED_MESSAGE"):
        for result in responses:
            found[result.sequence] = outcome(result)
    assert found == {1: "CREATED", 2: "CREATED"}
    assert client.get_collection().image_count == 2


@pytest.mark.parametrize(
    ("messages", "reason", "field"),
    [
        ([], "MALFORMED_MESSAGE", ""),
        ([b"\xff"], "MALFORMED_MESSAGE", ""),
        ([b""], "INVALID_FIELD", "config"),
        ([batch(item(1))], "INVALID_FIELD", "config"),
        ([config("Bad Name"), batch(item(1))], "INVALID_FIELD", "config.collection"),
        ([config("a", 99), batch(item(1))], "INVALID_FIELD", "config.on_exists"),
    ],
)
def test_a_stream_that_begins_badly(channel, client, messages, reason, field):
    with refused(INVALID, reason) as caught:
        list(stream_raw(channel, METHOD, messages))
    assert caught.refusal.field == field
    assert not list(client.collections())


@pytest.mark.parametrize(
    ("message", "field"),
    [(config(), "payload"), (b"", "payload"), (batch(*(item(number) for number in range(2, 19))), "batch.items")],
)
def test_a_stream_that_goes_on_badly(channel, client, message, field):
    found = []
    with refused(INVALID, "INVALID_FIELD") as caught:
        found.extend(results(stream_raw(channel, METHOD, [config(), batch(item(1)), message])))
    assert caught.refusal.field == field
    assert client.get_collection().image_count == 1


def test_nothing_but_a_config_does_nothing(channel, client):
    assert list(stream_raw(channel, METHOD, [config("a")])) == []
    assert not list(client.collections())


def test_a_client_that_goes_leaves_nothing_behind(open_server, channel, client):
    go_on = threading.Event()

    def requests() -> Iterator[bytes]:
        yield config()
        yield batch(*(item(number) for number in range(6)))
        go_on.wait(30)

    with open_server.stuck("vision") as begun:
        responses = stream_raw(channel, METHOD, requests())
        assert begun.wait(30)
        open_server.until(lambda: open_server.vision_tower.waiting >= 1)
        responses.cancel()
        open_server.until(lambda: open_server.streams._open == 0)
        open_server.until(lambda: open_server.pictures.free == open_server.settings.max_bytes_in_flight)
    go_on.set()
    open_server.at_rest()
    assert client.insert(picture(0), image_id="p0").outcome in ("created", "unchanged")


def test_a_client_that_goes_without_having_read_anything(open_server, channel):
    def requests() -> Iterator[bytes]:
        yield config()
        for number in range(3000):
            yield batch(long_error(number))

    Stream.last = None  # type: ignore[assignment]
    responses = stream_raw(channel, METHOD, requests())
    open_server.until(lambda: Stream.last is not None and not Stream.last._room.is_set())
    responses.cancel()
    open_server.at_rest()


def test_draining_gives_the_results_of_what_was_read(open_server, channel):
    go_on = threading.Event()

    def requests() -> Iterator[bytes]:
        yield config()
        yield batch(*(item(number) for number in range(4)))
        go_on.wait(30)
        yield batch(item(5))

    async def drain() -> None:
        open_server.edge.draining.begin()

    with open_server.stuck("vision") as begun:
        responses = results(stream_raw(channel, METHOD, requests()))
        assert begun.wait(30)
        open_server.run(drain())
    found = {}
    with refused(grpc.StatusCode.UNAVAILABLE, "NOT_SERVING"):
        for result in responses:
            found[result.sequence] = outcome(result)
    assert found == dict.fromkeys(range(4), "CREATED")
    go_on.set()


def test_the_deadline_of_a_stream_ends_it(open_server, channel):
    go_on = threading.Event()

    def requests() -> Iterator[bytes]:
        yield config()
        go_on.wait(30)

    with pytest.raises(grpc.RpcError) as caught:
        list(stream_raw(channel, METHOD, requests(), timeout=0.2))
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    go_on.set()
    open_server.at_rest()


def test_searches_are_answered_while_pictures_are_imported(open_server, client):
    client.insert(picture(0), image_id="p0")
    with ThreadPoolExecutor(1) as pool:
        imported = pool.submit(
            list, client.insert_stream(InsertItem(picture(number % 90), image_id=f"p{number}") for number in range(300))
        )
        answered = 0
        while not imported.done():
            assert client.search_text("a cat").hits
            assert client.search_image(picture(0))[0].score > 0.99
            assert client.insert(picture(0), image_id="mine").image_id == "mine"
            answered += 1
        assert answered > 1
        assert {result.error for result in imported.result()} == {None}


def test_streams_that_send_nothing_leave_room_for_others(open_server, channel, client):
    """Each waits for its next message, with the largest one's bytes reserved."""
    go_on = threading.Event()

    def requests() -> Iterator[bytes]:
        yield config()
        go_on.wait(30)

    streams = open_server.settings.max_bulk_streams
    held = streams * open_server.settings.max_message_bytes
    assert held == open_server.settings.max_bytes_in_flight // 2
    opened = [stream_raw(channel, METHOD, requests()) for _ in range(streams - 1)]
    open_server.until(lambda: open_server.streams._open == streams - 1)
    assert client.insert(picture(1)).outcome == "created"
    assert client.search_image(picture(1)).hits
    # One that works is not held up by those that rest, though it may read only while it holds nothing.
    found = list(client.insert_stream(picture(number) for number in range(2, 30)))
    assert [result.error for result in found] == [None] * 28
    opened.append(stream_raw(channel, METHOD, requests()))
    open_server.until(lambda: open_server.pictures.free == held)
    assert client.insert(picture(30)).outcome == "created"
    go_on.set()
    for responses in opened:
        assert list(responses) == []


def test_collections_are_not_made_where_a_setting_forbids_it(bundle, tmp_path):
    settings = Settings(listen="127.0.0.1:0", bundles=[bundle], data_dir=tmp_path / "data", auto_create=False)
    with OpenServer(settings) as running, Client(running.address) as client:
        found = list(client.insert_stream([picture(1), picture(2)]))
        assert [result.error.reason for result in found if result.error] == ["COLLECTION_NOT_FOUND"] * 2
        with grpc.insecure_channel(running.address) as connected:
            [result] = results(stream_raw(connected, METHOD, [config("a"), batch(item(1))]))
            assert result.error.code == grpc.StatusCode.NOT_FOUND.value[0]
        assert not list(client.collections())
        assert not list((tmp_path / "data" / "images").glob("[!.]*"))
        client.create_collection("default")
        assert [result.error for result in client.insert_stream([picture(1)])] == [None]
        running.at_rest()
