"""Embeddings of the texts that were asked for last: the same query again costs no inference."""

import hashlib
from collections import OrderedDict

from clipseek_server.encoding.texts import EmbeddedText


class TextCache:
    """The embeddings of one model's texts, the least recently used of which make room.

    Args:
        size: Most texts.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._texts: OrderedDict[bytes, EmbeddedText] = OrderedDict()

    def __len__(self) -> int:
        return len(self._texts)

    def get(self, text: str) -> EmbeddedText | None:
        """What was put for the text, if it is still there."""
        key = _key(text)
        if key in self._texts:
            self._texts.move_to_end(key)
        return self._texts.get(key)

    def put(self, text: str, embedded: EmbeddedText) -> None:
        """Keep a text's embedding."""
        embedded.vector.setflags(write=False)  # all who ask get the same one
        self._texts[_key(text)] = embedded
        self._texts.move_to_end(_key(text))
        if len(self._texts) > self._size:
            self._texts.popitem(last=False)


def _key(text: str) -> bytes:
    # Texts may be long: memory is bounded by their number only if the key is short.
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
