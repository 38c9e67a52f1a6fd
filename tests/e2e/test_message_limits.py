"""What messages may take: memory, time, and the event loop."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct

from clipseek import Client, DeadlineExceededError
from clipseek.v1.embedding_service_pb2 import EmbedTextRequest
from clipseek.v1.info_service_pb2 import GetServerInfoRequest
from clipseek.v1.info_service_pb2_grpc import InfoServiceStub
from clipseek.v1.search_service_pb2 import (
    BulkInsertBatch,
    BulkInsertConfig,
    BulkInsertItem,
    BulkInsertRequest,
    InsertRequest,
    UpdateImageRequest,
)
from clipseek_server.config import Settings
from clipseek_server.rpc import messages
from open_server import OpenServer
from pictures import large_picture, picture
from raw_calls import call_raw, refused, stream_raw
from servers import ServerProcess, ServerThread

MIB = 1024 * 1024
INVALID = grpc.StatusCode.INVALID_ARGUMENT
CONFIG = BulkInsertRequest(config=BulkInsertConfig()).SerializeToString()


def settings(bundle: Path, tmp_path: Path, **changes: object) -> Settings:
    return Settings.model_validate(
        {"listen": "127.0.0.1:0", "bundles": [bundle], "data_dir": tmp_path / "data"} | changes
    )


@pytest.fixture
def open_server(bundle, tmp_path) -> Iterator[OpenServer]:
    with OpenServer(settings(bundle, tmp_path, text_batch=1, queue_length=1)) as running:
        yield running
        running.at_rest()


@pytest.fixture
def channel(open_server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(open_server.address, [("grpc.max_send_message_length", -1)]) as connected:
        yield connected


# Sizes.

SMALL = ["SearchService/GetImage", "SearchService/DownloadImage", "EmbeddingService/EmbedText"]


@pytest.mark.parametrize("method", SMALL)
def test_a_method_without_pictures_takes_small_messages(channel, open_server, method):
    limit = open_server.settings.max_small_message_bytes
    call: Callable[..., object] = (lambda *given: list(stream_raw(*given))) if "Download" in method else call_raw
    with refused(INVALID, "MALFORMED_MESSAGE") as caught:
        call(channel, method, [bytes(limit + 1)])
    assert f"{limit + 1} bytes" in caught.refusal.message
    assert str(limit) in caught.refusal.message


def test_as_many_long_texts_as_may_be_sent_fit(channel, open_server):
    settings = open_server.settings
    texts = ["夏" * settings.max_text_characters] * settings.max_batch_items
    raw = EmbedTextRequest(texts=texts).SerializeToString()
    assert len(raw) < settings.max_small_message_bytes
    assert call_raw(channel, "EmbeddingService/EmbedText", [raw])


def test_calls_that_send_nothing_leave_room_for_searches(channel, open_server):
    go_on = threading.Event()

    def silence() -> Iterator[bytes]:
        go_on.wait(30)
        yield from ()

    total = open_server.settings.max_bytes_in_flight // 4
    with Client(open_server.address) as client, ThreadPoolExecutor(16) as pool:
        client.insert(picture(1))
        slow = [pool.submit(call_raw, channel, "SearchService/GetImage", silence()) for _ in range(16)]
        open_server.until(lambda: open_server.others.free == total - 16 * open_server.settings.max_small_message_bytes)
        assert client.search_text("a cat").hits
        go_on.set()
        for each in slow:
            with refused(INVALID, "MALFORMED_MESSAGE"):
                each.result()


@pytest.mark.parametrize("with_picture", [True, False])
def test_the_room_is_held_until_the_call_has_sent_all(channel, open_server, with_picture):
    method, message, budget, size = (
        ("SearchService/Insert", InsertRequest(image_data=picture(1)), open_server.pictures, 32 * MIB)
        if with_picture
        else ("InfoService/GetServerInfo", GetServerInfoRequest(), open_server.others, 4 * MIB)
    )
    free = budget.free
    sent, go_on = threading.Event(), threading.Event()

    def two() -> Iterator[bytes]:
        yield message.SerializeToString()
        sent.set()
        go_on.wait(30)
        yield bytes(3 * MIB)

    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(call_raw, channel, method, two())
        assert sent.wait(30)
        open_server.until(lambda: budget.free == free - size)
        go_on.set()
        with refused(INVALID, "MALFORMED_MESSAGE") as caught:
            call.result()
    assert "more than one" in caught.refusal.message


def test_every_limit_is_told(open_server):
    settings = open_server.settings
    with Client(open_server.address) as client:
        info = client.info()
    limits = vars(info.limits)
    assert all(limits.values())
    assert all(limits[name] == getattr(settings, name) for name in Settings.model_fields if name in limits)
    assert info.limits.max_call_duration == settings.sweep_grace / 2
    assert info.limits.max_filter_characters == 4096
    assert {"image/jpeg", "image/png"} <= set(info.media_types)


# What parsing costs.


def empty(tag: int, count: int) -> bytes:
    """So many empty messages or strings."""
    return bytes([tag, 0]) * count


def within(tag: int, data: bytes) -> bytes:
    size, length = len(data), bytearray()
    while size >= 0x80:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([tag, *length, size]) + data


LIST = within(0x32, empty(0x0A, 15 * MIB))
HOSTILE = {
    "items": ("SearchService/BulkInsert", [CONFIG, within(0x12, empty(0x0A, 15 * MIB))]),
    "terms": ("SearchService/Search", [empty(0x12, 15 * MIB)]),
    "pictures": ("EmbeddingService/EmbedImage", [empty(0x0A, 15 * MIB)]),
    "metadata": ("SearchService/Insert", [within(0x22, within(0x0A, within(0x12, LIST)))]),
    "texts": ("EmbeddingService/EmbedText", [empty(0x0A, 2 * MIB - 1)]),
    "ids": ("SearchService/BatchGetImages", [empty(0x12, 2 * MIB - 1)]),
    "numbers": ("SearchService/GetImage", [bytes([0x20, 1]) * (2 * MIB - 1)]),
    "unknown": ("InfoService/GetServerInfo", [bytes([0x7A, 0]) * (2 * MIB - 1)]),
}


def memory(pid: int, name: str) -> int:
    """In MiB."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) // 1024


