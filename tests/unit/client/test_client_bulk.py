"""insert_many and insert_stream: order, limits, back-pressure, and every way in which a stream can end."""

import asyncio
import hashlib
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grpc import StatusCode
from PIL import Image

from clipseek import (
    AsyncClient,
    BulkResult,
    BulkSummary,
    Client,
    ClipseekError,
    DeadlineExceededError,
    InsertItem,
    InternalError,
    InvalidArgumentError,
    UnavailableError,
)
from clipseek._async.bulk import KEPT_FAILURES, PLACE_BYTES, WINDOW
from clipseek._sync.bulk import _Stream, _Upload
from clipseek.v1.search_service_pb2 import BulkInsertConfig
from small_server import LIMITS, Failure, SmallServer


def test_every_item_has_its_result(client: Any, server: SmallServer) -> None:
    items = [InsertItem(f"picture {number}".encode(), image_id=f"id-{number}") for number in range(333)]
    results = list(client.insert_stream(iter(items), collection="pets", on_exists="fail", request_id="bulk-1"))
    assert sorted(result.index for result in results) == list(range(333))
    assert [result.index for result in results] != list(range(333))  # The small server answers out of order.
    for result in results:
        assert result.item is items[result.index]
        assert (result.image_id, result.outcome, result.error) == (f"id-{result.index}", "created", None)
    [config] = server.asked("BulkInsert")
    assert (config.collection, config.on_exists) == ("pets", 3)
    assert ("BulkInsert", config, "bulk-1") in server.calls


def test_what_became_of_many_is_counted(client: Any, server: SmallServer) -> None:
    items = [InsertItem(f"picture {number}".encode(), image_id=f"id-{number}") for number in range(200)]
    told: list[BulkResult] = []
    summary = client.insert_many([*items, *[b"broken"] * 12], on_result=told.append, request_id="bulk-1")
    assert (summary.created, summary.updated, summary.unchanged, summary.failed) == (200, 0, 0, 12)
    assert len(summary.failures) == KEPT_FAILURES
    assert {(type(each.error), each.item.picture) for each in summary.failures} == {(InvalidArgumentError, b"broken")}
    assert sorted(result.index for result in told) == list(range(212))
    assert {request_id for name, _, request_id in server.calls if name == "BulkInsert"} == {"bulk-1"}
    assert client.insert_many([]) == BulkSummary()


def test_a_callback_may_end_an_import(client: Any, server: SmallServer) -> None:
    def stop(_: BulkResult) -> None:
        raise KeyError("enough")

    def endless() -> Iterator[bytes]:
        number = 0
        while True:
            number += 1
            yield str(number).encode()

    with pytest.raises(KeyError, match="enough"):
        client.insert_many(endless(), on_result=stop)
    assert server.cancelled.wait(10)


def test_an_async_callback_of_a_synchronous_client_is_refused(server: SmallServer) -> None:
    async def note(_: BulkResult) -> None:
        raise AssertionError

    with Client(server.address) as client, pytest.raises(TypeError, match="AsyncClient"):
        client.insert_many([b"picture"], on_result=note)


def test_one_bad_picture_fails_alone(client: Any, server: SmallServer, tmp_path: Path) -> None:
    good = tmp_path / "good.bin"
    good.write_bytes(b"good")
    items = [
        good,
        b"broken",
        tmp_path / "nothing.jpg",
        InsertItem(b"picture", metadata={"a": object()}),
        InsertItem(b"picture", metadata={"a": "\udce9"}),
        InsertItem(b"picture", image_id="\udce9"),
        b"x" * (LIMITS.max_image_bytes + 1),
        InsertItem(b"y", metadata={"a": "z" * LIMITS.max_message_bytes}),
        5,
        InsertItem(b"last", metadata={"name": "last"}),
    ]
    results = sorted(client.insert_stream(items), key=lambda result: result.index)
    assert [result.error is None for result in results] == [True, *[False] * 8, True]
    assert all(isinstance(result.error, InvalidArgumentError) for result in results[1:9])
    assert [result.error.reason for result in results[1:9]] == [
        "INVALID_IMAGE",
        "INVALID_IMAGE",
        "INVALID_FIELD",
        "INVALID_FIELD",
        "INVALID_FIELD",
        "IMAGE_TOO_LARGE",
        "IMAGE_TOO_LARGE",
        "INVALID_IMAGE",
    ]
    assert "nothing.jpg" in str(results[2].error)
    assert len(server.images) == 2


