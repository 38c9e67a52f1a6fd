"""What calls return: small frozen dataclasses, made from the messages in ``responses``."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias

from clipseek.errors import ClipseekError
from clipseek.requests import InsertItem

# A value of metadata as it comes back; whole numbers are ints.
Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None


@dataclass(frozen=True)
class Embedding:
    """A vector; those of one ``space_id`` can be compared."""

    values: tuple[float, ...]
    space_id: str

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[float]:
        return iter(self.values)

    def __repr__(self) -> str:
        return f"Embedding({len(self.values)} values, space_id={self.space_id[:8]!r}…)"


@dataclass(frozen=True)
class Image:
    """The record of one stored picture.

    Attributes:
        image_id: Unique in its collection.
        collection: The collection that holds it.
        width: In pixels, after the EXIF orientation was applied.
        height: Likewise.
        media_type: e.g. ``image/jpeg``.
        size_bytes: Length of the picture's file.
        metadata: What was attached to it.
        created: When the id was first inserted, in UTC.
        updated: When picture or metadata last changed, in UTC.
        content_sha256: Lower-case hex SHA-256 of the picture's bytes.
        thumbnail: JPEG of at most 256 pixels a side, if asked for.
        embedding: The stored vector, if asked for.
    """

    image_id: str
    collection: str
    width: int
    height: int
    media_type: str
    size_bytes: int
    metadata: Mapping[str, Json]
    created: datetime = field(repr=False)
    updated: datetime = field(repr=False)
    content_sha256: str = field(repr=False)
    thumbnail: bytes | None = field(default=None, repr=False)
    embedding: Embedding | None = field(default=None, repr=False)


@dataclass(frozen=True)
class ModelRef:
    """The model that answered."""

    name: str
    space_id: str = field(repr=False)
    precision: str


@dataclass(frozen=True)
class Timing:
    """Seconds that a call spent on the server, by stage; none is longer than the total, but they can overlap."""

    decode: float
    queue: float
    inference: float
    index: float
    store: float
    total: float


@dataclass(frozen=True)
class Hit:
    """One answer to a search; ``score`` is the cosine, in [-1, 1], higher is nearer."""

    image: Image
    score: float

    @property
    def image_id(self) -> str:
        """The id of the picture found."""
        return self.image.image_id


@dataclass(frozen=True)
class SearchResult:
    """The hits of a search, best first: iterate over it, index it, or ask for its length."""

    hits: tuple[Hit, ...]
    model: ModelRef
    timing: Timing = field(repr=False)
    text_truncated: bool = False

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)

    def __getitem__(self, index: int) -> Hit:
        return self.hits[index]


@dataclass(frozen=True)
class Inserted:
    """What an insert did: ``outcome`` is ``created``, ``updated`` or ``unchanged``."""

    image: Image
    outcome: str
    model: ModelRef = field(repr=False)
    timing: Timing = field(repr=False)

    @property
    def image_id(self) -> str:
        """The id that the picture is stored under."""
        return self.image.image_id


@dataclass(frozen=True)
class BulkResult:
    """What became of one item of ``insert_many`` or ``insert_stream``.

    Attributes:
        index: Its place in the iterable, from 0.
        item: The item itself.
        image_id: The id it is stored under; empty when it failed.
        outcome: ``created``, ``updated`` or ``unchanged``; empty when it failed.
        error: Why it is not stored, or ``None``.
    """

    index: int
    item: InsertItem
    image_id: str = ""
    outcome: str = ""
    error: ClipseekError | None = None


@dataclass(frozen=True)
class BulkSummary:
    """What became of the items of ``insert_many``.

    Attributes:
        created: How many were stored under a new id.
        updated: How many took the place of what was stored.
        unchanged: How many were stored before; with ``keep`` also those whose id another picture has.
        failed: How many have an ``error``.
        failures: The first ten of those.
    """

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    failed: int = 0
    failures: tuple[BulkResult, ...] = ()


@dataclass(frozen=True)
class ImageBatch:
    """The records that exist, in the order asked for, and the ids that no picture has."""

    images: tuple[Image, ...]
    missing: tuple[str, ...]

    def __iter__(self) -> Iterator[Image]:
        return iter(self.images)

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Deleted:
    """How many pictures were deleted, and the ids that no picture had."""

    count: int
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Embedded:
    """What became of one item to embed: ``embedding`` or ``error`` is set, not both.

    Attributes:
        embedding: The vector.
        error: Why there is none.
        text_truncated: The sentence was longer than the model reads; only its beginning was used.
    """

    embedding: Embedding | None = None
    error: ClipseekError | None = None
    text_truncated: bool = False

    def unwrap(self) -> Embedding:
        """The embedding; raises the error if there is none."""
        if self.embedding is None:
            raise self.error or ClipseekError("the server sent neither an embedding nor an error")
        return self.embedding


@dataclass(frozen=True)
class RebuildProgress:
    """How far a rebuild is: ``embedding``, ``checking``, ``switching``, ``dropping``, ``done`` or ``failed``."""

    rebuild_id: str
    phase: str
    images_done: int
    images_total: int


@dataclass(frozen=True)
class Generation:
    """One physical copy of a collection; ``rebuild`` is set while a rebuild makes it."""

    name: str
    live: bool
    rebuild: RebuildProgress | None = None


@dataclass(frozen=True)
class Collection:
    """A named set of pictures in one vector space.

    Attributes:
        name: Its name.
        image_count: How many pictures it holds.
        model: The model whose vectors it holds; its name is empty when none that is loaded serves it.
        dimension: Length of its vectors.
        index: What answers searches, for people.
        efforts: Which ``effort`` its searches take.
        created: When it was made, in UTC.
        uid: Another one after it is dropped and made again.
        generations: Its physical copies.
    """

    name: str
    image_count: int
    model: ModelRef
    dimension: int
    index: str
    efforts: tuple[str, ...]
    created: datetime = field(repr=False)
    uid: str = field(repr=False)
    generations: tuple[Generation, ...] = field(repr=False)


@dataclass(frozen=True)
class Difference:
    """Something that does not fit in a collection; ``kind`` is e.g. ``missing_bytes``."""

    kind: str
    image_id: str
    message: str


@dataclass(frozen=True)
class CheckProgress:
    """What a check has found since the last one, and how far it is."""

    differences: tuple[Difference, ...]
    images_checked: int
    images_total: int


@dataclass(frozen=True)
class Model:
    """A loaded model; the fields are those of ``clipseek.v1.Model``."""

    name: str
    description: str
    source: str = field(repr=False)
    space_id: str = field(repr=False)
    dimension: int
    precision: str
    context_length: int
    logit_scale: float
    vision_providers: tuple[str, ...]
    text_providers: tuple[str, ...]
    fp32_agreement: float


@dataclass(frozen=True)
class IndexInfo:
    """What stores and searches the vectors."""

    engine: str
    engine_version: str
    index_type: str
    index_params: Mapping[str, str]
    default_consistency: str


@dataclass(frozen=True)
class Limits:
    """What a request must respect; the fields are those of ``clipseek.v1.Limits``, durations in seconds."""

    max_message_bytes: int
    max_image_bytes: int
    max_image_pixels: int
    max_top_k: int
    max_top_k_with_mask: int
    max_offset_plus_top_k: int
    max_search_terms: int
    max_batch_items: int
    max_batch_ids: int
    max_page_size: int
    max_metadata_bytes: int
    max_text_characters: int
    max_image_side: int
    max_filter_characters: int
    max_filter_comparisons: int
    max_filter_depth: int
    max_metadata_depth: int
    max_small_message_bytes: int
    max_bulk_streams: int
    message_timeout: float
    bulk_idle_timeout: float
    max_call_duration: float


@dataclass(frozen=True)
class ServerInfo:
    """What a server is and what it takes; the first model is its default."""

    version: str
    models: tuple[Model, ...]
    index: IndexInfo
    limits: Limits = field(repr=False)
    media_types: tuple[str, ...] = field(repr=False)
