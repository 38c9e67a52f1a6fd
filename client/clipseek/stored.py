"""Whether a picture need not be sent because the server has it."""

import hashlib

from clipseek import requests, responses
from clipseek.errors import ClipseekError
from clipseek.pictures import picture_bytes_or_refuse
from clipseek.requests import InsertItem, OnExists
from clipseek.results import Image


def content_sha256(item: InsertItem) -> str:
    """Lower-case hex SHA-256 of the picture's bytes; empty when it cannot be read, which sending it will say."""
    try:
        return hashlib.sha256(picture_bytes_or_refuse(item.picture)).hexdigest()
    except ClipseekError:
        return ""


def changes_nothing(item: InsertItem, sha256: str, stored: Image, on_exists: OnExists) -> bool:
    """Whether storing the item again would leave everything as it is.

    Args:
        item: To be stored.
        sha256: Of its bytes.
        stored: What has its id now.
        on_exists: ``fail`` counts as ``replace``: it matters only whether what is stored is the item.
    """
    if on_exists == "keep":
        return True
    try:
        metadata = requests.struct(item.metadata)
    except ClipseekError:
        return False  # sending it will say why
    return stored.content_sha256 == sha256 and (metadata is None or responses.metadata(metadata) == stored.metadata)
