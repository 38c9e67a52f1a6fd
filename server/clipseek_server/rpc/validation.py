"""Checks of single fields, and what they become for the domain. Each failure names its field."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Struct, Value

from clipseek.v1 import image_pb2
from clipseek_server.catalog.collections import DEFAULT_COLLECTION
from clipseek_server.catalog.images import check_metadata_size
from clipseek_server.catalog.inserts import OnExists
from clipseek_server.catalog.views import ReadMask
from clipseek_server.config import Settings
from clipseek_server.errors import ImageTooLarge, InvalidField, InvalidImage
from clipseek_server.index.metadata import whole
from clipseek_server.index.records import IMAGE_ID, Effort

_COLLECTION = re.compile(r"[a-z][a-z0-9_]{0,62}")
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")

MAX_METADATA_DEPTH = 16
"""Levels of nesting in metadata."""

_EFFORTS = {
    image_pb2.EFFORT_UNSPECIFIED: Effort.DEFAULT,
    image_pb2.EFFORT_FAST: Effort.FAST,
    image_pb2.EFFORT_THOROUGH: Effort.THOROUGH,
    image_pb2.EFFORT_EXACT: Effort.EXACT,
}
_ON_EXISTS = {
    image_pb2.ON_EXISTS_UNSPECIFIED: OnExists.REPLACE,
    image_pb2.ON_EXISTS_REPLACE: OnExists.REPLACE,
    image_pb2.ON_EXISTS_KEEP: OnExists.KEEP,
    image_pb2.ON_EXISTS_FAIL: OnExists.FAIL,
}
_STRONG = {image_pb2.CONSISTENCY_BOUNDED: False, image_pb2.CONSISTENCY_STRONG: True}


def collection_name(name: str, *, field: str = "collection") -> str:
    """A collection's name; empty means the default one."""
    if not name:
        return DEFAULT_COLLECTION
    if not _COLLECTION.fullmatch(name):
        raise InvalidField(
            "a collection's name is a lower-case letter, then up to 62 lower-case letters, digits or _",
            field=field,
        )
    return name


def image_id(value: str, *, field: str = "image_id") -> str:
    """An image id."""
    if not IMAGE_ID.fullmatch(value):
        raise InvalidField("an image id is 1 to 128 of A-Z a-z 0-9 . _ : -", field=field)
    return value


def image_ids(values: Sequence[str], limit: int) -> list[str]:
    """Ids, 1 to ``limit`` of them."""
    if not 1 <= len(values) <= limit:
        raise InvalidField(f"1 to {limit} ids can be given, not {len(values)}", field="image_ids")
    return [image_id(value, field=f"image_ids[{position}]") for position, value in enumerate(values)]


def image_data(data: bytes, settings: Settings, *, field: str = "image_data") -> bytes:
    """A picture's file."""
    if not data:
        raise InvalidImage("the picture is empty; send the bytes of its file", field=field)
    if len(data) > settings.max_image_bytes:
        raise ImageTooLarge(
            f"the picture has {len(data)} bytes, but {settings.max_image_bytes} are allowed; scale it down", field=field
        )
    return data


def text(value: str, settings: Settings, *, field: str = "text") -> str:
    """A sentence."""
    if not value.strip():
        raise InvalidField("the text is empty; say what to look for", field=field)
    if len(value) > settings.max_text_characters:
        raise InvalidField(
            f"the text has {len(value)} characters, but {settings.max_text_characters} are allowed", field=field
        )
    return value


def metadata(struct: Struct, settings: Settings) -> dict[str, Any]:
    """Metadata as JSON values; whole numbers become int, so that they look alike however they were sent."""
    check_metadata_size(struct, settings.max_metadata_bytes)  # first: the rest takes time for each value
    return _fields(struct.fields, 1, "metadata")


def _fields(fields: Mapping[str, Value], depth: int, path: str) -> dict[str, Any]:
    if depth > MAX_METADATA_DEPTH:
        raise InvalidField(f"metadata may be nested {MAX_METADATA_DEPTH} levels deep", field=path[:200])
    for key in fields:
        if not _KEY.fullmatch(key):
            raise InvalidField(
                f"the metadata key {key[:80]!r} is not a letter or _, then up to 63 letters, digits or _", field=path
            )
    return {key: _value(value, depth, f"{path}.{key}") for key, value in fields.items()}


def _value(value: Value, depth: int, path: str) -> Any:
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            if not math.isfinite(number):
                raise InvalidField("metadata numbers must be finite", field=path)
            return whole(number)
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return _fields(value.struct_value.fields, depth + 1, path)
        case "list_value":
            if depth >= MAX_METADATA_DEPTH:
                raise InvalidField(f"metadata may be nested {MAX_METADATA_DEPTH} levels deep", field=path[:200])
            return [_value(item, depth + 1, path) for item in value.list_value.values]
        case "null_value":
            return None
        case _:
            raise InvalidField("a metadata value has no kind; send null_value for null", field=path)


def update_keys(mask: FieldMask) -> frozenset[str] | None:
    """The metadata keys that an update mask names; ``None`` when it means all."""
    keys = set()
    for path in mask.paths:
        if path == "metadata":
            return None
        prefix, _, key = path.partition(".")
        if prefix != "metadata" or not _KEY.fullmatch(key):
            raise InvalidField(
                f"{path[:80]!r} cannot be updated; name `metadata` or `metadata.key`", field="update_mask"
            )
        keys.add(key)
    return frozenset(keys) or None


def read_mask(mask: FieldMask, *, field: str = "read_mask") -> ReadMask:
    """What to read beside the records."""
    for path in mask.paths:
        if path not in ("thumbnail", "embedding"):
            raise InvalidField(f"{path[:80]!r} cannot be asked for; name `thumbnail` or `embedding`", field=field)
    return ReadMask(thumbnail="thumbnail" in mask.paths, embedding="embedding" in mask.paths)


def count(value: int, default: int, limit: int, *, field: str) -> int:
    """A number of results; 0 means the default."""
    if not 0 <= value <= limit:
        raise InvalidField(f"{field.rpartition('.')[2]} must be between 0 and {limit}, not {value}", field=field)
    return value or min(default, limit)


def effort(value: int) -> Effort:
    """How hard to search."""
    if value not in _EFFORTS:
        raise InvalidField(f"effort {value} is unknown to this server", field="options.effort")
    return _EFFORTS[value]  # type: ignore[index]


def on_exists(value: int, *, field: str = "on_exists") -> OnExists:
    """What to do when an id is taken."""
    if value not in _ON_EXISTS:
        raise InvalidField(f"on_exists {value} is unknown to this server", field=field)
    return _ON_EXISTS[value]  # type: ignore[index]


def strong(value: int, *, default: bool, field: str = "consistency") -> bool:
    """Whether a read must see all acknowledged writes."""
    if value == image_pb2.CONSISTENCY_UNSPECIFIED:
        return default
    if value not in _STRONG:
        raise InvalidField(f"consistency {value} is unknown to this server", field=field)
    return _STRONG[value]  # type: ignore[index]


def finite_weight(value: float, *, field: str) -> float:
    """A term's weight."""
    if value == 0 or not math.isfinite(value):
        raise InvalidField("a weight must be finite and not 0; leave a term out instead", field=field)
    return value


def min_score(value: float) -> float:
    """A lowest score."""
    if not -1 <= value <= 1:
        raise InvalidField(f"min_score must be between -1 and 1, not {value:g}", field="options.min_score")
    return value
