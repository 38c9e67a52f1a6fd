"""Every row of the design's table of errors, provoked by real calls and read from the wire."""

import base64
import hashlib
import io
import json
import shutil
import struct
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Struct
from PIL import Image

from clipseek import (
    AlreadyExistsError,
    Client,
    ClipseekError,
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    OverloadedError,
    Term,
)
from clipseek.v1 import collection_service_pb2, embedding_service_pb2, image_pb2, search_service_pb2
from clipseek.v1.collection_service_pb2_grpc import CollectionServiceStub
from clipseek.v1.embedding_service_pb2_grpc import EmbeddingServiceStub
from clipseek.v1.search_service_pb2_grpc import SearchServiceStub
from clipseek_server.catalog.interfaces import CollectionIndex
from clipseek_server.catalog.page_tokens import PagePosition
from clipseek_server.config import Settings
from clipseek_server.index.vector_index import VectorIndex
from open_server import OpenServer
from pictures import picture
from raw_calls import call_raw, refused, stream_raw
from servers import ServerThread

INVALID = grpc.StatusCode.INVALID_ARGUMENT
METHODS = [
    f"{service.name}/{method.name}"
    for module in (search_service_pb2, embedding_service_pb2, collection_service_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if not method.client_streaming
] + ["AdminService/RebuildCollection", "AdminService/CheckCollection", "InfoService/GetServerInfo"]
STREAMING = {"SearchService/DownloadImage", "AdminService/RebuildCollection", "AdminService/CheckCollection"}


def bomb(side: int = 60_000) -> bytes:
    """A PNG of some hundred bytes whose header promises billions of pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")
    )


def pcx() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PCX")
    return file.getvalue()


BAD_PICTURES = {
    "empty": (b"", "INVALID_IMAGE"),
    "text": (b"this is no picture", "INVALID_IMAGE"),
    "truncated": (picture(1, format="JPEG")[:300], "INVALID_IMAGE"),
    "header-only": (picture(1)[:20], "INVALID_IMAGE"),
    "fake": (b"\x89PNG\r\n\x1a\n" + bytes(200), "INVALID_IMAGE"),
    "unsupported": (pcx(), "INVALID_IMAGE"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "INVALID_IMAGE"),
    "bomb": (bomb(), "IMAGE_TOO_LARGE"),
    "bytes": (b"\xff" * (31 * 1024 * 1024), "IMAGE_TOO_LARGE"),
}


@pytest.fixture
def channel(server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as connected:
        yield connected


@pytest.fixture
def search(channel) -> SearchServiceStub:
    return SearchServiceStub(channel)


@pytest.fixture
def filled(client, collection) -> str:
    """A collection with the picture ``a``."""
    client.insert(picture(1), image_id="a", collection=collection)
    return collection


@pytest.fixture
def open_server(bundle, tmp_path) -> Iterator[OpenServer]:
    """A server of its own for one test, small in every way."""
    settings = Settings(
        listen="127.0.0.1:0",
        bundles=[bundle],
        data_dir=tmp_path / "data",
        queue_length=1,
        max_bulk_streams=1,
        text_batch=1,
        vision_batch=1,
    )
    with OpenServer(settings) as running:
        yield running


@pytest.fixture
def open_client(open_server) -> Iterator[Client]:
    with Client(open_server.address) as connected:
        yield connected


# Pictures.


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_bad_pictures_are_refused_with_the_field(search, collection, name):
    data, reason = BAD_PICTURES[name]
    with refused(INVALID, reason) as caught:
        search.Insert(search_service_pb2.InsertRequest(collection=collection, image_data=data))
    assert caught.refusal.field == "image_data"


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_bad_pictures_of_searches_are_refused_with_the_field(search, filled, name):
    data, reason = BAD_PICTURES[name]
    with refused(INVALID, reason) as caught:
        search.SearchByImage(search_service_pb2.SearchByImageRequest(collection=filled, image_data=data))
    assert caught.refusal.field == "image_data"
    terms = [search_service_pb2.SearchTerm(text="a"), search_service_pb2.SearchTerm(image_data=data)]
    with refused(INVALID, reason) as caught:
        search.Search(search_service_pb2.SearchRequest(collection=filled, terms=terms))
    assert caught.refusal.field == "terms[1].image_data"


def test_a_bad_picture_leaves_no_record(client, collection):
    with pytest.raises(InvalidArgumentError):
        client.insert(b"no picture", collection=collection)
    with suppress(NotFoundError):  # not even made
        assert client.get_collection(collection).image_count == 0


def test_pictures_that_fail_in_a_batch_fail_alone(client):
    results = client.embed_images([picture(1), b"no picture", bomb(), picture(2)])
    assert [result.error.reason if result.error else "" for result in results] == [
        "",
        "INVALID_IMAGE",
        "IMAGE_TOO_LARGE",
        "",
    ]
    assert all(result.error.code is INVALID for result in results if result.error)


def test_a_bomb_is_refused_by_its_header(client):
    assert len(bomb()) < 500
    with pytest.raises(InvalidArgumentError, match="60000 x 60000") as caught:
        client.insert(bomb())
    assert caught.value.metadata["max_pixels"] == "100000000"


# Fields.

Request = search_service_pb2
BAD_REQUESTS: dict[str, tuple[str, object, str]] = {
    "empty-query": ("SearchByText", Request.SearchByTextRequest(), "text"),
    "blank-query": ("SearchByText", Request.SearchByTextRequest(text=" \n\t "), "text"),
    "long-query": ("SearchByText", Request.SearchByTextRequest(text="a" * 10_001), "text"),
    "collection": ("SearchByText", Request.SearchByTextRequest(text="a", collection="Aa"), "collection"),
    "collection-long": ("Insert", Request.InsertRequest(image_data=picture(1), collection="a" * 64), "collection"),
    "collection-path": ("Insert", Request.InsertRequest(image_data=picture(1), collection="../a"), "collection"),
    "collection-newline": ("GetImage", Request.GetImageRequest(image_id="a", collection="a\n"), "collection"),
    "id": ("Insert", Request.InsertRequest(image_data=picture(1), image_id="a b"), "image_id"),
    "id-empty": ("Insert", Request.InsertRequest(image_data=picture(1), image_id=""), "image_id"),
    "id-quote": ("GetImage", Request.GetImageRequest(image_id='a" or 1==1'), "image_id"),
    "id-long": ("GetImage", Request.GetImageRequest(image_id="a" * 129), "image_id"),
    "id-newline": ("GetImage", Request.GetImageRequest(image_id="a\n"), "image_id"),
    "id-hash": ("Insert", Request.InsertRequest(image_data=picture(1), image_id="0" * 64), "image_id"),
    "ids-none": ("BatchGetImages", Request.BatchGetImagesRequest(), "image_ids"),
    "ids-many": ("BatchDeleteImages", Request.BatchDeleteImagesRequest(image_ids=["a"] * 1001), "image_ids"),
    "ids-one-bad": ("BatchGetImages", Request.BatchGetImagesRequest(image_ids=["a", ""]), "image_ids[1]"),
    "ids-many-mask": (
        "BatchGetImages",
        Request.BatchGetImagesRequest(image_ids=["a"] * 101, read_mask=FieldMask(paths=["thumbnail"])),
        "image_ids",
    ),
    "no-source": ("SearchByImage", Request.SearchByImageRequest(), "source"),
    "no-terms": ("Search", Request.SearchRequest(), "terms"),
    "many-terms": ("Search", Request.SearchRequest(terms=[Request.SearchTerm(text="a")] * 17), "terms"),
    "empty-term": ("Search", Request.SearchRequest(terms=[Request.SearchTerm()]), "terms[0]"),
    "blank-term": (
        "Search",
        Request.SearchRequest(terms=[Request.SearchTerm(text="a"), Request.SearchTerm(text=" ")]),
        "terms[1].text",
    ),
    "zero-weight": ("Search", Request.SearchRequest(terms=[Request.SearchTerm(text="a", weight=0)]), "terms[0].weight"),
    "nan-weight": (
        "Search",
        Request.SearchRequest(terms=[Request.SearchTerm(text="a", weight=float("nan"))]),
        "terms[0].weight",
    ),
    "term-id": ("Search", Request.SearchRequest(terms=[Request.SearchTerm(image_id="a b")]), "terms[0].image_id"),
    "mask": ("GetImage", Request.GetImageRequest(image_id="a", read_mask=FieldMask(paths=["vector"])), "read_mask"),
    "update-mask": (
        "UpdateImage",
        Request.UpdateImageRequest(image_id="a", update_mask=FieldMask(paths=["width"])),
        "update_mask",
    ),
    "consistency": ("GetImage", Request.GetImageRequest(image_id="a", consistency=7), "consistency"),
    "on-exists": ("Insert", Request.InsertRequest(image_data=picture(1), on_exists=9), "on_exists"),
    "page-size": ("ListImages", Request.ListImagesRequest(page_size=-1), "page_size"),
    "page-size-large": ("ListImages", Request.ListImagesRequest(page_size=1001), "page_size"),
    "page-size-mask": (
        "ListImages",
        Request.ListImagesRequest(page_size=101, read_mask=FieldMask(paths=["embedding"])),
        "page_size",
    ),
    "list-filter": ("ListImages", Request.ListImagesRequest(filter="1 == 1"), "filter"),
}
BAD_OPTIONS: dict[str, tuple[search_service_pb2.SearchOptions, str]] = {
    "top-k": (Request.SearchOptions(top_k=-1), "options.top_k"),
    "top-k-large": (Request.SearchOptions(top_k=1001), "options.top_k"),
    "top-k-mask": (Request.SearchOptions(top_k=101, read_mask=FieldMask(paths=["thumbnail"])), "options.top_k"),
    "offset": (Request.SearchOptions(offset=-1), "options.offset"),
    "offset-large": (Request.SearchOptions(offset=9_996), "options.offset"),
    "offset-largest": (Request.SearchOptions(offset=2**31 - 1, top_k=1000), "options.offset"),
    "min-score": (Request.SearchOptions(min_score=1.5), "options.min_score"),
    "min-score-nan": (Request.SearchOptions(min_score=float("nan")), "options.min_score"),
    "effort": (Request.SearchOptions(effort=99), "options.effort"),
    "consistency": (Request.SearchOptions(consistency=99), "options.consistency"),
    "mask": (Request.SearchOptions(read_mask=FieldMask(paths=["thumbnail", "metadata"])), "options.read_mask"),
    "filter": (Request.SearchOptions(filter="metadata.a == "), "options.filter"),
    "filter-long": (Request.SearchOptions(filter="width > 1 or " * 400 + "width > 1"), "options.filter"),
    "filter-deep": (Request.SearchOptions(filter="(" * 4000), "options.filter"),
    "filter-out": (Request.SearchOptions(filter='image_id == "a" or 1==1'), "options.filter"),
}


def reason_of(field: str) -> str:
    return "INVALID_FILTER" if field.endswith("filter") else "INVALID_FIELD"


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_bad_fields_are_named(search, filled, name):
    method, request, field = BAD_REQUESTS[name]
    if not request.collection:
        request = type(request).FromString(request.SerializeToString())
        request.collection = filled
    with refused(INVALID, reason_of(field)) as caught:
        getattr(search, method)(request)
    assert caught.refusal.field == field


@pytest.mark.parametrize("name", BAD_OPTIONS)
@pytest.mark.parametrize("method", ["SearchByText", "SearchByImage", "Search"])
def test_bad_options_are_named(search, filled, method, name):
    options, field = BAD_OPTIONS[name]
    request = {
        "SearchByText": Request.SearchByTextRequest(text="a"),
        "SearchByImage": Request.SearchByImageRequest(image_id="a"),
        "Search": Request.SearchRequest(terms=[Request.SearchTerm(text="a")]),
    }[method]
    request.collection = filled
    request.options.CopyFrom(options)
    with refused(INVALID, reason_of(field)) as caught:
        getattr(search, method)(request)
    assert caught.refusal.field == field


BAD_METADATA: dict[str, tuple[dict[str, object], str]] = {
    "key": ({"a b": 1}, "metadata"),
    "key-empty": ({"": 1}, "metadata"),
    "key-long": ({"a" * 65: 1}, "metadata"),
    "key-nested": ({"a": {"b": {"1c": 1}}}, "metadata.a.b"),
    "infinite": ({"a": {"b": float("inf")}}, "metadata.a.b"),
    "nan-in-list": ({"a": [1, float("nan")]}, "metadata.a"),
    "large": ({"a": "x" * 2100}, "metadata"),
}


@pytest.mark.parametrize("name", BAD_METADATA)
def test_bad_metadata_is_named(search, filled, name):
    values, field = BAD_METADATA[name]
    metadata = Struct()
    metadata.update(values)
    with refused(INVALID, "INVALID_FIELD") as caught:
        search.Insert(Request.InsertRequest(collection=filled, image_data=picture(1), metadata=metadata))
    assert caught.refusal.field == field
    with refused(INVALID, "INVALID_FIELD"):
        search.UpdateImage(Request.UpdateImageRequest(collection=filled, image_id="a", metadata=metadata))


def nested(depth: int) -> bytes:
    """A Struct's bytes; protobuf's own encoder ends where its decoder does."""
    metadata = b""
    for _ in range(depth):
        value = _field(5, metadata)
        metadata = _field(1, _field(1, b"a") + _field(2, value))
    return metadata


def _field(number: int, content: bytes) -> bytes:
    length, size = len(content), b""
    while length >= 0x80:
        size += bytes([length & 0x7F | 0x80])
        length >>= 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + content


@pytest.mark.parametrize(
    ("depth", "reason"),
    [(15, None), (17, "INVALID_FIELD"), (30, "INVALID_FIELD"), (60, "MALFORMED_MESSAGE"), (3000, "MALFORMED_MESSAGE")],
)
def test_deeply_nested_metadata(channel, filled, depth, reason):
    request = Request.InsertRequest(collection=filled, image_data=picture(1), image_id="deep").SerializeToString()
    message = request + _field(4, nested(depth))
    if reason is None:
        call_raw(channel, "SearchService/Insert", [message])
        return
    with refused(INVALID, reason):
        call_raw(channel, "SearchService/Insert", [message])


def test_a_page_token_of_another_collection_filter_or_none_at_all(client, channel, search, collection):
    other = f"{collection}_b"
    for name in (collection, other):
        for number in range(3):
            client.insert(picture(1), image_id=f"a{number}", collection=name)
    token = search.ListImages(Request.ListImagesRequest(collection=collection, page_size=1)).next_page_token
    assert token
    _, uid, mark = json.loads(base64.urlsafe_b64decode(token))
    for request in (
        Request.ListImagesRequest(collection=other, page_token=token),
        Request.ListImagesRequest(collection=collection, page_token=token, filter="width > 1"),
        Request.ListImagesRequest(collection=collection, page_token="nonsense"),
        Request.ListImagesRequest(collection=collection, page_token="🙂"),
        Request.ListImagesRequest(collection=collection, page_token=token[:-4]),
        Request.ListImagesRequest(collection=collection, page_token="W1tbW1tb" * 1000),
        Request.ListImagesRequest(collection=collection, page_token=PagePosition('"', uid, mark).format()),
    ):
        with refused(INVALID, "INVALID_FIELD") as caught:
            search.ListImages(request)
        assert caught.refusal.field == "page_token"
    with refused(INVALID, "INVALID_FIELD") as caught:
        CollectionServiceStub(channel).ListCollections(collection_service_pb2.ListCollectionsRequest(page_token=token))
    assert caught.refusal.field == "page_token"


def test_a_page_token_of_a_collection_that_was_dropped_and_made_again(client, search, collection):
    for _ in range(2):
        for number in range(2):
            client.insert(picture(1), image_id=f"a{number}", collection=collection)
        token = search.ListImages(Request.ListImagesRequest(collection=collection, page_size=1)).next_page_token
        client.delete_collection(collection)
    client.create_collection(collection)
    with refused(INVALID, "INVALID_FIELD"):
        search.ListImages(Request.ListImagesRequest(collection=collection, page_token=token))


# Messages.


def any_method(channel: grpc.Channel, method: str, messages: list[bytes]) -> None:
    if method in STREAMING:
        list(stream_raw(channel, method, messages))
    else:
        call_raw(channel, method, messages)


@pytest.mark.parametrize("method", METHODS)
def test_malformed_none_and_two_messages(channel, method):
    for messages in ([b"\xff\xff\xff"], [b"\x0a\x05a"], [], [b"", b""]):
        with refused(INVALID, "MALFORMED_MESSAGE") as caught:
            any_method(channel, method, messages)
        assert "0x" not in caught.refusal.message
        assert "class" not in caught.refusal.message


def test_an_unknown_method_and_an_unknown_service(channel):
    for method in ("SearchService/Nothing", "NoService/Insert"):
        with pytest.raises(grpc.RpcError) as caught:
            call_raw(channel, method, [b""])
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_message_can_quote_the_request_only_so_far_that_it_arrives(channel, filled):
    # Trailers of more than 8 KB never reach a client, and each of these characters is 12 bytes in a status message.
    text = "😀" * 4000
    with refused(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"):
        EmbeddingServiceStub(channel).EmbedText(embedding_service_pb2.EmbedTextRequest(texts=["a"], model=text))
    search = SearchServiceStub(channel)
    for request in (
        Request.ListImagesRequest(collection=filled, filter=text),
        Request.ListImagesRequest(collection=text),
        Request.ListImagesRequest(collection=filled, read_mask=FieldMask(paths=[text])),
    ):
        with refused(INVALID, "INVALID_FILTER" if request.filter else "INVALID_FIELD"):
            search.ListImages(request)
    deep: dict[str, object] = {"a": 1, "\U000e0001" * 4000: 1}
    for _ in range(14):
        deep = {"k" * 64: deep}
    metadata = Struct()
    metadata.update(deep)
    with refused(INVALID, "INVALID_FIELD"):
        search.UpdateImage(Request.UpdateImageRequest(collection=filled, image_id="a", metadata=metadata))


# What is not there, and what is.


def test_unknown_images_and_collections(client, search, filled):
    for call in (
        lambda: search.GetImage(Request.GetImageRequest(collection=filled, image_id="b")),
        lambda: search.UpdateImage(Request.UpdateImageRequest(collection=filled, image_id="b")),
        lambda: list(search.DownloadImage(Request.DownloadImageRequest(collection=filled, image_id="b"))),
        lambda: search.SearchByImage(Request.SearchByImageRequest(collection=filled, image_id="b")),
        lambda: search.Search(Request.SearchRequest(collection=filled, terms=[Request.SearchTerm(image_id="b")])),
    ):
        with refused(grpc.StatusCode.NOT_FOUND, "IMAGE_NOT_FOUND") as caught:
            call()
        assert caught.refusal.metadata == {"collection": filled, "image_id": "b"}
    for call in (
        lambda: client.get("a", collection="nowhere"),
        lambda: client.get_many(["a"], collection="nowhere"),
        lambda: client.update("a", {}, collection="nowhere"),
        lambda: client.delete("a", collection="nowhere"),
        lambda: list(client.list(collection="nowhere")),
        lambda: client.download("a", collection="nowhere"),
        lambda: client.search_text("a", collection="nowhere"),
        lambda: client.search_image(picture(1), collection="nowhere"),
        lambda: client.search(Term.text("a"), collection="nowhere"),
        lambda: client.get_collection("nowhere"),
        lambda: client.delete_collection("nowhere"),
        lambda: list(client.rebuild("nowhere")),
        lambda: list(client.check("nowhere")),
    ):
        with pytest.raises(NotFoundError) as unknown:
            call()
        assert unknown.value.reason == "COLLECTION_NOT_FOUND"
    assert "nowhere" not in [each.name for each in client.collections()]


def test_unknown_models(client, collection):
    for call in (
        lambda: client.create_collection(collection, model="no/such"),
        lambda: client.embed_text("a", model="no/such"),
        lambda: client.embed_image(picture(1), model="no/such"),
    ):
        with pytest.raises(NotFoundError) as caught:
            call()
        assert caught.value.reason == "MODEL_NOT_FOUND"
        assert caught.value.metadata == {"model": "no/such"}
        assert client.info().models[0].name in caught.value.message


def test_what_exists_already(client, search, filled):
    stored = hashlib.sha256(picture(1)).hexdigest()
    for seed in (1, 2):
        with refused(grpc.StatusCode.ALREADY_EXISTS, "IMAGE_EXISTS") as caught:
            search.Insert(
                Request.InsertRequest(
                    collection=filled,
                    image_data=picture(seed),
                    image_id="a",
                    on_exists=image_pb2.ON_EXISTS_FAIL,
                )
            )
        assert caught.refusal.metadata == {"image_id": "a", "content_sha256": stored}
    with pytest.raises(AlreadyExistsError) as exists:
        client.create_collection(filled)
    assert (exists.value.reason, exists.value.metadata) == ("COLLECTION_EXISTS", {"collection": filled})


def test_terms_that_have_no_direction(client, filled):
    dimension = client.get_collection(filled).dimension
    unit = [1.0] + [0.0] * (dimension - 1)
    for values, words in (
        ([0.0] * dimension, "longer than"),
        ([float("nan")] * dimension, "finite"),
        ([float("inf")] * dimension, "finite"),
        ([3e38] * dimension, ""),
        (unit[:-1], f"{dimension - 1} values"),
        ([], "0 values"),
    ):
        if words:
            with pytest.raises(InvalidArgumentError, match=words) as caught:
                client.search(Term.embedding(values), collection=filled)
            assert caught.value.field == "terms[0].embedding"
        else:
            assert client.search(Term.embedding(values), collection=filled)[0].image_id == "a"
    with pytest.raises(InvalidArgumentError, match="cancel") as caught:
        client.search(Term.embedding(unit), Term.embedding(unit, weight=-1), collection=filled)
    assert caught.value.field == "terms"


def test_a_vector_of_another_space(client, filled):
    model = client.get_collection(filled).model
    values = client.embed_text("a").values
    assert client.search(Term.embedding(values, space_id=model.space_id), collection=filled)
    with pytest.raises(FailedPreconditionError) as caught:
        client.search(Term.embedding(values, space_id="f" * 64), collection=filled)
    assert caught.value.reason == "SPACE_MISMATCH"
    assert caught.value.metadata["collection_space_id"] == model.space_id
    assert caught.value.metadata["embedding_space_id"] == "f" * 64


def test_a_collection_of_another_space(bundle, other_bundle, tmp_path):
    settings = Settings(listen="127.0.0.1:0", bundles=[other_bundle], data_dir=tmp_path / "data")
    with ServerThread(settings) as running, Client(running.address) as client:
        inserted = client.insert(picture(1), image_id="a", metadata={"n": 1})
        theirs = client.info().models[0].space_id
    with ServerThread(settings.model_copy(update={"bundles": [bundle]})) as running, Client(running.address) as client:
        ours = client.info().models[0].space_id
        assert ours != theirs
        [bulk] = client.insert_stream([picture(2)])
        for call in (
            lambda: client.insert(picture(2)),
            lambda: client.search_text("a cat"),
            lambda: client.search_image(picture(1)),
            lambda: client.search(Term.text("a cat"), Term.image("a")),
            lambda: list(client.rebuild("default")),
            lambda: (_ for _ in ()).throw(bulk.error),
        ):
            with pytest.raises(FailedPreconditionError) as caught:
                call()
            assert caught.value.reason == "SPACE_MISMATCH"
            assert caught.value.metadata["collection_space_id"] == theirs
            assert caught.value.metadata["server_space_id"] == ours
        # What needs no model still works.
        assert client.get("a").metadata == {"n": 1}
        assert client.search_image(image_id="a").hits == ()
        assert client.search(Term.image("a")).hits == ()
        assert client.download("a") == picture(1)
        assert client.update("a", {"n": 2}).metadata == {"n": 2}
        described = client.get_collection()
        assert (described.model.name, described.model.space_id) == ("", inserted.model.space_id)
        assert client.insert(picture(2), collection="ours").outcome == "created"
        assert client.delete("a").count == 1


@pytest.mark.parametrize(
    ("kind", "effort", "served"),
    [("HNSW", "exact", "FAST, THOROUGH"), ("AUTOINDEX", "fast", "none"), ("AUTOINDEX", "thorough", "none")],
)
def test_an_effort_that_the_index_does_not_serve(open_server, open_client, monkeypatch, kind, effort, served):
    open_client.insert(picture(1))
    for each in open_client.get_collection().efforts:
        assert open_client.search_text("a cat", effort=each).hits
    # Memory serves all efforts; an index of a Milvus server does not. It is asked here before memory is.
    index = open_server.run(open_server.collections.read("default", itself))
    monkeypatch.setattr(index, "_vector_index", VectorIndex(kind))
    with pytest.raises(FailedPreconditionError) as caught:
        open_client.search_text("a cat", effort=effort)
    assert caught.value.reason == "EFFORT_NOT_SERVED"
    assert caught.value.metadata == {"effort": effort.upper(), "index": kind, "served": served}
    assert open_client.search_text("a cat").hits


async def itself(index: CollectionIndex) -> CollectionIndex:
    return index


# Load.


def test_a_full_queue(open_server, open_client):
    open_client.insert(picture(1))
    stub_channel = grpc.insecure_channel(open_server.address)
    with stub_channel as channel, ThreadPoolExecutor(8) as pool:
        search = SearchServiceStub(channel)
        request = Request.SearchByTextRequest(text="a cat")
        with open_server.stuck("text") as begun:
            running = pool.submit(search.SearchByText, request)
            assert begun.wait(30)
            waiting = pool.submit(search.SearchByText, request)
            open_server.until(lambda: open_server.text_tower.waiting == 1)
            with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED") as caught:
                search.SearchByText(request)
            assert "queue" in caught.refusal.message
            with pytest.raises(OverloadedError) as overloaded:
                open_client.search_text("a cat")
            assert overloaded.value.retry_after == caught.refusal.retry_after
            [embedded] = open_client.embed_texts(["a cat"])
            assert embedded.error.reason == "OVERLOADED"
            # Calls that need no text go on.
            assert open_client.info().version
            assert len(list(open_client.list())) == 1
        assert running.result().hits
        assert waiting.result().hits
    open_server.at_rest()


def test_a_deadline_that_passes_in_the_queue_costs_nothing(open_server, open_client):
    open_client.insert(picture(1))
    with ThreadPoolExecutor(8) as pool:
        with open_server.stuck("text") as begun:
            running = pool.submit(open_client.search_text, "a cat")
            assert begun.wait(30)
            with pytest.raises(DeadlineExceededError):
                open_client.search_text("a dog", timeout=0.2)
            # Its place in the queue is free again.
            waiting = pool.submit(open_client.search_text, "a cup")
            open_server.until(lambda: open_server.text_tower.waiting >= 1)
        assert running.result().hits
        assert waiting.result().hits
        seen = open_server.model._text_tower._run
        assert seen is not None
    open_server.at_rest()


def test_a_deadline_that_passed_before_the_work(bundle, tmp_path):
    # No call of this server may live longer than 5 ms, so that all pass their deadline here and not in the client.
    settings = Settings(listen="127.0.0.1:0", bundles=[bundle], data_dir=tmp_path / "data", sweep_grace=0.01)
    with OpenServer(settings) as running, grpc.insecure_channel(running.address) as channel:
        search = SearchServiceStub(channel)
        embedding = EmbeddingServiceStub(channel)
        ran = threading.Event()
        with running.stuck("text") as begun:
            texts = embedding_service_pb2.EmbedTextRequest(texts=["a"])
            # The first may come in time and blocks the tower; all that wait behind it pass their deadline.
            blocker = embedding.EmbedText.future(texts)
            late = embedding.EmbedText.future(texts)
            del begun
        for call in (blocker, late):
            [result] = call.result().results
            assert not result.HasField("error") or result.error.reason == 14

        def slow() -> Iterator[Request.InsertRequest]:
            ran.wait(0.05)
            yield Request.InsertRequest(image_data=picture(1)).SerializeToString()

        with refused(grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"):
            call_raw(channel, "SearchService/Insert", slow())
        assert not list((tmp_path / "data" / "images").glob("[!.]*"))
        with refused(grpc.StatusCode.NOT_FOUND, "COLLECTION_NOT_FOUND"):
            search.GetImage(Request.GetImageRequest(image_id="a"))
        running.at_rest()


def test_too_many_bulk_streams(open_server, open_client):
    with grpc.insecure_channel(open_server.address) as channel:
        go_on = threading.Event()

        def requests() -> Iterator[bytes]:
            yield Request.BulkInsertRequest(config=Request.BulkInsertConfig()).SerializeToString()
            go_on.wait(30)

        first = stream_raw(channel, "SearchService/BulkInsert", requests())
        open_server.until(lambda: open_server.streams._open == 1)
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED") as caught:
            list(stream_raw(channel, "SearchService/BulkInsert", []))
        assert "1 bulk stream" in caught.refusal.message
        with pytest.raises(OverloadedError):
            list(open_client.insert_stream([picture(1)], patience=0))
        # One more picture is welcome all the same.
        assert open_client.insert(picture(1)).outcome == "created"
        go_on.set()
        assert list(first) == []
    open_server.at_rest()


def test_too_many_bytes_in_flight(bundle, tmp_path):
    settings = Settings(
        listen="127.0.0.1:0",
        bundles=[bundle],
        data_dir=tmp_path / "data",
        max_message_bytes=8 * 2**20,
        max_image_bytes=4 * 2**20,
        max_bytes_in_flight=32 * 2**20,
        max_bulk_streams=2,
    )
    with OpenServer(settings) as running, grpc.insecure_channel(running.address) as channel:
        go_on = threading.Event()

        def nothing() -> Iterator[bytes]:
            go_on.wait(30)
            yield from ()

        with ThreadPoolExecutor(4) as pool:
            slow = [pool.submit(call_raw, channel, "SearchService/Insert", nothing()) for _ in range(4)]
            running.until(lambda: running.pictures.free == 0)
            with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED") as caught:
                SearchServiceStub(channel).Insert(Request.InsertRequest(image_data=picture(1)))
            assert "bytes" in caught.refusal.message
            # Messages without pictures have a budget of their own.
            EmbeddingServiceStub(channel).EmbedText(embedding_service_pb2.EmbedTextRequest(texts=["a"]))
            go_on.set()
            for each in slow:
                with refused(INVALID, "MALFORMED_MESSAGE"):
                    each.result()
        SearchServiceStub(channel).Insert(Request.InsertRequest(image_data=picture(1)))
        running.at_rest()


# Out of reach.


def test_a_collection_that_is_held(open_server, open_client):
    open_client.insert(picture(1), image_id="a")
    with ThreadPoolExecutor(1) as pool, open_server.stuck("vision") as begun:
        rebuild = pool.submit(lambda: [progress.phase for progress in open_client.rebuild()])
        assert begun.wait(30)
        with grpc.insecure_channel(open_server.address) as channel:
            search = SearchServiceStub(channel)
            for call in (
                lambda: search.Insert(Request.InsertRequest(image_data=picture(2))),
                lambda: search.UpdateImage(Request.UpdateImageRequest(image_id="a")),
                lambda: search.BatchDeleteImages(Request.BatchDeleteImagesRequest(image_ids=["a"])),
                lambda: CollectionServiceStub(channel).DeleteCollection(
                    collection_service_pb2.DeleteCollectionRequest(collection="default")
                ),
            ):
                with refused(grpc.StatusCode.UNAVAILABLE, "COLLECTION_HELD") as caught:
                    call()
                assert caught.refusal.metadata == {"collection": "default"}
            with refused(grpc.StatusCode.ALREADY_EXISTS, "COLLECTION_EXISTS"):
                CollectionServiceStub(channel).CreateCollection(
                    collection_service_pb2.CreateCollectionRequest(collection="default")
                )
        [result] = open_client.insert_stream([picture(2)], patience=0)
        assert (result.error.code, result.error.reason) == (grpc.StatusCode.UNAVAILABLE, "COLLECTION_HELD")
        # Reads go on, and so do other collections.
        assert open_client.get("a").image_id == "a"
        assert [hit.image_id for hit in open_client.search_text("a cat")] == ["a"]
        assert open_client.create_collection("other").image_count == 0
        [live, coming] = open_client.get_collection().generations
        assert (live.live, coming.live) == (True, False)
    assert rebuild.result()[-1] == "done"
    assert open_client.insert(picture(2)).outcome == "created"
    open_server.at_rest()


def test_an_image_store_that_cannot_be_written_or_read(open_server, open_client):
    open_client.insert(picture(1), image_id="a")
    images = open_server.settings.data_dir / "images"
    away = images.with_name("away")
    images.rename(away)
    images.write_text("not a folder")
    with grpc.insecure_channel(open_server.address) as channel:
        search = SearchServiceStub(channel)
        for call in (
            lambda: search.Insert(Request.InsertRequest(image_data=picture(2), image_id="b")),
            lambda: search.Insert(Request.InsertRequest(image_data=picture(1), image_id="a")),
            lambda: list(search.DownloadImage(Request.DownloadImageRequest(image_id="a"))),
        ):
            with refused(grpc.StatusCode.UNAVAILABLE, "IMAGE_STORE_UNAVAILABLE") as caught:
                call()
            assert str(open_server.settings.data_dir) not in caught.refusal.message
    [result] = open_client.insert_stream([picture(2)], patience=0)
    assert result.error.reason == "IMAGE_STORE_UNAVAILABLE"
    # Nothing half-made: the record of what could not be stored is not there, and searches go on.
    assert [hit.image_id for hit in open_client.search_text("a cat")] == ["a"]
    assert open_client.get("a", with_thumbnail=True).thumbnail in (None, b"")
    images.unlink()
    away.rename(images)
    assert open_client.download("a") == picture(1)
    assert open_client.insert(picture(2), image_id="b").outcome == "created"
    open_server.at_rest()


def test_bytes_that_are_missing_are_written_again(open_server, open_client):
    open_client.insert(picture(1), image_id="a")
    for folder in (open_server.settings.data_dir / "images").glob("[!.]*"):
        shutil.rmtree(folder)
    with pytest.raises(InternalError) as caught:
        open_client.download("a")
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.DATA_LOSS, "IMAGE_DAMAGED")
    assert caught.value.retry_after is None
    assert caught.value.metadata == {"image_id": "a"}
    assert open_client.insert(picture(1), image_id="a").outcome == "updated"
    assert open_client.download("a") == picture(1)
    assert open_client.insert(picture(1), image_id="a").outcome == "unchanged"


def test_bytes_that_are_cut_off_are_written_again(open_server, open_client):
    open_client.insert(picture(1), image_id="a")
    for file in (open_server.settings.data_dir / "images").glob("[!.]*/*/a=*"):
        file.write_bytes(b"")
    with grpc.insecure_channel(open_server.address) as channel:
        answers = SearchServiceStub(channel).DownloadImage(Request.DownloadImageRequest(image_id="a"))
        with refused(grpc.StatusCode.DATA_LOSS, "IMAGE_DAMAGED") as caught:
            next(answers)
    assert caught.refusal.metadata == {"image_id": "a"}
    assert [each.kind for report in open_client.check() for each in report.differences] == ["corrupt_bytes"]
    assert open_client.insert(picture(1), image_id="a").outcome == "updated"
    assert open_client.download("a") == picture(1)


def test_draining(open_server, open_client):
    open_client.insert(picture(1))

    async def drain() -> None:
        open_server.edge.draining.begin()

    open_server.run(drain())
    with grpc.insecure_channel(open_server.address) as channel:
        for method in METHODS:
            with refused(grpc.StatusCode.UNAVAILABLE, "NOT_SERVING"):
                any_method(channel, method, [b""])
        with refused(grpc.StatusCode.UNAVAILABLE, "NOT_SERVING"):
            list(stream_raw(channel, "SearchService/BulkInsert", []))
    open_server.at_rest()


# Bugs.


def test_a_bug_tells_its_request_id_and_nothing_else(open_server, open_client, monkeypatch, capsys):
    open_client.insert(picture(1), image_id="a")

    def broken(*_: object) -> object:
        raise RuntimeError("the secret is in /etc/shadow")

    monkeypatch.setattr(open_server.model._text_tower, "_run", broken)
    monkeypatch.setattr(open_server.model._vision_tower, "_run", broken)
    with grpc.insecure_channel(open_server.address) as channel:
        search = SearchServiceStub(channel)
        with refused(grpc.StatusCode.INTERNAL, "INTERNAL") as caught:
            search.SearchByText(Request.SearchByTextRequest(text="a"), metadata=(("x-request-id", "find-me"),))
    assert "find-me" in caught.refusal.message
    for word in ("secret", "/etc", "RuntimeError", "Traceback", ".py", "line"):
        assert word not in caught.refusal.message
    logged = capsys.readouterr()
    assert "find-me" in logged.out + logged.err
    assert "the secret" in logged.out + logged.err
    with pytest.raises(InternalError) as bug:
        open_client.search_text("a", request_id="find-me-too")
    assert "find-me-too" in bug.value.message
    [embedded] = open_client.embed_texts(["a"], request_id="and-me")
    [inserted] = open_client.insert_stream([picture(2)], request_id="me-as-well")
    for error, request_id in ((embedded.error, "and-me"), (inserted.error, "me-as-well")):
        assert isinstance(error, ClipseekError)
        assert (error.code, error.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
        assert request_id in error.message
        assert "secret" not in error.message
    monkeypatch.undo()
    assert open_client.search_text("a")[0].image_id == "a"
    open_server.at_rest()
