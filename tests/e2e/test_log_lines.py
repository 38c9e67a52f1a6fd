"""What an operator reads: one line a call, with what became of it."""

from collections.abc import Iterator
from contextlib import contextmanager

from structlog.testing import capture_logs

from clipseek import Client, InsertItem, InvalidArgumentError
from clipseek_server.config import Settings
from pictures import picture
from servers import ServerThread


@contextmanager
def logged(server: ServerThread) -> Iterator[list[dict[str, object]]]:
    with capture_logs() as logs:
        yield logs
        server.settle()


def lines(logs, method) -> list[dict[str, object]]:
    return [line for line in logs if line.get("method") == method]


def test_a_call_says_where_its_time_went(server, client, collection):
    with logged(server) as logs:
        client.insert(picture(1), collection=collection, request_id="find-me")
    (line,) = lines(logs, "SearchService/Insert")
    assert (line["code"], line["request_id"]) == ("OK", "find-me")
    assert {"decode_ms", "queue_ms", "inference_ms", "index_ms", "store_ms", "total_ms"} <= line.keys()
    assert line["request_bytes"] > len(picture(1))


def test_a_failed_call_says_why(server, client, collection):
    with logged(server) as logs:
        try:
            client.insert(b"no picture", collection=collection)
        except InvalidArgumentError as error:
            told = error.message
    (line,) = lines(logs, "SearchService/Insert")
    assert (line["code"], line["reason"], line["message"]) == ("INVALID_ARGUMENT", "INVALID_IMAGE", told)


def test_a_stream_says_what_became_of_its_items(server, client, collection):
    items = [InsertItem(picture(1)), InsertItem(picture(2)), InsertItem(picture(1)), InsertItem(b"no picture")]
    with logged(server) as logs:
        list(client.insert_stream(items, collection=collection))
    (line,) = lines(logs, "SearchService/BulkInsert")
    assert line["code"] == "OK"
    assert line["items"] == {"CREATED": 2, "UNCHANGED": 1, "INVALID_IMAGE": 1}
    assert line["inference_ms"] > 0


def test_no_stage_of_a_call_with_many_items_is_longer_than_the_call(server, client, collection):
    pictures = [picture(number) for number in range(100)]
    with logged(server) as logs:
        list(client.insert_stream(map(InsertItem, pictures), collection=collection))
        list(client.embed_images(pictures))
        list(client.embed_texts(f"text {number}" for number in range(100)))
        client.search(*(f"term {number}" for number in range(16)), collection=collection)
    calls = [line for line in logs if line["event"] == "call" and "inference_ms" in line]
    assert {line["method"].rpartition("/")[2] for line in calls} == {"BulkInsert", "EmbedImage", "EmbedText", "Search"}
    for line in calls:
        stages = {key: value for key, value in line.items() if key.endswith("_ms")}
        assert max(stages, key=stages.__getitem__) == "total_ms"


def test_a_rebuild_says_when_it_begins_and_how_it_ends(server, client, collection):
    client.insert(picture(1), collection=collection)
    with logged(server) as logs:
        *_, last = client.rebuild(collection)
    begin, end = (line for line in logs if line["event"].startswith("rebuild "))
    assert begin["rebuild_id"] == end["rebuild_id"] == last.rebuild_id
    assert (end["phase"], end["images"], end["collection"]) == ("DONE", 1, collection)


def test_collections_are_brought_into_memory_before_anybody_asks(bundle, tmp_path):
    settings = Settings(listen="127.0.0.1:0", bundles=[bundle], data_dir=tmp_path)
    with ServerThread(settings) as server, Client(server.address) as client:
        for name in ("cats", "dogs"):
            client.insert(picture(1), collection=name)
    with capture_logs() as logs, ServerThread(settings) as server:
        while len(loaded := [line for line in logs if line["event"] == "collection is in memory"]) < 2:
            server.settle()
        assert [(line["collection"], line["rows"]) for line in loaded] == [("cats", 1), ("dogs", 1)]
