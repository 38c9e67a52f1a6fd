"""Every method of both clients, against a small real server."""

import functools
import hashlib
import io
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from google.rpc import error_details_pb2
from grpc import StatusCode
from PIL import Image as PilImage

from clipseek import (
    Client,
    ClipseekError,
    ConnectionLostError,
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    Term,
    UnavailableError,
)
from small_server import LIMITS, MODEL, Failure, SmallServer

DATA = os.urandom(200_000)


def stored(server: SmallServer, *ids: str) -> None:
    for image_id in ids:
        server.store(image_id.encode(), image_id)


def test_insert_sends_the_bytes_and_returns_the_record(client: Any, server: SmallServer) -> None:
    metadata = {"album": "summer", "rating": 5, "score": 0.5, "tags": ["a", 1, None], "deep": {"ok": True}}
    inserted = client.insert(b"picture", image_id="cat", metadata=metadata, collection="pets", on_exists="keep")
    [request] = server.asked("Insert")
    assert request.collection == "pets"
    assert request.image_data == b"picture"
    assert request.on_exists == 2
    assert inserted.outcome == "created"
    assert inserted.image_id == "cat"
    assert inserted.image.metadata == metadata
    assert isinstance(inserted.image.metadata["rating"], int)
    assert inserted.image.created == datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
    assert inserted.timing.decode == pytest.approx(0.0015)
    assert inserted.timing.total == 1.5
    assert inserted.model.name == "small"


def test_insert_without_id_and_metadata_leaves_both_absent(client: Any, server: SmallServer) -> None:
    assert client.insert(b"picture").image_id == hashlib.sha256(b"picture").hexdigest()
    [request] = server.asked("Insert")
    assert not request.HasField("image_id")
    assert not request.HasField("metadata")


def test_pictures_are_bytes_paths_or_pil_images(client: Any, server: SmallServer, tmp_path: Path) -> None:
    path = tmp_path / "picture.bin"
    path.write_bytes(DATA)
    for picture in (DATA, bytearray(DATA), memoryview(DATA), path, str(path)):
        assert client.insert(picture).image_id == hashlib.sha256(DATA).hexdigest()
    image = PilImage.new("RGB", (3, 2), (1, 2, 3))
    client.insert(image)
    assert PilImage.open(io.BytesIO(server.asked("Insert")[-1].image_data)).getpixel((0, 0)) == (1, 2, 3)
    with pytest.raises(FileNotFoundError):
        client.insert(tmp_path / "nothing.jpg")
    with pytest.raises(TypeError, match="bytes, a path or a PIL image"):
        client.insert(3)


@pytest.mark.parametrize(
    "metadata",
    [
        {"a": float("nan")},
        {"a": object()},
        {1: "a"},
        {"a": 2**60},
        {"a": {"b": [set()]}},
        {"a": {"b": ["\udce9"]}},
        {"\udce9": 1},
        {"a": functools.reduce(lambda inner, _: [inner], range(3000), 1)},
        functools.reduce(lambda inner, _: {"a": inner}, range(50), {}),
    ],
)
def test_metadata_that_json_cannot_hold_is_refused_here(client: Any, server: SmallServer, metadata: Any) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        client.insert(b"picture", metadata=metadata)
    assert caught.value.field.startswith("metadata")
    assert server.asked("Insert") == []


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda client, text: client.insert(b"picture", image_id=text), "image_id"),
        (lambda client, text: client.insert(b"picture", collection=text), "collection"),
        (lambda client, text: list(client.insert_stream([b"picture"], collection=text)), "collection"),
        (lambda client, text: client.get(text), "image_id"),
        (lambda client, text: client.get_many(["a", text]), "image_ids"),
        (lambda client, text: client.delete(text), "image_ids"),
        (lambda client, text: client.update("a", {text: None}, merge=True), "metadata"),
        (lambda client, text: list(client.list(filter=text)), "filter"),
        (lambda client, text: client.download(text), "image_id"),
        (lambda client, text: client.search_text(text), "text"),
        (lambda client, text: client.search_text("a cat", filter=text), "filter"),
        (lambda client, text: client.search_image(image_id=text), "image_id"),
        (lambda client, text: client.search("a cat", text), "text"),
        (lambda client, text: client.search(Term.image(text)), "image_id"),
        (lambda client, text: client.search(Term.embedding([1.0], space_id=text)), "space_id"),
        (lambda client, text: client.embed_text(text), "texts"),
        (lambda client, text: client.embed_images([b"picture"], model=text), "model"),
        (lambda client, text: client.create_collection(text), "collection"),
        (lambda client, text: client.delete_collection(text), "collection"),
        (lambda client, text: list(client.rebuild(text)), "collection"),
        (lambda client, text: list(client.check(text)), "collection"),
    ],
)
def test_strings_that_are_no_unicode_text_are_refused_here(
    client: Any, server: SmallServer, call: Any, field: str
) -> None:
    with pytest.raises(InvalidArgumentError, match="lone surrogate") as caught:
        call(client, "caf\udce9")
    assert (caught.value.reason, caught.value.field) == ("INVALID_FIELD", field)
    assert [name for name, *_ in server.calls if name != "GetServerInfo"] == []


