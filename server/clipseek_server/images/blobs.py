"""What the image store holds, and how its keys are made."""

import secrets
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Blob:
    """A stored object.

    Attributes:
        key: Where it is.
        size: Bytes.
        age: Seconds since it was written.
    """

    key: str
    size: int
    age: float


THUMBNAIL_SUFFIX = ".thumbnail"
_DROP_MARK = "dropped"


def new_blob_key(uid: str, image_id: str, content_sha256: str) -> str:
    """A key that no other write has: collection uid / image id / content hash - random."""
    return f"{uid}/{image_id}/{content_sha256}-{secrets.token_hex(8)}"


def thumbnail_key(blob_key: str) -> str:
    """Where the thumbnail of a blob is."""
    return blob_key + THUMBNAIL_SUFFIX


def drop_mark_key(uid: str) -> str:
    """Where it is written that a collection was dropped on purpose: only then may its bytes go."""
    return f"{uid}/{_DROP_MARK}"


def split_blob_key(key: str) -> tuple[str, str, str]:
    """(uid, image id, blob key) of a blob's or a thumbnail's key; a drop mark belongs to no image: its id is empty."""
    blob_key = key.removesuffix(THUMBNAIL_SUFFIX)
    uid, _, rest = blob_key.partition("/")
    image_id, slash, _ = rest.partition("/")
    return uid, image_id if slash else "", blob_key
