"""A look at a message's wire format before it is parsed.

Two bytes on the wire can become a hundred in memory: an empty item is a whole object. So the fields of a message are
counted first, by walking over tags and lengths with the help of the message's descriptor; what a picture or a text
holds is passed over in one step. A message with more fields than any legal request has is never parsed.
"""

from collections.abc import Mapping
from functools import cache

from google.protobuf.descriptor import Descriptor

from clipseek_server.config import MAX_DIMENSION, Settings
from clipseek_server.errors import InvalidField, MalformedMessage

_VARINT, _FIXED64, _DELIMITED, _GROUP, _END_GROUP, _FIXED32 = range(6)

_MAX_VARINT_BYTES = 10
_FIELDS_OF_ITS_OWN = 64
"""More than a message has beside what it repeats: what is set once, and what a newer client adds."""


def most_fields(settings: Settings) -> int:
    """More fields than any request within the limits has."""
    of_metadata = settings.max_metadata_bytes // 2  # a field takes two bytes or more
    return _FIELDS_OF_ITS_OWN + max(
        settings.max_batch_ids,
        settings.max_batch_items * (_FIELDS_OF_ITS_OWN + of_metadata),
        settings.max_search_terms * (_FIELDS_OF_ITS_OWN + MAX_DIMENSION),  # some clients send each number as a field
        2 * of_metadata,  # an update's metadata, and the keys of its mask
    )


def check_fields(raw: bytes, message: Descriptor, limit: int) -> None:
    """Walk over a message. It takes half a microsecond a field, whatever the fields hold.

    What protobuf can parse passes, unless there is too much of it; what passes may still be refused by protobuf.

    Raises:
        InvalidField: It has more than ``limit`` fields, those of its messages counted too.
        MalformedMessage: It is no message at all.
    """
    position, end = 0, len(raw)
    inner = _messages_in(message)
    # Where we came from: the end of a message, what is in it, and, within an unknown group, the group's number.
    around: list[tuple[int, Mapping[int, Descriptor], int]] = []
    group = 0
    count = 0
    while True:
        while position == end and around and not group:
            end, inner, group = around.pop()
        if position == end:
            if group:
                raise not_a(message)
            return
        count += 1
        if count > limit:
            raise InvalidField(
                f"the message has more than {limit} fields; no request within the limits of GetServerInfo has so many"
            )
        tag, position = _varint(raw, position, end, message)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == _DELIMITED:
            size, position = _varint(raw, position, end, message)
            if size > end - position:
                raise not_a(message)
            if number in inner:
                around.append((end, inner, group))
                end, inner, group = position + size, _messages_in(inner[number]), 0
            else:
                position += size
        elif wire_type == _VARINT:
            _, position = _varint(raw, position, end, message)
        elif wire_type in (_FIXED32, _FIXED64):
            position += 4 if wire_type == _FIXED32 else 8
            if position > end:
                raise not_a(message)
        elif wire_type == _GROUP and number:
            around.append((end, inner, group))
            inner, group = {}, number
        elif wire_type == _END_GROUP and number == group != 0:
            end, inner, group = around.pop()
        else:
            raise not_a(message)


@cache
def _messages_in(message: Descriptor) -> Mapping[int, Descriptor]:
    """The message's fields that are messages, by their numbers; a map's entries are such, too."""
    return {field.number: field.message_type for field in message.fields if field.message_type is not None}


def _varint(raw: bytes, position: int, end: int, message: Descriptor) -> tuple[int, int]:
    """The number that begins at ``position``, and where it ends."""
    if position < end and (byte := raw[position]) < 0x80:
        return byte, position + 1
    value = 0
    for shift, byte in enumerate(raw[position : min(position + _MAX_VARINT_BYTES, end)]):
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value, position + shift + 1
    raise not_a(message)


def not_a(message: Descriptor) -> MalformedMessage:
    """The error for bytes that are something else."""
    return MalformedMessage(f"the message is no {message.full_name}; check the generated stubs")