def test_messages_of_very_many_fields_are_not_parsed(bundle, tmp_path):
    with ServerProcess(tmp_path / "data", bundle) as running:
        pid = running._process.pid  # type: ignore[union-attr]
        with grpc.insecure_channel(running.address, [("grpc.max_send_message_length", -1)]) as connected:
            InfoServiceStub(connected).GetServerInfo(GetServerInfoRequest())
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew
            before = memory(pid, "VmHWM")
            for method, sent in HOSTILE.values():
                with refused(INVALID, "INVALID_FIELD") as caught:
                    list(stream_raw(connected, method, sent))
                assert "fields" in caught.refusal.message
            peak = memory(pid, "VmHWM") - before
        # Parsed, the items alone took 1,200 MiB. What is left is the message as gRPC and as Python hold it.
        assert peak < 200, f"{peak} MiB"


def test_messages_with_a_little_too_much_are_refused_by_their_fields(channel, open_server):
    items = BulkInsertRequest(batch=BulkInsertBatch(items=[BulkInsertItem()] * 129)).SerializeToString()
    with refused(INVALID, "INVALID_FIELD") as caught:
        list(stream_raw(channel, "SearchService/BulkInsert", [CONFIG, items]))
    assert caught.refusal.field == "batch.items"
    metadata = Struct()
    metadata.update({"a": [0] * 1000})
    with refused(INVALID, "INVALID_FIELD") as caught:
        call_raw(
            channel,
            "SearchService/UpdateImage",
            [UpdateImageRequest(image_id="a", metadata=metadata).SerializeToString()],
        )
    assert caught.refusal.field == "metadata"