def test_unknown_words_are_refused_here(client: Any) -> None:
    with pytest.raises(ValueError, match="on_exists is one of replace, keep, fail"):
        client.insert(b"picture", on_exists="overwrite")
    with pytest.raises(ValueError, match="effort is one of fast"):
        client.search_text("a cat", effort="hard")
    with pytest.raises(ValueError, match="consistency is one of bounded"):
        client.get("a", consistency="eventual")


def test_search_options_reach_the_server(client: Any, server: SmallServer) -> None:
    stored(server, "a", "b", "c")
    options = {"offset": 1, "filter": "width > 3", "min_score": 0.0, "effort": "exact", "consistency": "strong"}
    options |= {"with_thumbnails": True, "with_embeddings": True, "top_k": 2, "collection": "pets"}
    results = [
        client.search_text("a cat", **options),
        client.search_image(b"picture", **options),
        client.search_image(image_id="a", **options),
        client.search("a cat", **options),
    ]
    for result in results:
        assert [hit.image_id for hit in result] == ["b", "c"]
        assert [hit.score for hit in result] == [1.0, 0.875]
        assert len(result) == 2
        assert result[0].image.thumbnail.startswith(b"\xff\xd8")
        assert result[0].image.embedding.values == pytest.approx((0.6, 0.8))
        assert result[0].image.embedding.space_id == MODEL.space_id
        assert result.model.space_id == MODEL.space_id
    for name in ("SearchByText", "SearchByImage", "Search"):
        for request in server.asked(name):
            sent = request.options
            assert request.collection == "pets"
            assert (sent.top_k, sent.offset, sent.filter, sent.effort, sent.consistency) == (2, 1, "width > 3", 3, 2)
            assert sent.HasField("min_score")
            assert list(sent.read_mask.paths) == ["thumbnail", "embedding"]
    by_bytes, by_id = server.asked("SearchByImage")
    assert by_bytes.image_data == b"picture"
    assert by_id.image_id == "a"


def test_search_without_options_leaves_the_choice_to_the_server(client: Any, server: SmallServer) -> None:
    result = client.search_text("x" * 100)
    [request] = server.asked("SearchByText")
    assert not request.options.HasField("min_score")
    assert not request.options.HasField("read_mask")
    assert (request.options.effort, request.options.consistency) == (0, 0)
    assert result.text_truncated
    assert len(result) == 0


def test_search_image_wants_one_source(client: Any) -> None:
    with pytest.raises(ValueError, match="either a picture or an image_id"):
        client.search_image()
    with pytest.raises(ValueError, match="either a picture or an image_id"):
        client.search_image(b"picture", image_id="a")


def test_search_terms(client: Any, server: SmallServer, tmp_path: Path) -> None:
    path = tmp_path / "picture.bin"
    path.write_bytes(b"from disk")
    client.search(
        "plain",
        Term.picture(path, 0.5),
        Term.image("a", -1),
        Term.embedding([0.25, 0.5], space_id="s"),
    )
    [request] = server.asked("Search")
    text, picture, image, embedding = request.terms
    assert text.text == "plain"
    assert not text.HasField("weight")
    assert (picture.image_data, picture.weight) == (b"from disk", 0.5)
    assert (image.image_id, image.weight) == ("a", -1)
    assert (list(embedding.embedding.values), embedding.embedding.space_id) == ([0.25, 0.5], "s")