def test_only_unreadable_pictures(client: Any, server: SmallServer, tmp_path: Path) -> None:
    results = list(client.insert_stream(tmp_path / f"{number}.jpg" for number in range(3 * WINDOW)))
    assert len(results) == 3 * WINDOW
    assert all(result.error for result in results)
    assert server.asked("BulkInsert.batch") == []


def test_no_pictures_at_all(client: Any, server: SmallServer) -> None:
    assert list(client.insert_stream([])) == []
    assert len(server.asked("BulkInsert")) == 1


def test_nothing_is_sent_until_one_iterates(client: Any, server: SmallServer) -> None:
    results = client.insert_stream([b"picture"])
    client.info()
    assert [name for name, *_ in server.calls] == ["GetServerInfo"]
    assert [result.error for result in results] == [None]


def test_the_time_limit_holds_for_what_is_asked_about_a_stream_that_ended(connect: Any, server: SmallServer) -> None:
    def source() -> Iterator[bytes]:
        yield b"one"
        assert stored.wait(20)
        # In gRPC's words the reason is lost, and the client asks for it.
        server.failing("BulkInsert.batch", Failure(StatusCode.INTERNAL, "Internal error from Core"))
        server.gated = frozenset({"BulkInsert"})
        yield b"two"

    stored = threading.Event()
    results = connect(server.address, timeout=None).insert_stream(source(), timeout=1)
    assert next(results).error is None
    stored.set()
    with pytest.raises(DeadlineExceededError):
        next(results)
    assert server.waiting.is_set()


def test_messages_stay_within_the_limits(client: Any, server: SmallServer) -> None:
    size = LIMITS.max_message_bytes // 3
    assert len(list(client.insert_stream(bytes([number]) * size for number in range(7)))) == 7
    sizes = [len(batch.items) for batch in server.asked("BulkInsert.batch")]
    assert sum(sizes) == 7
    assert set(sizes) <= {1, 2}


def test_the_source_is_read_no_further_than_the_caller_follows(client: Any, server: SmallServer) -> None:
    taken = 0
    stopped = threading.Event()

    def endless() -> Iterator[bytes]:
        nonlocal taken
        try:
            while True:
                taken += 1
                yield str(taken).encode()
        finally:
            stopped.set()

    results = client.insert_stream(endless())
    for followed in range(1, 400):
        assert next(results).error is None
        # One more may have been taken and wait for its place.
        assert taken <= followed + WINDOW + 1
    results.close()
    assert server.cancelled.wait(10)


def test_large_pictures_take_more_than_one_place(client: Any, server: SmallServer) -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield bytes(PLACE_BYTES + taken)

    results = client.insert_stream(endless())
    for followed in range(1, 100):
        assert next(results).error is None
        assert taken <= followed + WINDOW // 2 + 1
    results.close()


def test_a_picture_larger_than_the_window_has_it_alone(client: Any, server: SmallServer) -> None:
    size = (WINDOW + 1) * PLACE_BYTES
    results = list(client.insert_stream([b"one", bytes(size), bytes(size), b"two"]))
    assert sorted(result.index for result in results if result.error) == [1, 2]


def test_an_answer_is_not_waited_for_to_send_more(client: Any, server: SmallServer) -> None:
    server.gated = frozenset({"BulkInsert.batch"})
    sent = threading.Event()

    def source() -> Iterator[bytes]:
        for number in range(50):
            if number == 6 * LIMITS.max_batch_items:
                sent.set()
            yield str(number).encode()

    results: list[Any] = []
    reader = threading.Thread(target=lambda: results.extend(client.insert_stream(source())))
    reader.start()
    assert sent.wait(20)
    assert results == []
    server.gate.set()
    reader.join(30)
    assert len(results) == 50


