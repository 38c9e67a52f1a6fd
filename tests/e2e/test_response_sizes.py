"""The largest answers within the limits pass through a stub with gRPC's own options: 4 MB."""

from collections.abc import Iterator

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Struct

from clipseek import Client, InsertItem
from clipseek.v1 import search_service_pb2 as pb
from clipseek.v1.search_service_pb2_grpc import SearchServiceStub
from clipseek_server.config import Settings
from pictures import large_picture, picture
from servers import ServerThread

LIMIT = 4 * 1024 * 1024
MASK = FieldMask(paths=["thumbnail", "embedding"])
IDS = [f"{number:04}".ljust(128, "x") for number in range(1000)]
NOISY = 75
"""The first of them have the largest thumbnails."""


def grown(values: dict[str, object], size: int) -> dict[str, object]:
    """Metadata with a text that fills it up to ``size`` bytes on the wire."""
    message = Struct()
    message.update(values | {"z": ""})
    left = size - message.ByteSize()
    while (message := struct(values | {"z": "z" * left})).ByteSize() > size:
        left -= 1
    return values | {"z": "z" * left}


def struct(values: dict[str, object]) -> Struct:
    message = Struct()
    message.update(values)
    return message


WORST = (
    {f"k{number}": number for number in range(110)},
    {f"k{number}": None for number in range(160)},
    {"numbers": list(range(180))},
    {"nothing": [[] for _ in range(330)]},
    {"truth": [True, False] * 240},
    {"text": "é" * 900},
    {"deep": {"a": {"b": {"c": [{"d": number} for number in range(90)]}}}},
)


@pytest.fixture(scope="module")
def stub(bundle, tmp_path_factory) -> Iterator[SearchServiceStub]:
    settings = Settings(listen="127.0.0.1:0", bundles=[bundle], data_dir=tmp_path_factory.mktemp("full"))
    metadata = [grown(values, settings.max_metadata_bytes) for values in WORST]
    assert all(struct(values).ByteSize() > settings.max_metadata_bytes - 3 for values in metadata)

    noise = large_picture(300_000)

    def item(number: int) -> InsertItem:
        data = noise if number < NOISY else picture(number, size=(8, 8))
        return InsertItem(data, image_id=IDS[number], metadata=metadata[number % len(metadata)])

    with ServerThread(settings) as server:
        with Client(server.address) as client:
            found = list(client.insert_stream((item(number) for number in range(1000)), collection="c" * 63))
            assert [result.error for result in found if result.error] == []
        with grpc.insecure_channel(server.address) as channel:
            yield SearchServiceStub(channel)


def test_a_full_page(stub):
    page = stub.ListImages(pb.ListImagesRequest(collection="c" * 63, page_size=1000))
    assert len(page.images) == 1000
    assert 2 * 1024 * 1024 < page.ByteSize() < LIMIT


def test_as_many_hits_as_may_be_asked_for(stub):
    request = pb.SearchByTextRequest(collection="c" * 63, text="a cat", options=pb.SearchOptions(top_k=1000))
    found = stub.SearchByText(request)
    assert len(found.hits) == 1000
    assert found.ByteSize() < LIMIT


def test_as_many_ids_as_may_be_asked_for(stub):
    found = stub.BatchGetImages(pb.BatchGetImagesRequest(collection="c" * 63, image_ids=IDS))
    assert [image.image_id for image in found.images] == IDS
    assert found.ByteSize() < LIMIT


def test_hits_with_thumbnails_and_embeddings(stub):
    options = pb.SearchOptions(top_k=75, read_mask=MASK, filter="width > 8")
    found = stub.SearchByText(pb.SearchByTextRequest(collection="c" * 63, text="a cat", options=options))
    assert len(found.hits) == 75
    assert all(hit.image.thumbnail and hit.image.embedding.values for hit in found.hits)
    assert 3 * 512 * 1024 < found.ByteSize() < LIMIT