def test_get_and_get_many(client: Any, server: SmallServer) -> None:
    stored(server, *"abcdef")
    assert client.get("a").thumbnail is None
    assert client.get("a", with_thumbnail=True).thumbnail is not None
    assert len(client.get("a", with_embedding=True, consistency="bounded").embedding) == 2
    with pytest.raises(NotFoundError) as caught:
        client.get("z")
    assert caught.value.reason == "IMAGE_NOT_FOUND"
    assert caught.value.metadata == {"id": "z"}

    batch = client.get_many(iter("abzcdef"))
    assert [image.image_id for image in batch] == list("abcdef")
    assert batch.missing == ("z",)
    client.get_many(list("abcdef"), with_thumbnails=True)
    assert [len(request.image_ids) for request in server.asked("BatchGetImages")] == [4, 3, 3, 3]
    assert len(client.get_many([])) == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.get_many("cat"),
        lambda client: client.embed_texts("a cat"),
        lambda client: client.embed_images("cat.jpg"),
        lambda client: client.embed_images(b"picture"),
        lambda client: list(client.insert_stream("photos")),
        lambda client: list(client.insert_stream(b"picture")),
    ],
)
def test_one_string_is_not_many(client: Any, server: SmallServer, call: Any) -> None:
    with pytest.raises(TypeError, match=r"are many, and this is one (str|bytes); put it into a list"):
        call(client)
    assert server.calls == []


def test_update_replaces_or_merges(client: Any, server: SmallServer) -> None:
    stored(server, "a")
    assert client.update("a", {"x": 1, "y": 2}).metadata == {"x": 1, "y": 2}
    assert client.update("a", {"x": 3, "y": None, "z": "new"}, merge=True).metadata == {"x": 3, "z": "new"}
    asked = len(server.asked("UpdateImage"))
    assert client.update("a", {}, merge=True).metadata == {"x": 3, "z": "new"}
    assert len(server.asked("UpdateImage")) == asked
    assert client.update("a", {"y": None}).metadata == {"y": None}


def test_delete_takes_one_id_or_many(client: Any, server: SmallServer) -> None:
    stored(server, "abc", *"abcdef")
    assert client.delete("abc").count == 1
    deleted = client.delete("abzcdef")
    assert deleted.count == 0  # A string is one id.
    assert deleted.missing == ("abzcdef",)
    deleted = client.delete(list("abzcdef"))
    assert (deleted.count, deleted.missing) == (6, ("z",))
    assert server.images == {}


def test_list_pages_to_the_end_over_empty_pages(client: Any, server: SmallServer) -> None:
    stored(server, *"abcde")
    images = list(client.list(filter="width > 1", page_size=2, with_thumbnails=True, collection="pets"))
    assert [image.image_id for image in images] == list("abcde")
    assert all(image.thumbnail for image in images)
    requests = server.asked("ListImages")
    assert len(requests) == 5
    assert {(request.filter, request.page_size, request.collection) for request in requests} == {
        ("width > 1", 2, "pets")
    }
    first = client.list()
    assert next(first).image_id == "a"
    first.close()
    assert len(server.asked("ListImages")) == 6


def test_download(client: Any, server: SmallServer, tmp_path: Path) -> None:
    server.store(DATA, "big")
    assert client.download("big") == DATA
    path = tmp_path / "big.png"
    path.write_bytes(b"what was there")
    assert client.download_to("big", path).image_id == "big"
    assert path.read_bytes() == DATA
    assert list(tmp_path.iterdir()) == [path]
    longest = tmp_path / ("n" * 255)
    client.download_to("big", longest)
    assert longest.read_bytes() == DATA
    with pytest.raises(NotFoundError):
        client.download("nothing")


@pytest.mark.parametrize("there", [True, False])
def test_a_download_goes_to_what_a_link_leads_to(client: Any, server: SmallServer, tmp_path: Path, there: bool) -> None:
    server.store(DATA, "big")
    (tmp_path / "disk").mkdir()
    file, link = tmp_path / "disk/big.png", tmp_path / "link.png"
    if there:
        file.write_bytes(b"what was there")
    link.symlink_to("disk/big.png")
    client.download_to("big", link)
    assert link.is_symlink()
    assert not file.is_symlink()
    assert file.read_bytes() == DATA
    assert sorted(tmp_path.rglob("*")) == [file.parent, file, link]