def test_a_source_that_fails_ends_the_stream_after_the_results(client: Any, server: SmallServer) -> None:
    def failing() -> Iterator[bytes]:
        yield b"one"
        yield b"two"
        raise KeyError("the disk")

    results = []
    with pytest.raises(KeyError, match="the disk"):
        for result in client.insert_stream(failing()):
            results.append(result)  # noqa: PERF402 -- the error comes in the middle
    assert len(results) == 2
    assert len(server.images) == 2


def test_a_stream_that_breaks_raises_after_the_results(client: Any, server: SmallServer) -> None:
    results = []
    stream = client.insert_stream((str(number).encode() for number in range(10_000)), patience=0)
    results.append(next(stream))
    server.failing("BulkInsert.batch", Failure(StatusCode.UNAVAILABLE, "going away"))
    with pytest.raises(UnavailableError, match=r"going away|ended the stream"):
        for result in stream:
            results.append(result)  # noqa: PERF402 -- as above
    assert 1 <= len(results) < 10_000
    assert all(result.error is None for result in results)


def test_a_stream_that_breaks_is_begun_anew_and_nothing_is_doubled(client: Any, server: SmallServer) -> None:
    items = [InsertItem(f"picture {number}".encode(), image_id=f"id-{number}") for number in range(200)]
    stream = client.insert_stream(iter(items))
    results = [next(stream)]
    server.failing("BulkInsert.batch", Failure(StatusCode.UNAVAILABLE), Failure(StatusCode.UNAVAILABLE))
    results += stream
    assert sorted(result.index for result in results) == list(range(200))
    assert all(result.error is None for result in results)
    assert all(result.image_id == f"id-{result.index}" for result in results)
    assert len(server.images) == 200
    assert len(server.asked("BulkInsert")) >= 3


@pytest.mark.parametrize(
    ("on_exists", "metadata", "outcome"),
    [
        ("replace", {"album": "summer"}, "unchanged"),
        ("replace", None, "unchanged"),
        ("keep", {"album": "winter"}, "unchanged"),
        ("fail", {"album": "summer"}, "unchanged"),
    ],
)
def test_what_was_stored_without_an_answer_is_not_sent_again(
    client: Any, server: SmallServer, on_exists: Any, metadata: Any, outcome: str
) -> None:
    # The batch arrives, and the connection breaks before its answer: the server has the picture already.
    stored, _ = server.store(b"picture", "")
    stored.metadata.update({"album": "summer"})
    server.failing("BulkInsert.batch", Failure(StatusCode.UNAVAILABLE))
    [result] = client.insert_stream([InsertItem(b"picture", metadata=metadata)], on_exists=on_exists)
    assert (result.index, result.image_id, result.outcome) == (0, stored.image_id, outcome)
    [asked] = server.asked("BatchGetImages")
    assert list(asked.image_ids) == [stored.image_id]
    assert len(server.asked("BulkInsert.batch")) == 1


def test_what_is_stored_otherwise_is_sent_again(client: Any, server: SmallServer) -> None:
    server.store(b"another picture", "cat")
    server.failing("BulkInsert.batch", Failure(StatusCode.UNAVAILABLE))
    [result] = client.insert_stream([InsertItem(b"picture", image_id="cat")])
    assert result.error is None
    assert server.images["cat"][1] == b"picture"


def test_the_later_of_two_under_one_id_comes_last_also_after_a_break(client: Any, server: SmallServer) -> None:
    # Both were stored, and the answers were lost: sent again alone, the first would take the place of the second.
    server.store(b"second", "cat")
    server.failing("BulkInsert.batch", Failure(StatusCode.UNAVAILABLE))
    results = list(client.insert_stream([InsertItem(b"first", "cat"), InsertItem(b"second", "cat")]))
    assert [result.error for result in results] == [None, None]
    failed, *sent = [[item.sequence for item in batch.items] for batch in server.asked("BulkInsert.batch")]
    assert failed[0] == 0
    assert [sequence for batch in sent for sequence in batch] == [0, 1]


