"""Clients that write all the time and remember what was acknowledged, and the check that it holds."""

import hashlib
import itertools
import random
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType, TracebackType
from typing import Self

import pytest

from clipseek import Client, ClipseekError, NotFoundError
from pictures import picture

PICTURES = [picture(seed) for seed in range(12)]
"""What is written; few, so that the same bytes come again."""


@dataclass(frozen=True)
class State:
    """What an id holds."""

    data: bytes
    metadata: Mapping[str, object]


class Writer(threading.Thread):
    """Inserts, replaces, changes and deletes its own ids until a call fails or it is told to stop.

    Attributes:
        acknowledged: What each id holds as far as was acknowledged; ``None``: nothing.
        attempted: The write that was not acknowledged, if any.
        error: Why it was not.
    """

    def __init__(
        self, address: str, collection: str, ids: Mapping[str, State | None], done: threading.Semaphore, seed: int
    ) -> None:
        super().__init__(name=f"writer-{seed}")
        self.acknowledged = dict(ids)
        self.attempted: tuple[str, State | None] | None = None
        self.error: ClipseekError | None = None
        self.stopping = threading.Event()
        self._address = address
        self._collection = collection
        self._done = done
        self._random = random.Random(seed)

    def run(self) -> None:
        with Client(self._address) as client:
            for number in itertools.count():
                if self.stopping.is_set():
                    return
                image_id = self._random.choice(list(self.acknowledged))
                try:
                    self._write(client, image_id, number)
                except ClipseekError as error:
                    self.error = error
                    return
                self._done.release()

    def _write(self, client: Client, image_id: str, number: int) -> None:
        old = self.acknowledged[image_id]
        kind = "insert" if old is None else self._random.choice(["replace", "update", "delete"])
        if kind == "delete":
            self.attempted = image_id, None
            client.delete(image_id, collection=self._collection)
        elif kind == "update" and old is not None:
            self.attempted = image_id, replace(old, metadata={"number": number})
            client.update(image_id, {"number": number}, collection=self._collection)
        else:
            new = State(self._random.choice(PICTURES), {"number": number})
            self.attempted = image_id, new
            client.insert(new.data, image_id=image_id, metadata=new.metadata, collection=self._collection)
        self.acknowledged[image_id] = self.attempted[1]
        self.attempted = None


class Writers:
    """Writers with ids of their own, started and joined with ``with``."""

    def __init__(self, address: str, collection: str, states: Mapping[str, State | None], *, seed: int) -> None:
        self.done = threading.Semaphore(0)
        count = 4
        self.writers = [
            Writer(address, collection, dict(list(states.items())[part::count]), self.done, seed * count + part)
            for part in range(count)
        ]

    def wait_for(self, writes: int) -> None:
        """Return when so many writes more were acknowledged."""
        for _ in range(writes):
            assert self.done.acquire(timeout=60), [writer.error for writer in self.writers]

    def __enter__(self) -> Self:
        for writer in self.writers:
            writer.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for writer in self.writers:
            writer.stopping.set()
        for writer in self.writers:
            writer.join()

    @property
    def acknowledged(self) -> dict[str, State | None]:
        return {key: state for writer in self.writers for key, state in writer.acknowledged.items()}

    @property
    def attempted(self) -> dict[str, State | None]:
        return dict(writer.attempted for writer in self.writers if writer.attempted is not None)


def nothing(count: int) -> dict[str, State | None]:
    """Ids that hold nothing yet."""
    return {f"id-{number:02}": None for number in range(count)}


def holds(
    client: Client,
    collection: str,
    acknowledged: Mapping[str, State | None],
    attempted: Mapping[str, State | None] = MappingProxyType({}),
) -> dict[str, State | None]:
    """Assert that every id holds what was acknowledged, or what was attempted after it, whole; return what it is."""
    images = {image.image_id: image for image in client.list(collection=collection)}
    batch = client.get_many(list(acknowledged), collection=collection)
    assert {image.image_id: image for image in batch} == images
    found: dict[str, State | None] = {}
    for image_id, state in acknowledged.items():
        allowed = [state, attempted[image_id]] if image_id in attempted else [state]
        image = images.get(image_id)
        if image is None:
            found[image_id] = None
        else:
            data = client.download(image_id, collection=collection)
            assert hashlib.sha256(data).hexdigest() == image.content_sha256
            found[image_id] = State(data, image.metadata)
        assert found[image_id] in allowed, image_id
    _is_found(client, collection, {image_id: state for image_id, state in found.items() if state is not None})
    assert client.get_collection(collection).image_count == len(images)
    assert set(differences(client, collection)) <= {"orphaned_bytes"}
    return found


def _is_found(client: Client, collection: str, states: Mapping[str, State]) -> None:
    hits = client.search_text("anything", collection=collection, top_k=len(states) + 1)
    assert {hit.image_id for hit in hits} == set(states)
    for image_id, state in states.items():
        nearest = client.search_image(
            state.data, collection=collection, top_k=1, filter=f'image_id == "{image_id}"', min_score=0.99
        )
        assert [(hit.image_id, hit.image.metadata) for hit in nearest] == [(image_id, state.metadata)]


def differences(client: Client, collection: str) -> Sequence[str]:
    """What CheckCollection reports, every byte read."""
    try:
        reports = list(client.check(collection, verify_bytes=True))
    except NotFoundError:
        pytest.fail(f"collection {collection} is gone")
    return [found.kind for report in reports for found in report.differences]