@pytest.mark.parametrize(
    ("make", "kind", "said"),
    [
        (os.mkfifo, ValueError, "is a device, a pipe or a socket"),
        (lambda path: path.symlink_to(os.devnull), ValueError, "is a device, a pipe or a socket"),
        (lambda path: path.symlink_to(path), OSError, "symbolic links"),
        (Path.mkdir, IsADirectoryError, "is a folder"),
    ],
)
def test_a_download_replaces_nothing_but_files(
    client: Any, server: SmallServer, tmp_path: Path, make: Callable[[Path], None], kind: type[Exception], said: str
) -> None:
    server.store(DATA, "big")
    path = tmp_path / "big.png"
    make(path)
    before = path.lstat()
    with pytest.raises(kind, match=said):
        client.download_to("big", path)
    assert list(tmp_path.iterdir()) == [path]
    assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert server.calls == []


def test_a_download_may_have_any_request_id(client: Any, server: SmallServer, tmp_path: Path) -> None:
    server.store(DATA, "big")
    client.download_to("big", tmp_path / "big.png", request_id="svc/17")
    assert (tmp_path / "big.png").read_bytes() == DATA
    assert [request_id for *_, request_id in server.calls] == ["svc/17"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda chunks: chunks[:-1],
        lambda chunks: [*chunks, b"x"],
        lambda chunks: [*chunks[:-1], b"\0" * len(chunks[-1])],
        lambda chunks: [],
    ],
)
def test_a_damaged_download_is_an_error_and_leaves_no_file(
    client: Any, server: SmallServer, tmp_path: Path, damage: Any
) -> None:
    server.store(DATA, "big")
    server.damage = damage
    with pytest.raises(InternalError, match="damaged download"):
        client.download("big")
    path = tmp_path / "big.png"
    path.write_bytes(b"what was there")
    with pytest.raises(InternalError, match="damaged download"):
        client.download_to("big", path)
    assert path.read_bytes() == b"what was there"
    assert list(tmp_path.iterdir()) == [path]


