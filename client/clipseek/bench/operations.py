"""The operations of a clipseek server that a load can be made of."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from clipseek import AsyncClient, InsertItem, Tls
from clipseek.bench.plan import Done, Operation
from clipseek.bench.sentences import sentence
from clipseek.results import Timing

OPERATIONS = ("search_text", "embed_text", "search_image", "embed_image", "insert", "bulk_import")
WITH_PICTURES = frozenset(OPERATIONS[2:])
WRITING = frozenset({"insert", "bulk_import"})

_KEPT_PICTURES = 64
"""In the memory of each process; others are read when their turn comes."""


@dataclass(frozen=True)
class ClipseekTarget:
    """A server and what to send to it.

    Its operations are ``OPERATIONS``; those ``WITH_PICTURES`` it has only where there are some.

    Attributes:
        address: ``HOST:PORT``.
        collection: Searched and inserted into; empty means ``default``.
        texts: Sentences, in turn; without any each call has a sentence of its own.
        pictures: Paths of picture files, in turn. Inserts store each call's under an id of its own.
        filter: Of the searches.
        top_k: Of the searches.
        bulk_items: Pictures of one bulk import; they are read when their turn comes.
        id_prefix: Of the ids that inserts make up; the rest is the number of the call.
        timeout: Seconds that a call may take, and that a bulk import may wait for its next result.
        token: What the server wants to see of its callers.
        tls: How the server is known.
    """

    address: str
    collection: str = ""
    texts: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()
    filter: str = ""
    top_k: int = 5
    bulk_items: int = 64
    id_prefix: str = "bench"
    timeout: float = 60.0
    token: str = field(default="", repr=False)
    tls: Tls | None = None

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Mapping[str, Operation]]:
        """Connect, and see that the server answers."""
        # What fails is to be counted, not repeated.
        options = [("grpc.enable_retries", 0)]
        client = AsyncClient(self.address, timeout=self.timeout, token=self.token, tls=self.tls, options=options)
        async with client:
            await client.info()
            yield _Operations(client, self).by_name()


class _Operations:
    def __init__(self, client: AsyncClient, target: ClipseekTarget) -> None:
        self._client = client
        self._target = target
        self._pictures: dict[int, bytes] = {}

    def by_name(self) -> Mapping[str, Operation]:
        return {name: getattr(self, name) for name in OPERATIONS if self._target.pictures or name not in WITH_PICTURES}

    async def search_text(self, number: int) -> Done:
        target = self._target
        result = await self._client.search_text(
            self._text(number), collection=target.collection, filter=target.filter, top_k=target.top_k
        )
        return Done(stages=_stages(result.timing))

    async def search_image(self, number: int) -> Done:
        target = self._target
        result = await self._client.search_image(
            await self._picture(number), collection=target.collection, filter=target.filter, top_k=target.top_k
        )
        return Done(stages=_stages(result.timing))

    async def embed_text(self, number: int) -> Done:
        await self._client.embed_text(self._text(number))
        return Done()

    async def embed_image(self, number: int) -> Done:
        await self._client.embed_image(await self._picture(number))
        return Done()

    async def insert(self, number: int) -> Done:
        inserted = await self._client.insert(
            await self._picture(number),
            image_id=f"{self._target.id_prefix}-{number}",
            collection=self._target.collection,
        )
        return Done(stages=_stages(inserted.timing))

    async def bulk_import(self, number: int) -> Done:
        failures: Counter[str] = Counter()
        stored = 0
        async for result in self._client.insert_stream(
            self._items(number), collection=self._target.collection, patience=0
        ):
            if result.error is None:
                stored += 1
            else:
                failures[result.error.code.name] += 1
        return Done(items=stored, failures=failures)

    def _items(self, number: int) -> Iterator[InsertItem]:
        target = self._target
        for at in range(target.bulk_items):
            path = target.pictures[(number * target.bulk_items + at) % len(target.pictures)]
            yield InsertItem(Path(path), image_id=f"{target.id_prefix}-{number}-{at}")

    def _text(self, number: int) -> str:
        texts = self._target.texts
        return texts[number % len(texts)] if texts else sentence(number)

    async def _picture(self, number: int) -> bytes:
        index = number % len(self._target.pictures)
        if (kept := self._pictures.get(index)) is not None:
            return kept
        data = await asyncio.to_thread(Path(self._target.pictures[index]).read_bytes)
        if len(self._pictures) < _KEPT_PICTURES:
            self._pictures[index] = data
        return data


def _stages(timing: Timing) -> dict[str, float]:
    return {
        "decode": timing.decode,
        "queue": timing.queue,
        "inference": timing.inference,
        "index": timing.index,
        "total": timing.total,
    }
