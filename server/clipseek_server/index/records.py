"""What the index stores: one row a picture."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]
"""float32 ``[dimension]``, L2-normalised."""

IMAGE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
"""To be matched in full."""


def now_micros() -> int:
    """Microseconds since the epoch, UTC: the time as it is stored."""
    return time.time_ns() // 1000


@dataclass(frozen=True, slots=True)
class Record:
    """A picture's record, without its vector and its bytes.

    Attributes:
        image_id: Unique in its collection; an ``IMAGE_ID``.
        content_sha256: Lower-case hex digest of the picture's bytes.
        blob_key: Where the bytes are in the image store.
        media_type: E.g. ``image/jpeg``.
        width: Pixels, after EXIF orientation.
        height: Pixels, after EXIF orientation.
        size_bytes: Length of the picture's bytes.
        create_time: Microseconds since the epoch, UTC.
        update_time: Microseconds since the epoch, UTC.
        metadata: The caller's, JSON values only.
    """

    image_id: str
    content_sha256: str
    blob_key: str
    media_type: str
    width: int
    height: int
    size_bytes: int
    create_time: int
    update_time: int
    metadata: Mapping[str, Any]

    def with_metadata(self, metadata: Mapping[str, Any], *, update_time: int) -> "Record":
        """The same picture with other metadata."""
        return replace(self, metadata=metadata, update_time=update_time)


@dataclass(frozen=True, slots=True)
class Row:
    """A record with its vector."""

    record: Record
    vector: Vector


@dataclass(frozen=True, slots=True)
class Match:
    """A record found by a search, with its cosine similarity to the query in [-1, 1]."""

    record: Record
    score: float


class Effort(Enum):
    """As ``clipseek.v1.Effort``; ``DEFAULT`` is its unspecified."""

    DEFAULT = auto()
    FAST = auto()
    THOROUGH = auto()
    EXACT = auto()


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """A collection as the index knows it: one live generation.

    Attributes:
        name: The user's name; a Milvus alias.
        uid: Random; survives rebuilds.
        generation: The physical Milvus collection behind the name.
        space_id: The space of its vectors.
        precision: The precision of the model that it was made for.
        dimension: Length of its vectors.
        create_time: Microseconds since the epoch, UTC.
        index: What answers searches, for people.
        efforts: What its index serves.
    """

    name: str
    uid: str
    generation: str
    space_id: str
    precision: str
    dimension: int
    create_time: int
    index: str
    efforts: frozenset[Effort]