def test_embedding(client: Any, server: SmallServer) -> None:
    assert client.embed_text("four").values == (4.0, 0.0)
    with pytest.raises(InvalidArgumentError, match="blank") as caught:
        client.embed_text("  ")
    assert caught.value.reason == "INVALID_FIELD"
    texts = ["a", " ", "ccc", "x" * 80, "e", "ff"]
    results = client.embed_texts(texts, model="small")
    assert [result.error is None for result in results] == [True, False, True, True, True, True]
    assert [result.text_truncated for result in results] == [False, False, False, True, False, False]
    assert results[5].unwrap().values == (2.0, 0.0)
    assert [len(request.texts) for request in server.asked("EmbedText")[2:]] == [5, 1]
    assert client.embed_texts([]) == ()
    assert client.embed_image(b"12345").values == (5.0,)
    large = [b"x" * (LIMITS.max_message_bytes // 2 - 10)] * 3
    assert [result.unwrap().values[0] for result in client.embed_images(large)] == [len(large[0])] * 3


def test_a_picture_too_large_to_embed_fails_alone(client: Any, server: SmallServer) -> None:
    most = LIMITS.max_image_bytes
    sizes = [1, 2, most + 1, 2 * LIMITS.max_message_bytes, 3, most, most + 2]
    results = client.embed_images(bytes(size) for size in sizes)
    assert [result.error.reason if result.error else result.unwrap().values[0] for result in results] == [
        1,
        2,
        "IMAGE_TOO_LARGE",
        "IMAGE_TOO_LARGE",
        3,
        most,
        "IMAGE_TOO_LARGE",
    ]
    with pytest.raises(
        InvalidArgumentError, match=f"the picture has {most + 1:,} bytes, and the server takes {most:,}"
    ):
        client.embed_image(bytes(most + 1))


def test_collections(client: Any, server: SmallServer) -> None:
    stored(server, "a")
    collection = client.create_collection("pets", model="small")
    assert (collection.name, collection.image_count, collection.efforts) == ("pets", 1, ("fast", "exact"))
    live, growing = collection.generations
    assert (live.live, live.rebuild) == (True, None)
    assert growing.rebuild.phase == "embedding"
    assert server.asked("CreateCollection")[0].model == "small"
    client.create_collection("more")
    assert not server.asked("CreateCollection")[1].HasField("model")
    assert client.get_collection().name == "default"
    assert [item.name for item in client.collections()] == ["a", "b"]
    assert client.delete_collection("pets") == 1


def test_rebuild_and_check(client: Any, server: SmallServer) -> None:
    progress = list(client.rebuild("pets"))
    assert [item.phase for item in progress] == ["embedding", "done", "99"]
    assert (progress[0].rebuild_id, progress[0].images_done, progress[0].images_total) == ("r1", 1, 2)
    assert list(client.rebuild("pets", model="small"))
    assert [request.model for request in server.asked("RebuildCollection")] == ["", "small"]
    first, last = client.check("pets", verify_bytes=True)
    assert [(item.kind, item.image_id, item.message) for item in first.differences] == [("missing_bytes", "x", "gone")]
    assert (last.differences, last.images_checked) == ((), 2)
    assert server.asked("CheckCollection")[0].verify_bytes


def test_info_and_health(client: Any) -> None:
    info = client.info()
    assert info.version == "0.0.1"
    assert info.models[0].vision_providers == ("CPU",)
    assert info.index.index_params == {"M": "16"}
    assert info.limits.max_batch_ids == LIMITS.max_batch_ids
    assert info.limits.max_call_duration == 1.5
    assert set(vars(info.limits)) == set(LIMITS.DESCRIPTOR.fields_by_name)
    assert info.media_types == ("image/png",)
    assert client.health() == "serving"
    assert client.health("clipseek.v1.SearchService") == "not_serving"
    with pytest.raises(NotFoundError):
        client.health("nothing.like.it")


def test_request_ids_go_out_and_come_back_in_errors(client: Any, server: SmallServer) -> None:
    with pytest.raises(NotFoundError) as caught:
        client.get("z", request_id="mine-1")
    assert caught.value.request_id == "mine-1"
    with pytest.raises(NotFoundError) as caught:
        client.download("z")
    assert len(caught.value.request_id) == 32
    assert [request_id for _, _, request_id in server.calls] == ["mine-1", caught.value.request_id]


def test_reads_are_repeated_while_the_server_is_away(client: Any, server: SmallServer) -> None:
    stored(server, "a")
    server.failing("GetImage", Failure(StatusCode.UNAVAILABLE), Failure(StatusCode.UNAVAILABLE))
    assert client.get("a").image_id == "a"
    assert len(server.asked("GetImage")) == 3


def test_reads_with_large_pictures_are_repeated_as_others_are(client: Any, server: SmallServer) -> None:
    # gRPC keeps 256 KB for a second try unless told otherwise.
    server.failing("SearchByImage", *[Failure(StatusCode.UNAVAILABLE)] * 3)
    client.search_image(b"x" * 1_000_000)
    assert server.tries_before[-4:] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("method", "arguments", "code", "error"),
    [
        ("Insert", ("fail_if_there", b"picture"), StatusCode.UNAVAILABLE, ConnectionLostError),
        ("CreateCollection", ("create_collection", "a"), StatusCode.UNAVAILABLE, ConnectionLostError),
        ("DeleteCollection", ("delete_collection", "a"), StatusCode.UNAVAILABLE, ConnectionLostError),
        ("GetImage", ("get", "a"), StatusCode.INTERNAL, InternalError),
    ],
)
def test_nothing_else_is_repeated(
    client: Any,
    server: SmallServer,
    method: str,
    arguments: tuple[Any, ...],
    code: StatusCode,
    error: type[ClipseekError],
) -> None:
    server.failing(method, Failure(code))
    name, *rest = arguments
    with pytest.raises(error):
        client.insert(*rest, on_exists="fail") if name == "fail_if_there" else getattr(client, name)(*rest)
    assert len(server.asked(method)) == 1


@pytest.mark.parametrize("code", [StatusCode.UNAVAILABLE, StatusCode.CANCELLED])
def test_a_write_that_is_as_good_twice_is_sent_again_when_its_server_goes_away(
    client: Any, server: SmallServer, code: StatusCode
) -> None:
    stored(server, "a")
    server.failing("Insert", Failure(code), Failure(code))
    server.failing("UpdateImage", Failure(code))
    for on_exists in ("replace", "keep"):
        assert client.insert(b"picture", image_id="b", on_exists=on_exists).image_id == "b"
    assert client.update("a", {"n": 1}).metadata == {"n": 1}
    assert [len(server.asked(method)) for method in ("Insert", "UpdateImage")] == [4, 2]


@pytest.mark.parametrize("code", [StatusCode.UNAVAILABLE, StatusCode.CANCELLED])
def test_a_delete_is_sent_again_when_its_server_goes_away(client: Any, server: SmallServer, code: StatusCode) -> None:
    stored(server, "a", "b")
    server.failing("BatchDeleteImages", Failure(code))
    deleted = client.delete(["a", "z"])
    assert (deleted.count, deleted.missing) == (1, ("z",))
    # All was done, and the answer is lost: what this very call deleted is missing the second time.
    server.failing("BatchDeleteImages done", Failure(code))
    deleted = client.delete("b")
    assert (deleted.count, deleted.missing) == (0, ("b",))
    assert server.images == {}
    assert len(server.asked("BatchDeleteImages")) == 4


def test_a_server_that_went_away_may_be_unreachable_for_a_while(client: Any, server: SmallServer) -> None:
    away = Failure(StatusCode.UNAVAILABLE, "failed to connect to all addresses")
    server.failing("Insert", Failure(StatusCode.UNAVAILABLE), away, away)
    assert client.insert(b"picture", image_id="a").outcome == "created"
    assert len(server.asked("Insert")) == 4
    # Who was never there is not waited for.
    server.failing("UpdateImage", away)
    with pytest.raises(UnavailableError, match="no server answers"):
        client.update("a", {"n": 1})
    assert len(server.asked("UpdateImage")) == 1


def _info(reason: str) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=reason, domain="clipseek")