def test_what_cannot_be_stored_now_is_sent_again(client: Any, server: SmallServer) -> None:
    server.held = {b"3": 2, b"11": 1}
    results = list(client.insert_stream(str(number).encode() for number in range(30)))
    assert sorted(result.index for result in results) == list(range(30))
    assert [result.error for result in results] == [None] * 30
    assert len(server.images) == 30
    assert server.held == {b"3": 0, b"11": 0}


def test_who_tries_once_is_told_that_it_could_not_be_stored(client: Any, server: SmallServer) -> None:
    server.held = {b"two": 1}
    first, second = sorted(client.insert_stream([b"one", b"two"], patience=0), key=lambda result: result.index)
    assert (first.error, second.error.reason) == (None, "COLLECTION_HELD")


def test_a_server_that_stores_nothing_for_so_long_ends_it(client: Any, server: SmallServer) -> None:
    items = [str(number).encode() for number in range(3 * WINDOW)]
    server.held = dict.fromkeys(items, 10**6)
    results = []
    with pytest.raises(UnavailableError, match="writes are held"):
        for result in client.insert_stream(iter(items), patience=0.5):
            results.append(result)  # noqa: PERF402 -- the error comes in the middle
    assert len(results) < len(items)
    assert all(result.error.reason == "COLLECTION_HELD" for result in results)


def test_what_was_answered_beside_it_is_not_sent_again(client: Any, server: SmallServer) -> None:
    server.held = {b"3": 1}
    results = list(client.insert_stream(str(number).encode() for number in range(20)))
    assert [result.error for result in results] == [None] * 20
    assert {result.outcome for result in results} == {"created"}
    sent = Counter(item.sequence for batch in server.asked("BulkInsert.batch") for item in batch.items)
    assert sent == Counter(range(20)) + Counter([3])


def test_patience_shorter_than_the_pause_that_is_asked_for(client: Any, server: SmallServer) -> None:
    server.held, server.held_for_long = {b"3": 10**6}, True
    results = list(client.insert_stream((str(number).encode() for number in range(20)), patience=0.3))
    assert len(results) == 20
    assert {result.index: result.error.reason for result in results if result.error} == {3: "COLLECTION_HELD"}


def test_a_picture_that_alone_cannot_be_stored_has_its_error(client: Any, server: SmallServer) -> None:
    server.held = {b"never": 10**6}
    ended = threading.Event()

    def source() -> Iterator[bytes]:
        yield b"never"
        number = 0
        while not ended.is_set():
            number += 1
            yield str(number).encode()

    errors = {}
    for result in client.insert_stream(source(), patience=0.5):
        if result.error:
            errors[result.index] = result.error.reason
            ended.set()
    assert errors == {0: "COLLECTION_HELD"}


def test_the_later_of_two_under_one_id_comes_last_also_when_the_first_is_tried_again(
    client: Any, server: SmallServer
) -> None:
    server.held = {b"first": 1}
    # The small server holds back the answer of the first of each batch.
    items = [InsertItem(b"other"), InsertItem(b"first", "cat"), InsertItem(b"second", "cat")]
    assert [result.error for result in client.insert_stream(items)] == [None, None, None]
    assert server.images["cat"][1] == b"second"


def test_the_later_metadata_of_one_picture_comes_last_also_when_the_first_is_tried_again(
    client: Any, server: SmallServer
) -> None:
    server.held = {b"same": 1}
    items = [InsertItem(b"other"), *(InsertItem(b"same", metadata={"n": number}) for number in (1, 2))]
    assert [result.error for result in client.insert_stream(items)] == [None, None, None]
    image, _ = server.images[hashlib.sha256(b"same").hexdigest()]
    assert dict(image.metadata) == {"n": 2}


@pytest.mark.parametrize("code", [StatusCode.INVALID_ARGUMENT, StatusCode.UNAVAILABLE, StatusCode.NOT_FOUND])
def test_what_cannot_be_asked_for_is_sent_again(client: Any, server: SmallServer, code: StatusCode) -> None:
    server.failing("BulkInsert.batch", Failure(StatusCode.UNAVAILABLE))
    server.failing("BatchGetImages", *[Failure(code)] * 5)
    assert [result.outcome for result in client.insert_stream([b"one"])] == ["created"]


