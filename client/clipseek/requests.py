"""What callers give, as messages of the contract."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, ParamSpec, TypeAlias, TypeVar

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Struct

from clipseek.errors import InvalidArgumentError
from clipseek.pictures import Picture, picture_bytes, picture_bytes_or_refuse
from clipseek.v1 import image_pb2, search_service_pb2

# A mapping with string keys and JSON values: None, bool, int, float, str, lists and mappings of them.
Metadata: TypeAlias = Mapping[str, Any]
OnExists: TypeAlias = Literal["replace", "keep", "fail"]
Effort: TypeAlias = Literal["fast", "thorough", "exact"]
Consistency: TypeAlias = Literal["bounded", "strong"]

Fields = ParamSpec("Fields")
Message = TypeVar("Message")

# Larger ones do not survive JSON's numbers.
_LARGEST_INT = 2**53
# More levels than the server takes, and fewer than protobuf can copy.
_DEEPEST = 24
_SURROGATE = re.compile("[\ud800-\udfff]")
_NO_TEXT = "holds a lone surrogate, so it is no Unicode text"


@dataclass(frozen=True)
class InsertItem:
    """One picture for ``insert_many`` or ``insert_stream``.

    Attributes:
        picture: Bytes, a path or a PIL image. Paths keep memory low: they are read when their turn comes.
        image_id: The id to store it under; ``None`` means the SHA-256 of its bytes.
        metadata: What to attach; ``None`` leaves what is stored.
    """

    picture: Picture
    image_id: str | None = None
    metadata: Metadata | None = None

    def __repr__(self) -> str:
        held = isinstance(self.picture, bytes | bytearray | memoryview)
        picture = f"<{len(self.picture)} bytes>" if held else repr(self.picture)  # type: ignore[arg-type]
        return f"InsertItem({picture}, image_id={self.image_id!r}, metadata={self.metadata!r})"


@dataclass(frozen=True)
class Term:
    """One part of a query to ``search``; make it with ``text``, ``picture``, ``image`` or ``embedding``.

    A weight below 0 moves away from the term; 0 is refused.
    """

    kind: Literal["text", "picture", "image", "embedding"]
    value: object
    weight: float | None = None

    @classmethod
    def text(cls, text: str, weight: float | None = None) -> "Term":
        """A sentence."""
        return cls("text", text, weight)

    @classmethod
    def picture(cls, picture: Picture, weight: float | None = None) -> "Term":
        """A picture that need not be stored."""
        return cls("picture", picture, weight)

    @classmethod
    def image(cls, image_id: str, weight: float | None = None) -> "Term":
        """A stored picture, by its id; it is left out of the hits."""
        return cls("image", image_id, weight)

    @classmethod
    def embedding(cls, values: Iterable[float], weight: float | None = None, *, space_id: str = "") -> "Term":
        """A vector of the collection's space; with a ``space_id`` the server checks that."""
        return cls("embedding", build(image_pb2.Embedding, values=list(values), space_id=space_id), weight)


def build(kind: Callable[Fields, Message], *none: Fields.args, **fields: Fields.kwargs) -> Message:
    """A message with these fields.

    Raises:
        InvalidArgumentError: A string is no Unicode text.
    """
    try:
        return kind(*none, **fields)
    except UnicodeEncodeError as error:
        # It has the string, but not the field that the string was for.
        field = next(
            name
            for name, value in fields.items()
            if error.object == value or (isinstance(value, list | tuple) and error.object in value)
        )
        raise InvalidArgumentError(f"{field} {_NO_TEXT}", reason="INVALID_FIELD", field=field) from None


def check_many(items: object, name: str) -> None:
    """Refuse one string or one file's bytes where many are wanted: iterating would take it apart.

    Raises:
        TypeError: It is one.
    """
    if isinstance(items, str | bytes | bytearray | memoryview):
        raise TypeError(f"{name} are many, and this is one {type(items).__name__}; put it into a list")


def is_text(value: str) -> bool:
    """Whether it is Unicode text. Bytes of file names and arguments that are not UTF-8 come as lone surrogates."""
    return not _SURROGATE.search(value)


def term(given: Term | str) -> search_service_pb2.SearchTerm:
    """A term's message; a plain string is a sentence. Reads the picture's file, if it is one."""
    if isinstance(given, str):
        given = Term.text(given)
    value: Any = given.value  # protobuf and picture_bytes check it
    match given.kind:
        case "text":
            return build(search_service_pb2.SearchTerm, weight=given.weight, text=value)
        case "picture":
            return build(search_service_pb2.SearchTerm, weight=given.weight, image_data=picture_bytes(value))
        case "image":
            return build(search_service_pb2.SearchTerm, weight=given.weight, image_id=value)
        case "embedding":
            return build(search_service_pb2.SearchTerm, weight=given.weight, embedding=value)


