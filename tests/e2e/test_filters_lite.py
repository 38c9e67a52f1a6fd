"""The filter language on a real Milvus Lite: the same rows as in memory."""

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from milvus_lite.adapter.grpc.server import start_server_in_thread
from pymilvus import DataType, MilvusClient

import filter_cases
from clipseek_server.index.filters import Filter, matches, parse_filter, predicate, to_milvus
from clipseek_server.index.metadata import encode
from clipseek_server.index.records import Record
from filter_strategies import filters, random_records

RANDOM_RECORDS = random_records(60, seed=2)
EVERYTHING = [*filter_cases.RECORDS, *RANDOM_RECORDS]


@pytest.fixture(scope="module")
def client() -> Iterator[MilvusClient]:
    """A collection ``pictures`` that holds ``EVERYTHING``."""
    # A short path: a socket's is limited to 107 bytes.
    with tempfile.TemporaryDirectory(prefix="lite") as folder:
        (Path(folder) / "socket").mkdir(mode=0o700)
        server, database, _ = start_server_in_thread(f"{folder}/data", host=f"unix:{folder}/socket/lite", port=0)
        milvus = MilvusClient(f"unix:{folder}/socket/lite:0")
        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("image_id", DataType.VARCHAR, is_primary=True, max_length=128)
        for name in ("content_sha256", "blob_key", "media_type"):
            schema.add_field(name, DataType.VARCHAR, max_length=512)
        for name in ("width", "height", "size_bytes", "create_time", "update_time"):
            schema.add_field(name, DataType.INT64)
        schema.add_field("metadata", DataType.JSON)
        schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=2)
        index = milvus.prepare_index_params()
        index.add_index("embedding", index_type="FLAT", metric_type="COSINE")
        milvus.create_collection("pictures", schema=schema, index_params=index)
        milvus.insert("pictures", [_entity(record) for record in EVERYTHING])
        milvus.load_collection("pictures")
        yield milvus
        milvus.close()
        server.stop(None).wait()
        database.close()


def _entity(record: Record) -> dict[str, object]:
    entity = dataclasses.asdict(record)
    return {**entity, "metadata": encode(record.metadata), "embedding": [1.0, 0.0]}


def _query(client: MilvusClient, condition: Filter) -> set[str]:
    rows = client.query("pictures", filter=to_milvus(condition), output_fields=["image_id"])
    return {row["image_id"] for row in rows}


def test_table_on_milvus_lite(client: MilvusClient) -> None:
    ours = {record.image_id for record in filter_cases.RECORDS}
    for text, expected in filter_cases.CASES:
        condition = parse_filter(text)
        assert condition is not None
        assert _query(client, condition) & ours == expected, ascii(text)


@pytest.mark.parametrize(
    "text", ["not (width == 9 or width == 640 and " * 8 + "metadata.a < 1" + ")" * 8, *filter_cases.LARGEST]
)
def test_a_search_takes_the_largest_filters(client: MilvusClient, text: str) -> None:
    """Lite parses by recursion, on a thread with little of it to spare."""
    condition = parse_filter(text)
    assert condition is not None
    [hits] = client.search("pictures", [[1.0, 0.0]], limit=200, filter=to_milvus(condition), output_fields=["image_id"])
    found = {hit["entity"]["image_id"] for hit in hits}
    assert found == {record.image_id for record in EVERYTHING if matches(condition, record)}


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(condition=filters)
def test_milvus_lite_agrees_with_memory(client: MilvusClient, condition: Filter) -> None:
    test = predicate(condition)
    assert _query(client, condition) == {record.image_id for record in EVERYTHING if test(record)}