def test_a_stream_that_rested_too_long_is_begun_anew(client: Any, server: SmallServer) -> None:
    server.failing("BulkInsert.batch", Failure(StatusCode.DEADLINE_EXCEEDED, "nothing came for too long"))
    assert [result.outcome for result in client.insert_stream([b"one"])] == ["created"]


def test_streams_may_rest_again_and_again(client: Any, server: SmallServer) -> None:
    server.failing("BulkInsert answered", *[Failure(StatusCode.DEADLINE_EXCEEDED, "nothing came for too long")] * 8)
    answered = threading.Semaphore(0)

    def source() -> Iterator[bytes]:
        for number in range(9):
            yield str(number).encode()
            assert answered.acquire(timeout=20)

    outcomes = []
    for result in client.insert_stream(source(), patience=0.3):
        outcomes.append(result.outcome)
        answered.release()
    assert outcomes == ["created"] * 9
    assert len(server.asked("BulkInsert")) >= 8


def test_a_server_that_ends_every_stream_without_an_answer_is_given_up(client: Any, server: SmallServer) -> None:
    server.failing("BulkInsert.batch", *[Failure(StatusCode.DEADLINE_EXCEEDED, "nothing came for too long")] * 1000)
    with pytest.raises(DeadlineExceededError):
        list(client.insert_stream([b"one"], patience=0.5))


def test_a_stream_that_ends_before_its_source_is_no_success(client: Any, server: SmallServer) -> None:
    server.short = True
    ended = threading.Event()

    def source() -> Iterator[bytes]:
        yield b"one"
        assert ended.wait(20)
        yield b"two"

    results = client.insert_stream(source())
    assert next(results).error is None
    with pytest.raises(InternalError, match="ended the stream"):
        next(results)
    ended.set()


def test_a_source_that_ends_the_program_is_no_success(server: SmallServer) -> None:
    def source() -> Iterator[bytes]:
        yield b"one"
        raise SystemExit(3)

    with Client(server.address) as client, pytest.raises(SystemExit):
        list(client.insert_stream(source()))


async def test_a_source_whose_own_task_was_cancelled_is_no_success(server: SmallServer) -> None:
    async def source() -> AsyncIterator[bytes]:
        yield b"one"
        producer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        producer.cancel()
        yield await producer

    async with AsyncClient(server.address) as client:
        with pytest.raises(asyncio.CancelledError):
            async for result in client.insert_stream(source()):
                assert result.error is None


def test_pictures_may_change_once_they_have_their_result(client: Any, server: SmallServer) -> None:
    def shrink_all() -> int:
        count = 0
        for result in client.insert_stream(Image.new("L", (4000, 1000 + number)) for number in range(40)):
            assert result.error is None
            result.item.picture.thumbnail((8, 8))
            count += 1
        return count

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(shrink_all).result(60) == 40


def test_what_only_looks_like_a_picture_fails_alone(client: Any, server: SmallServer) -> None:
    results = sorted(client.insert_stream([b"one", np.zeros((4, 4)), b"two"]), key=lambda result: result.index)
    assert [result.error is None for result in results] == [True, False, True]


def test_an_iterable_that_waits_keeps_no_process_from_its_end(server: SmallServer) -> None:
    code = """if True:
        import asyncio, queue, sys
        from clipseek import AsyncClient
        items = queue.SimpleQueue()
        items.put(b"one")

        async def main() -> None:
            async with AsyncClient(sys.argv[1]) as client:
                async for result in client.insert_stream(iter(items.get, None)):
                    print(result.outcome)
                    break

        asyncio.run(main())
    """
    done = subprocess.run([sys.executable, "-c", code, server.address], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, "created\n"), done.stderr


def test_the_sources_own_errors_are_the_callers(client: Any, server: SmallServer) -> None:
    def source() -> Iterator[bytes]:
        yield b"one"
        raise UnavailableError("not of the stream")

    results = []
    with pytest.raises(UnavailableError, match="not of the stream"):
        for result in client.insert_stream(source()):
            results.append(result)  # noqa: PERF402 -- as above
    assert [result.error for result in results] == [None]
    assert len(server.asked("BulkInsert")) == 1


