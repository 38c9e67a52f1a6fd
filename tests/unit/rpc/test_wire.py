from collections.abc import Callable

import pytest
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from clipseek.v1 import search_service_pb2 as pb
from clipseek_server.config import Settings
from clipseek_server.errors import InvalidField, MalformedMessage
from clipseek_server.rpc.server import SERVICES
from clipseek_server.rpc.wire import check_fields, most_fields

REQUESTS = [method.input_type for service in SERVICES.values() for method in service.methods]
BULK: Descriptor = SERVICES["SearchService"].methods_by_name["BulkInsert"].input_type
MANY = 10**6

words = st.text(max_size=5)
values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)


def struct(given: dict[str, object]) -> Struct:
    message = Struct()
    message.update(given)
    return message


structs = st.dictionaries(words, values, max_size=3).map(struct)
batches = st.builds(
    pb.BulkInsertRequest,
    batch=st.builds(
        pb.BulkInsertBatch,
        items=st.lists(
            st.builds(
                pb.BulkInsertItem,
                sequence=st.integers(-(2**63), 2**63 - 1),
                image_data=st.binary(max_size=300),
                image_id=words,
                metadata=structs,
            ),
            max_size=3,
        ),
    ),
)


@given(batches)
def test_what_is_valid_passes(message):
    check_fields(message.SerializeToString(), BULK, MANY)


def pieces(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Fields of any kind, well-formed most of the time."""
    number = st.integers(1, 7)

    def delimited(data: bytes) -> st.SearchStrategy[bytes]:
        return number.map(lambda n: bytes([n << 3 | 2]) + varint(len(data)) + data)

    def group(data: bytes) -> st.SearchStrategy[bytes]:
        return number.map(lambda n: bytes([n << 3 | 3]) + data + bytes([n << 3 | 4]))

    return inner.flatmap(delimited) | inner.flatmap(group) | st.lists(inner, max_size=3).map(b"".join)


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


wire = st.recursive(
    st.binary(max_size=6)
    | st.builds(lambda n, v: bytes([n << 3]) + varint(v), st.integers(1, 7), st.integers(0, 2**64 - 1))
    | st.builds(lambda n, v: bytes([n << 3 | 1]) + v, st.integers(1, 7), st.binary(min_size=8, max_size=8))
    | st.builds(lambda n, v: bytes([n << 3 | 5]) + v, st.integers(1, 7), st.binary(min_size=4, max_size=4)),
    pieces,
    max_leaves=8,
)


def accepts(parse: Callable[[], object]) -> bool:
    try:
        parse()
    except (DecodeError, MalformedMessage):
        return False
    return True


@pytest.mark.parametrize("message", REQUESTS, ids=lambda message: message.name)
@given(wire)
def test_what_protobuf_takes_passes_and_the_rest_is_refused_in_words(message, raw):
    made: type[Message] = GetMessageClass(message)
    if accepts(lambda: made.FromString(raw)):
        check_fields(raw, message, MANY)
    else:
        accepts(lambda: check_fields(raw, message, MANY))  # raises nothing else


@pytest.mark.parametrize(
    "raw",
    [
        b"\x12",  # no length
        b"\x12\x05ab",  # longer than the message
        b"\x12\x02\x0a\x05",  # longer than the message around it
        b"\x80",  # a tag without its end
        b"\xff" * 11,
        b"\x08",  # no value
        b"\x09\x01",  # half a value
        b"\x0d\x01",
        b"\x3b",  # a group without its end
        b"\x3b\x44",  # the end of another
        b"\x3c",
        b"\x0f",  # no such wire type
    ],
)
def test_what_is_no_message(raw):
    with pytest.raises(MalformedMessage, match="BulkInsertRequest"):
        check_fields(raw, BULK, MANY)


def test_every_field_counts():
    message = pb.BulkInsertRequest(batch=pb.BulkInsertBatch(items=[pb.BulkInsertItem(sequence=1)] * 3))
    raw = message.SerializeToString()
    check_fields(raw, BULK, 7)  # the batch, three items, three numbers
    with pytest.raises(InvalidField, match="more than 6 fields"):
        check_fields(raw, BULK, 6)
    item = pb.BulkInsertRequest(batch=pb.BulkInsertBatch(items=[pb.BulkInsertItem(image_data=raw * 10)]))
    check_fields(item.SerializeToString(), BULK, 3)  # bytes are bytes, whatever is in them


def test_depth_is_no_problem():
    raw = b""
    for _ in range(3_000):
        for tag in b"\x2a\x12\x0a":  # a struct in a value in an entry of a struct
            raw = bytes([tag]) + varint(len(raw)) + raw
    check_fields(raw, Struct.DESCRIPTOR, 9_000)
    with pytest.raises(InvalidField):
        check_fields(raw, Struct.DESCRIPTOR, 8_999)
    check_fields(b"\x3b" * 20_000 + b"\x3c" * 20_000, BULK, MANY)


def test_the_largest_requests_within_the_limits_pass():
    settings = Settings()
    limit = most_fields(settings)
    metadata = Struct()
    while metadata.ByteSize() < settings.max_metadata_bytes - 3:
        metadata.fields["a"].list_value.values.add().null_value = 0
    items = [
        pb.BulkInsertItem(sequence=number, image_data=b"x", image_id="a" * 128, metadata=metadata)
        for number in range(settings.max_batch_items)
    ]
    check_fields(pb.BulkInsertRequest(batch=pb.BulkInsertBatch(items=items)).SerializeToString(), BULK, limit)
    ids = pb.BatchGetImagesRequest(image_ids=["a" * 128] * settings.max_batch_ids)
    check_fields(ids.SerializeToString(), pb.BatchGetImagesRequest.DESCRIPTOR, limit)