def struct(metadata: Metadata | None) -> Struct | None:
    """Metadata as a Struct.

    Raises:
        InvalidArgumentError: A key is no string, a value is nothing that JSON has, or one of them is no Unicode text.
    """
    if metadata is None:
        return None
    _check_json(metadata, "metadata")
    message = Struct()
    message.update(metadata)
    return message


def bulk_item(sequence: int, item: InsertItem) -> search_service_pb2.BulkInsertItem:
    """One item of a stream; reads the picture's file, if it is one.

    Raises:
        InvalidArgumentError: The picture cannot be read, the metadata is not JSON, or the id is no Unicode text.
    """
    return build(
        search_service_pb2.BulkInsertItem,
        sequence=sequence,
        image_data=picture_bytes_or_refuse(item.picture),
        image_id=item.image_id,
        metadata=struct(item.metadata),
    )


def on_exists(value: OnExists) -> image_pb2.OnExists.ValueType:
    """The enum's value; raises ``ValueError`` for an unknown word."""
    return image_pb2.OnExists.Value("ON_EXISTS_" + _word("on_exists", value, ("replace", "keep", "fail")))


def consistency(value: Consistency | None) -> image_pb2.Consistency.ValueType:
    """The enum's value; ``None`` leaves it to the server. Raises ``ValueError`` for an unknown word."""
    if value is None:
        return image_pb2.CONSISTENCY_UNSPECIFIED
    return image_pb2.Consistency.Value("CONSISTENCY_" + _word("consistency", value, ("bounded", "strong")))


def read_mask(*, thumbnails: bool, embeddings: bool) -> FieldMask | None:
    """What images carry beside the record; ``None`` for nothing."""
    paths = ["thumbnail"] * thumbnails + ["embedding"] * embeddings
    return FieldMask(paths=paths) if paths else None


def update_mask(keys: Iterable[str]) -> FieldMask:
    """Sets or removes these keys of the metadata and leaves the others.

    Raises:
        InvalidArgumentError: A key is no string, or no Unicode text.
    """
    keys = list(keys)
    _check_json(dict.fromkeys(keys), "metadata")
    return FieldMask(paths=[f"metadata.{key}" for key in keys])


def search_options(
    *,
    top_k: int,
    offset: int,
    filter: str,
    min_score: float | None,
    effort: Effort | None,
    consistency: Consistency | None,
    with_thumbnails: bool,
    with_embeddings: bool,
) -> search_service_pb2.SearchOptions:
    """The options' message."""
    return build(
        search_service_pb2.SearchOptions,
        top_k=top_k,
        offset=offset,
        filter=filter,
        min_score=min_score,
        effort=image_pb2.EFFORT_UNSPECIFIED
        if effort is None
        else image_pb2.Effort.Value("EFFORT_" + _word("effort", effort, ("fast", "thorough", "exact"))),
        consistency=_consistency(consistency),
        read_mask=read_mask(thumbnails=with_thumbnails, embeddings=with_embeddings),
    )


_consistency = consistency


def _word(name: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise ValueError(f"{name} is one of {', '.join(allowed)}; not {value!r}")
    return value.upper()


def _check_json(value: object, place: str, level: int = 0) -> None:
    match value:
        case Mapping() | list() | tuple() if level > _DEEPEST:
            problem = "is nested too deep"
        case str() if not is_text(value):
            problem = _NO_TEXT
        case None | bool() | str():
            return
        case int() if abs(value) > _LARGEST_INT:
            problem = "is too large for a JSON number; store it as a string"
        case float() if not math.isfinite(value):
            problem = "is not a finite number"
        case int() | float():
            return
        case Mapping():
            for key, inner in value.items():
                if not isinstance(key, str):
                    raise InvalidArgumentError(
                        f"{place}: the key {key!r} is not a string", reason="INVALID_FIELD", field=place
                    )
                if not is_text(key):
                    raise InvalidArgumentError(
                        f"{place}: the key {key!r} {_NO_TEXT}", reason="INVALID_FIELD", field=place
                    )
                _check_json(inner, f"{place}.{key}", level + 1)
            return
        case list() | tuple():
            for inner in value:
                _check_json(inner, place, level + 1)
            return
        case _:
            problem = f"is a {type(value).__name__}, which JSON does not have"
    raise InvalidArgumentError(f"{place} {problem}", reason="INVALID_FIELD", field=place)
