"""How a record and its vector lie in a Milvus collection."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from pymilvus import DataType, MilvusClient

from clipseek_server.errors import InvalidField
from clipseek_server.index.metadata import MAX_STORED_BYTES, decode, encode, stored_bytes, whole
from clipseek_server.index.records import IMAGE_ID, Record, Row

SCHEMA_VERSION = 1

VECTOR_FIELD = "embedding"
RECORD_FIELDS = [
    "image_id",
    "content_sha256",
    "blob_key",
    "media_type",
    "width",
    "height",
    "size_bytes",
    "create_time",
    "update_time",
    "metadata",
]
ROW_FIELDS = [*RECORD_FIELDS, VECTOR_FIELD]


def collection_schema(dimension: int) -> Any:
    """Pymilvus' schema; unknown fields are refused, so that metadata can never reach a field of ours."""
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("image_id", DataType.VARCHAR, max_length=128, is_primary=True)
    schema.add_field("content_sha256", DataType.VARCHAR, max_length=64)
    schema.add_field("blob_key", DataType.VARCHAR, max_length=512)
    schema.add_field("media_type", DataType.VARCHAR, max_length=64)
    for name in ("width", "height", "size_bytes", "create_time", "update_time"):
        schema.add_field(name, DataType.INT64)
    schema.add_field("metadata", DataType.JSON)
    schema.add_field(VECTOR_FIELD, DataType.FLOAT_VECTOR, dim=dimension)
    return schema


def stored(row: Row) -> Row:
    """The row as Milvus gives it back: whole numbers in metadata are integers.

    Raises:
        InvalidField: The metadata is longer than Milvus takes.
    """
    metadata = _with_integers(row.record.metadata)
    size = stored_bytes(metadata)
    if size > MAX_STORED_BYTES:
        raise InvalidField(
            f"the metadata takes {size} bytes as it is stored, as JSON, but {MAX_STORED_BYTES} are allowed",
            field="metadata",
        )
    return Row(replace(row.record, metadata=metadata), row.vector)


def to_entity(row: Row) -> dict[str, object]:
    """What pymilvus writes."""
    entity: dict[str, object] = {name: getattr(row.record, name) for name in RECORD_FIELDS}
    entity["metadata"] = encode(row.record.metadata)
    entity[VECTOR_FIELD] = row.vector
    return entity


def to_record(entity: Mapping[str, Any]) -> Record:
    """A record from what pymilvus read."""
    values = {name: entity[name] for name in RECORD_FIELDS}
    return Record(**values | {"metadata": decode(values["metadata"])})


def to_row(entity: Mapping[str, Any]) -> Row:
    """A row from what pymilvus read."""
    return Row(to_record(entity), np.asarray(entity[VECTOR_FIELD], dtype=np.float32))


def id_in(image_ids: Iterable[str]) -> str:
    """A Milvus filter for these ids."""
    return f"image_id in {json.dumps([_checked(image_id) for image_id in image_ids])}"


def id_after(image_id: str) -> str:
    """A Milvus filter for ids greater than this one; empty means all."""
    return f'image_id > "{_checked(image_id) if image_id else ""}"'


def _checked(image_id: str) -> str:
    # Whoever calls has validated it; no other text may ever become part of an expression.
    if not IMAGE_ID.fullmatch(image_id):
        raise ValueError(f"not an image id: {image_id!r}")
    return image_id


def _with_integers(value: Any) -> Any:
    if isinstance(value, float):
        return whole(value)
    if isinstance(value, Mapping):
        return {key: _with_integers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_integers(item) for item in value]
    return value