def test_a_value_of_a_wrong_type_fails_alone(client: Any, server: SmallServer) -> None:
    items: list[Any] = [b"one", InsertItem(b"two", image_id=5), InsertItem(b"three", metadata=[1]), b"four"]  # type: ignore[arg-type]
    results = sorted(client.insert_stream(items), key=lambda result: result.index)
    assert [result.error is None for result in results] == [True, False, False, True]
    assert all(isinstance(result.error, InvalidArgumentError) for result in results[1:3])


def test_results_print_small() -> None:
    assert repr(InsertItem(b"x" * 1_000_000, "cat")) == "InsertItem(<1000000 bytes>, image_id='cat', metadata=None)"
    assert repr(InsertItem("cat.jpg")) == "InsertItem('cat.jpg', image_id=None, metadata=None)"


def test_a_server_without_room_for_one_more_stream_is_asked_again(client: Any, server: SmallServer) -> None:
    server.failing("BulkInsert", *[Failure(StatusCode.RESOURCE_EXHAUSTED, "too many streams")] * 2)
    assert [result.error for result in client.insert_stream([b"picture"])] == [None]


def test_a_source_that_ended_before_the_stream_broke(client: Any, server: SmallServer) -> None:
    server.failing("BulkInsert.batch", Failure(StatusCode.UNAVAILABLE))
    assert sorted(result.index for result in client.insert_stream([b"one", b"two", b"three"])) == [0, 1, 2]


def test_what_comes_slowly_is_sent_at_once(server: SmallServer) -> None:
    answered = threading.Event()

    def source() -> Iterator[bytes]:
        yield b"one"
        assert answered.wait(20)
        yield b"two"

    with Client(server.address) as client:
        results = client.insert_stream(source())
        assert next(results).index == 0
        answered.set()
        assert [result.index for result in results] == [1]


async def test_what_an_asynchronous_source_yields_slowly_is_sent_at_once(server: SmallServer) -> None:
    answered = asyncio.Event()

    async def source() -> AsyncIterator[bytes]:
        yield b"one"
        await asyncio.wait_for(answered.wait(), 20)
        yield b"two"

    async with AsyncClient(server.address) as client:
        results = client.insert_stream(source())
        assert (await anext(results)).index == 0
        answered.set()
        assert [result.index async for result in results] == [1]


def test_a_stream_that_is_refused(client: Any, server: SmallServer) -> None:
    # Twice: grpc.aio may lose the first answer, and then the client asks again.
    server.failing("BulkInsert", *[Failure(StatusCode.INVALID_ARGUMENT, "bad name")] * 2)
    with pytest.raises(InvalidArgumentError, match="bad name"):
        list(client.insert_stream([b"picture"] * 50, collection="!"))


def test_a_deadline_for_the_whole_stream(client: Any, server: SmallServer) -> None:
    server.gated = frozenset({"BulkInsert.batch"})
    with pytest.raises(ClipseekError) as caught:
        list(client.insert_stream([b"picture"], timeout=0.2))
    assert caught.value.code is StatusCode.DEADLINE_EXCEEDED


async def test_an_asynchronous_source(server: SmallServer) -> None:
    async def source() -> Any:
        for number in range(20):
            yield str(number).encode()

    async with AsyncClient(server.address) as client:
        assert len([result async for result in client.insert_stream(source())]) == 20
        told: list[int] = []
        summary = await client.insert_many(source(), on_result=lambda result: told.append(result.index))
        assert (summary.created, sorted(told)) == (20, list(range(20)))

        async def note(result: BulkResult) -> None:
            await asyncio.sleep(0)
            told.append(result.index)

        await client.insert_many(source(), on_result=note)
        assert sorted(told) == sorted([*range(20), *range(20)])
        assert (await client.insert_many(source(), on_result=lambda _: True)).failed == 0


async def test_closing_the_client_ends_a_stream_that_waits(server: SmallServer) -> None:
    server.gated = frozenset({"BulkInsert"})
    client = AsyncClient(server.address)
    stream = client.insert_stream([b"picture"])
    waiting = asyncio.create_task(anext(stream))
    assert await asyncio.to_thread(server.waiting.wait, 10)
    await client.close()
    with pytest.raises(ClipseekError) as caught:
        await waiting
    assert caught.value.code is StatusCode.CANCELLED


