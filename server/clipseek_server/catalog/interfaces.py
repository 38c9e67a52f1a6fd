"""What the domain needs of the rooms below it: a model, an index, an image store."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from clipseek_server.encoding.bundle import Manifest
from clipseek_server.encoding.pictures import DecodedPicture
from clipseek_server.encoding.texts import EmbeddedText
from clipseek_server.images.blobs import Blob
from clipseek_server.index.filters import Filter
from clipseek_server.index.records import CollectionInfo, Effort, Match, Record, Row, Vector
from clipseek_server.telemetry import Call


class Model(Protocol):
    """A loaded bundle."""

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""

    @property
    def vision_providers(self) -> Sequence[str]:
        """The ONNX Runtime providers that the vision session got."""

    @property
    def text_providers(self) -> Sequence[str]:
        """The ONNX Runtime providers that the text session got."""

    async def decode(self, data: bytes, call: Call, *, thumbnail: bool) -> DecodedPicture:
        """Decode a picture off the event loop, unless ``embed_picture`` would refuse it; the result is small.

        Raises:
            InvalidImage: Not a whole picture of a supported format.
            ImageTooLarge: Too many bytes or pixels, by its header.
            Overloaded: Too many pictures wait to be decoded or embedded.
            DeadlineExceeded: The deadline passed before decoding began, or will before the picture could be embedded.
        """

    async def embed_picture(self, pixels: npt.NDArray[np.uint8], call: Call) -> Vector:
        """Embed decoded pixels; ``Overloaded`` when the queue is full."""

    async def embed_text(self, text: str, call: Call) -> EmbeddedText:
        """Embed a text; ``Overloaded`` when the queue is full."""


class CollectionIndex(Protocol):
    """One generation of a collection.

    Every method raises ``CollectionGone`` when the generation was dropped (open the name again, once) and
    ``IndexUnavailable`` when Milvus does not answer. ``strong`` reads see all acknowledged writes.
    """

    @property
    def info(self) -> CollectionInfo:
        """What it is."""

    async def ready(self) -> None:
        """Return when it searches as fast as it ever will."""

    async def get(self, image_ids: Sequence[str], call: Call, *, strong: bool = True) -> dict[str, Record]:
        """The records that exist, by id; ids without a record are absent. What waits goes as one query."""

    async def get_rows(self, image_ids: Sequence[str], call: Call, *, strong: bool = True) -> dict[str, Row]:
        """As ``get``, with the vectors."""

    async def upsert(self, row: Row, call: Call) -> None:
        """Write a row; on return it is durable, and with Milvus Lite seen by searches. Rows that wait go together."""

    async def delete(self, image_ids: Sequence[str], call: Call) -> None:
        """Delete rows; ids without a record do not matter."""

    async def search(
        self,
        vector: Vector,
        limit: int,
        call: Call,
        *,
        filter: Filter | None,
        effort: Effort,
        strong: bool,
    ) -> list[Match]:
        """The nearest records, best first, ties by id; ``EffortNotServed`` where the index cannot."""

    async def page(
        self,
        after: str,
        limit: int,
        call: Call,
        *,
        filter: Filter | None,
        strong: bool,
    ) -> list[Record]:
        """At most ``limit`` records with ids greater than ``after``, in the order of the ids; fewer only at the end."""

    async def count(self, call: Call, *, strong: bool) -> int:
        """How many records there are."""

    async def verify_resident(self, call: Call) -> list[str]:
        """Ids whose copy in memory differs from Milvus; empty where there is no copy."""


class Index(Protocol):
    """All collections of one Milvus."""

    @property
    def engine(self) -> str:
        """``milvus-lite`` or ``milvus``."""

    @property
    def engine_version(self) -> str:
        """Empty until Milvus answered once."""

    @property
    def index_type(self) -> str:
        """How new collections are indexed: ``FLAT``, ``IVF_FLAT``, ``HNSW`` or ``AUTOINDEX``."""

    @property
    def index_params(self) -> dict[str, str]:
        """The parameters of that index."""

    @property
    def default_consistency(self) -> str:
        """``bounded`` or ``strong``: what an unspecified consistency means in searches and listings."""

    async def ping(self) -> None:
        """Raise ``IndexUnavailable`` unless Milvus answers."""

    async def follow(self) -> None:
        """See, for a few names at a time, whether somebody else made another generation live."""

    async def open(self, name: str) -> CollectionIndex:
        """The live generation behind a name; loaded, cached.

        Raises:
            CollectionNotFound: There is none.
        """

    async def create(self, name: str, *, space_id: str, precision: str, dimension: int) -> tuple[CollectionIndex, bool]:
        """Get or make a collection; the flag says whether this call made it. Racing calls all get the one that won."""

    async def names(self) -> list[str]:
        """All collections' names, sorted."""

    async def uids(self) -> set[str]:
        """The uids of all collections, of generations without an alias too. Always fresh."""

    async def drop(self, name: str, uid: str) -> None:
        """Drop a collection: the alias first, then every generation behind the name.

        Raises:
            CollectionNotFound: It is gone; another of that name stays.
        """

    async def check_writable(self, generation: CollectionInfo) -> None:
        """See that a write to a generation would count.

        Raises:
            CollectionHeld: Another server rebuilds the collection.
            CollectionGone: Another generation is live: open the name again.
        """

    async def begin_generation(self, current: CollectionInfo, *, precision: str) -> CollectionIndex:
        """A new, empty generation with the same uid and space, without an alias. Nobody sweeps it until it is settled.

        From now on no other server acknowledges a write to the current one.

        Raises:
            CollectionHeld: Another server rebuilds the collection.
            CollectionGone: The current generation is not live any more.
        """

    async def publish(self, generation: CollectionInfo) -> None:
        """Make a generation the live one behind its name.

        Raises:
            CollectionNotFound: The collection was dropped meanwhile.
            IndexUnavailable: Writes may not have been held all the time; or the outcome is unknown: ``settle`` tells.
        """

    async def settle(self, generation: CollectionInfo) -> bool:
        """End what ``begin_generation`` began: drop what is not live, and let writes go. Returns whether it is live."""

    async def sweep(self, grace: float) -> list[str]:
        """Drop generations without an alias that are older than ``grace`` seconds; returns their names."""

    async def close(self) -> None:
        """Finish what was begun, flush, and let go of Milvus."""


class ImageStore(Protocol):
    """Where bytes are. Keys are ``/``-separated; every method raises ``ImageStoreUnavailable`` when it cannot."""

    async def put(self, key: str, data: bytes) -> None:
        """Store bytes under a new key; they are durable on return (fsync). ``FileExistsError`` when it has bytes."""

    async def size(self, key: str) -> int | None:
        """How many bytes the key has; ``None`` when there are none."""

    async def get(self, key: str) -> bytes | None:
        """The bytes, or ``None`` when there are none."""

    def chunks(self, key: str, size: int) -> AsyncIterator[bytes]:
        """The bytes in pieces of ``size``; raises ``ImageStoreUnavailable`` when there are none."""

    def list(self, prefix: str = "") -> AsyncIterator[Blob]:
        """Everything below a prefix, in no particular order."""

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete; keys without bytes do not matter."""