def test_what_a_server_did_not_begin_is_sent_again(client: Any, server: SmallServer) -> None:
    stopping = Failure(StatusCode.UNAVAILABLE, details=(_info("NOT_SERVING"),))
    server.failing("Insert", stopping)
    server.failing("BatchDeleteImages", stopping)
    assert client.insert(b"picture", image_id="a", on_exists="fail").outcome == "created"
    assert client.delete("a").count == 1


def test_what_a_server_will_not_do_now_is_left_to_the_caller(client: Any, server: SmallServer) -> None:
    server.failing("Insert", Failure(StatusCode.UNAVAILABLE, details=(_info("COLLECTION_HELD"),)))
    with pytest.raises(UnavailableError) as caught:
        client.insert(b"picture")
    assert caught.value.reason == "COLLECTION_HELD"
    assert len(server.asked("Insert")) == 1


def test_a_server_that_never_answers_is_given_up(connect: Any, server: SmallServer) -> None:
    server.failing("Insert", *[Failure(StatusCode.UNAVAILABLE)] * 100)
    with pytest.raises(ClipseekError):
        connect(server.address).insert(b"picture", timeout=0.5)
    assert 1 < len(server.asked("Insert")) < 20


def test_a_download_begins_again_when_its_server_goes_away(client: Any, server: SmallServer, tmp_path: Path) -> None:
    server.store(DATA, "big")
    for download in (client.download, lambda image_id: client.download_to(image_id, tmp_path / "big")):
        server.failing("DownloadImage", Failure(StatusCode.UNAVAILABLE))
        server.failing("DownloadImage chunk", Failure(StatusCode.UNAVAILABLE))
        assert download("big")
    assert (tmp_path / "big").read_bytes() == client.download("big") == DATA
    assert len(server.asked("DownloadImage")) == 7


def test_deadlines(connect: Any, server: SmallServer) -> None:
    server.gated = frozenset({"GetImage", "DownloadImage"})
    patient = connect(server.address)
    with pytest.raises(DeadlineExceededError, match="did not answer in time") as caught:
        patient.get("a", timeout=0.1)
    assert caught.value.code is StatusCode.DEADLINE_EXCEEDED
    with pytest.raises(DeadlineExceededError):
        patient.download("a", timeout=0.1)
    hasty = connect(server.address, timeout=0.1)
    with pytest.raises(DeadlineExceededError):
        hasty.get("a")
    threading.Timer(0.3, server.gate.set).start()
    with pytest.raises(NotFoundError):
        hasty.get("a", timeout=float("inf"))


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.get_many(["a"], timeout=0.2),
        lambda client: client.delete("a", timeout=0.2),
        lambda client: client.embed_text("a cat", timeout=0.2),
        lambda client: client.embed_image(b"picture", timeout=0.2),
        lambda client: list(client.insert_stream([b"picture"], timeout=0.2)),
    ],
)
@pytest.mark.parametrize("default", [60, None])
def test_the_deadline_holds_for_what_a_call_asks_first(
    connect: Any, server: SmallServer, call: Any, default: float | None
) -> None:
    server.gated = frozenset({"GetServerInfo"})
    with pytest.raises(DeadlineExceededError):
        call(connect(server.address, timeout=default))