def test_a_server_that_answers_nothing_is_not_waited_for_forever(server: SmallServer) -> None:
    server.gated = frozenset({"BulkInsert.batch"})
    with Client(server.address) as client:
        with pytest.raises(DeadlineExceededError, match=r"gave no result for 0\.2 s;.* patience= \(--patience\)"):
            list(client.insert_stream([b"one", b"two"], patience=0.2))
        server.gate.set()


def test_who_tries_once_waits_as_long_as_for_a_call(server: SmallServer) -> None:
    server.gated = frozenset({"BulkInsert.batch"})
    with Client(server.address, timeout=0.3) as client:
        with pytest.raises(DeadlineExceededError, match=r"gave no result for 0\.3 s;.* timeout= \(--timeout\)"):
            list(client.insert_stream([b"one"], patience=0))
        server.gate.set()


def test_what_was_received_comes_before_the_end_of_patience(server: SmallServer) -> None:
    upload = _Upload([], BulkInsertConfig(), limits=LIMITS, address=server.address, request_id="r", patience=60)  # type: ignore[arg-type]
    upload._stream.unanswered, upload._stream.waiting_since = 1, time.monotonic() - 61
    upload._places[0] = 1
    upload._results.put(BulkResult(0, InsertItem(b"one"), image_id="a", outcome="created"))
    upload.end(UnavailableError("broke"))
    found = upload.results(60)
    assert next(found).image_id == "a"
    with pytest.raises(UnavailableError, match="broke"):
        next(found)


def test_patience_begins_anew_with_each_batch_that_goes_out(server: SmallServer) -> None:
    upload = _Upload([], BulkInsertConfig(), limits=LIMITS, address=server.address, request_id="r", patience=60)  # type: ignore[arg-type]
    stream = _Stream(unanswered=1, waiting_since=time.monotonic() - 61)
    # It is asked for when the one before has been taken.
    upload._batch(stream, [])
    assert stream.waiting_since > time.monotonic() - 60


def test_a_slow_source_is_waited_for(server: SmallServer) -> None:
    with Client(server.address) as client:
        read = threading.Event()

        def source() -> Iterator[bytes]:
            yield b"one"
            # Longer than the patience, with nothing that the server would have to answer.
            assert not read.wait(0.5)
            yield b"two"

        results = list(client.insert_stream(source(), patience=0.2))
    assert [result.error for result in results] == [None, None]


async def test_iterables_that_block_leave_the_loop_its_threads(server: SmallServer) -> None:
    release = threading.Event()

    def source() -> Iterator[bytes]:
        assert release.wait(10)
        yield b"one"

    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    async with AsyncClient(server.address) as client:
        waiting = asyncio.create_task(anext(client.insert_stream(source())))
        async with asyncio.timeout(10):
            assert [result.error async for result in client.insert_stream([b"two"])] == [None]
        assert not waiting.done()
        release.set()
        assert (await waiting).error is None


async def test_who_holds_up_the_loop_takes_the_server_for_no_slower(server: SmallServer) -> None:
    results = []
    async with AsyncClient(server.address) as client:
        async for result in client.insert_stream([b"%d" % number for number in range(60)], patience=0.2):
            if not results:
                time.sleep(0.5)  # noqa: ASYNC251 -- this is what is tested
            results.append(result.error)
    assert results == [None] * 60


async def test_an_ordinary_iterable_may_block(server: SmallServer) -> None:
    turns = asyncio.Event()

    def source() -> Iterator[bytes]:
        # On the event loop this would wait for itself.
        asyncio.run_coroutine_threadsafe(_set(turns), loop).result(10)
        yield b"one"

    loop = asyncio.get_running_loop()
    async with AsyncClient(server.address) as client:
        results = [result async for result in client.insert_stream(source())]
    assert [result.error for result in results] == [None]
    assert turns.is_set()


async def _set(event: asyncio.Event) -> None:
    event.set()