def test_large_messages_are_parsed_beside_the_event_loop(open_server, monkeypatch):
    seen: dict[bool, str] = {}
    check_fields = messages.check_fields

    def check(raw: bytes, *more: object) -> None:
        seen[len(raw) >= messages.LARGE_MESSAGE] = threading.current_thread().name
        check_fields(raw, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(messages, "check_fields", check)
    with Client(open_server.address) as client:
        client.insert(picture(1))
        client.insert(large_picture(messages.LARGE_MESSAGE))
    assert seen.keys() == {True, False}
    assert seen[False] == "server"
    assert seen[True] != "server"


# Time.


def test_bulk_streams_may_rest_and_other_calls_may_not(bundle, tmp_path):
    given = settings(bundle, tmp_path, message_timeout=0.05)
    with OpenServer(given) as running, grpc.insecure_channel(running.address) as channel:
        go_on = threading.Event()

        def resting() -> Iterator[bytes]:
            yield CONFIG
            go_on.wait(30)
            item = BulkInsertItem(sequence=1, image_data=picture(1))
            yield BulkInsertRequest(batch=BulkInsertBatch(items=[item])).SerializeToString()

        def silence() -> Iterator[bytes]:
            go_on.wait(30)
            yield from ()

        responses = stream_raw(channel, "SearchService/BulkInsert", resting())
        running.until(lambda: running.streams._open == 1)
        for method in ("SearchService/Insert", "SearchService/GetImage"):
            with refused(grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"):
                call_raw(channel, method, silence())
        go_on.set()
        assert len(list(responses)) == 1
        running.at_rest()


def test_bulk_streams_do_not_rest_for_ever(bundle, tmp_path):
    given = settings(bundle, tmp_path, bulk_idle_timeout=0.05)
    with OpenServer(given) as running, grpc.insecure_channel(running.address) as channel:
        go_on = threading.Event()

        def resting() -> Iterator[bytes]:
            yield CONFIG
            go_on.wait(30)

        with refused(grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"):
            list(stream_raw(channel, "SearchService/BulkInsert", resting()))
        go_on.set()
        running.at_rest()


def test_streams_of_results_live_longer_than_other_calls(bundle, tmp_path):
    with ServerThread(settings(bundle, tmp_path)) as running, Client(running.address) as client:
        client.insert(picture(1), image_id="a")
    # No call may live as long as what a sweep takes: here for no time at all.
    given = settings(bundle, tmp_path, sweep_grace=1e-9, sweep_interval=1e6)
    with ServerThread(given) as running, Client(running.address) as client:
        with pytest.raises(DeadlineExceededError):
            client.get("a")
        assert client.download("a") == picture(1)
        assert [each.images_checked for each in client.check()][-1] == 1
        assert [each.phase for each in client.rebuild()][-1] == "done"


# Batches to embed.


def test_a_batch_to_embed_waits_for_searches_and_does_not_overflow(open_server, monkeypatch):
    ran: list[list[int]] = []
    tower = open_server.model._text_tower
    with Client(open_server.address) as client, ThreadPoolExecutor(2) as pool:
        client.insert(picture(1))
        run = tower._run
        monkeypatch.setattr(tower, "_run", lambda texts: ran.extend(text.ids.tolist() for text in texts) or run(texts))
        with open_server.stuck("text") as begun:
            batch = pool.submit(client.embed_texts, [f"text {number}" for number in range(20)])
            assert begun.wait(30)
            search = pool.submit(client.search_text, "a cat")
            open_server.until(lambda: len(open_server.text_tower._interactive) == 1)
        assert search.result().hits
        assert [result.error for result in batch.result()] == [None] * 20
    tokenize = open_server.model._tokenizer.tokenize
    assert ran[:2] == [tokenize(text).ids.tolist() for text in ("text 0", "a cat")]