def test_who_stores_many_waits_for_the_limits_as_for_a_call(connect: Any, server: SmallServer) -> None:
    server.gated = frozenset({"GetServerInfo"})
    with pytest.raises(DeadlineExceededError):
        list(connect(server.address, timeout=0.2).insert_stream([b"picture"]))


@pytest.mark.parametrize(
    ("method", "call"),
    [
        ("BatchGetImages", lambda client, **given: client.get_many(map(str, range(40)), **given)),
        ("BatchDeleteImages", lambda client, **given: client.delete(map(str, range(40)), **given)),
        ("EmbedText", lambda client, **given: client.embed_texts(map(str, range(50)), **given)),
        ("EmbedImage", lambda client, **given: client.embed_images([b"picture"] * 50, **given)),
    ],
)
def test_all_requests_of_a_call_share_its_deadline(connect: Any, server: SmallServer, method: str, call: Any) -> None:
    server.slow = 0.1
    with pytest.raises(DeadlineExceededError):
        call(connect(server.address), timeout=0.5)
    # All ten take a second; how many are begun in half of one depends on the machine.
    assert len(server.asked(method)) < 10
    with pytest.raises(DeadlineExceededError):
        call(connect(server.address, timeout=0.5))
    server.calls.clear()
    server.slow = 0.0
    call(connect(server.address, timeout=0.1), timeout=float("inf"))
    assert len(server.asked(method)) == 10


@pytest.mark.parametrize("timeout", [0, -1])
def test_no_time_at_all(client: Any, server: SmallServer, timeout: float) -> None:
    for _ in range(20):
        with pytest.raises(DeadlineExceededError):
            client.info(timeout=timeout)
        with pytest.raises(DeadlineExceededError):
            client.download("a", timeout=timeout)
    assert server.calls == []


def test_nobody_there(connect: Any, unused_tcp_port: int) -> None:
    client = connect(f"grpc://127.0.0.1:{unused_tcp_port}/")
    with pytest.raises(UnavailableError) as caught:
        client.info()
    assert f"no server answers at grpc://127.0.0.1:{unused_tcp_port}/" in caught.value.message
    assert "clipseek-server serve" in caught.value.message
    with pytest.raises(UnavailableError):
        list(client.insert_stream([b"picture"]))


def test_a_message_that_is_too_large_is_no_overload(client: Any, server: SmallServer) -> None:
    huge = b"x" * 3_000_000
    calls = lambda: client.insert(huge), lambda: client.search_image(huge), lambda: client.search(Term.picture(huge))
    for call in calls:
        with pytest.raises(InvalidArgumentError) as caught:
            call()
        assert f"bytes, and {server.address} takes at most 2,097,152" in caught.value.message
        assert caught.value.message.startswith("the request has 3,000,0")


def test_an_answer_that_is_too_large_says_what_to_do(connect: Any, server: SmallServer) -> None:
    for number in range(50):
        server.store(bytes([number]), str(number), metadata={"note": "x" * 100_000})
    with pytest.raises(InvalidArgumentError) as caught:
        connect(server.address).search_text("a cat", top_k=50)
    assert caught.value.message.startswith("the answer has 5,0")
    assert "takes at most 4,194,304; ask for less" in caught.value.message
    larger = connect(server.address, options=[("grpc.max_receive_message_length", 10_000_000)])
    assert len(larger.search_text("a cat", top_k=50)) == 50


@pytest.mark.parametrize("address", ["", "http://127.0.0.1:1", "grpc://"])
def test_addresses_that_are_none(connect: Any, address: str) -> None:
    with pytest.raises(ValueError, match="address"):
        connect(address)


def test_nothing_is_sent_twice_to_who_wants_that(server: SmallServer) -> None:
    server.failing("Insert", Failure(StatusCode.UNAVAILABLE))
    with Client(server.address, options=[("grpc.enable_retries", 0)]) as once, pytest.raises(ConnectionLostError):
        once.insert(b"picture")
    assert len(server.asked("Insert")) == 1
