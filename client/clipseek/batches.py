"""Grouping items so that each message stays within the limits."""

from typing import Generic, TypeVar

T = TypeVar("T")


class Batcher(Generic[T]):
    """Fills batches of at most ``max_items`` items and ``max_bytes`` bytes; a larger item travels alone."""

    def __init__(self, *, max_items: int, max_bytes: int) -> None:
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._items: list[T] = []
        self._bytes = 0

    def add(self, item: T, size: int) -> list[T]:
        """Add an item of ``size`` bytes; returns the batch that it did not fit into, or an empty list."""
        full: list[T] = []
        if self._items and (len(self._items) >= self._max_items or self._bytes + size > self._max_bytes):
            full = self.take()
        self._items.append(item)
        self._bytes += size
        return full

    def take(self) -> list[T]:
        """What is in the batch so far; it starts afresh."""
        items, self._items, self._bytes = self._items, [], 0
        return items
