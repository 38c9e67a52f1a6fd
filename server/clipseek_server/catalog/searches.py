"""Search: a weighted sum of terms becomes one query vector; the nearest records become hits."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipseek_server.catalog.collections import Collections
from clipseek_server.catalog.concurrency import gather
from clipseek_server.catalog.interfaces import CollectionIndex, ImageStore, Model
from clipseek_server.catalog.views import NOTHING_MORE, ImageView, ReadMask, image_not_found, view_images
from clipseek_server.errors import ClipseekError, InvalidField, SpaceMismatch
from clipseek_server.index.filters import parse_filter
from clipseek_server.index.records import CollectionInfo, Effort, Vector
from clipseek_server.telemetry import Call

MIN_LENGTH = 1e-6
"""A vector shorter than this has no direction worth searching for."""


@dataclass(frozen=True, slots=True)
class Text:
    """A sentence."""

    text: str


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture's file."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored picture of the collection, by its id; left out of the hits."""

    image_id: str


@dataclass(frozen=True, slots=True)
class Given:
    """A vector that the caller has; ``space_id`` is checked unless empty."""

    values: npt.NDArray[np.float32]
    space_id: str = ""


@dataclass(frozen=True, slots=True)
class Term:
    """A part of a query.

    Attributes:
        source: What it is.
        weight: Not 0, finite.
        field: Where it stands in the request, for messages.
    """

    source: Text | Picture | Stored | Given
    weight: float = 1.0
    field: str = ""


@dataclass(frozen=True, slots=True)
class Query:
    """What to search for."""

    collection: str
    terms: Sequence[Term]
    top_k: int
    offset: int = 0
    filter: str = ""
    min_score: float | None = None
    effort: Effort = Effort.DEFAULT
    strong: bool = False
    mask: ReadMask = NOTHING_MORE


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found, best first.

    Attributes:
        hits: Images with their cosine similarity.
        text_truncated: At least one text was longer than the context.
        info: The collection searched.
        model: The model that serves it, if one is loaded.
    """

    hits: list[tuple[ImageView, float]]
    text_truncated: bool
    info: CollectionInfo
    model: Model | None


class Searches:
    """Searches collections."""

    def __init__(self, collections: Collections, store: ImageStore) -> None:
        self._collections = collections
        self._store = store

    async def search(self, query: Query, call: Call) -> Found:
        """Find the nearest pictures.

        Raises:
            InvalidField: The terms cancel each other out, or a vector has no direction or the wrong length.
            InvalidFilter: The filter cannot be parsed.
            InvalidImage, ImageTooLarge: A picture cannot be decoded.
            ImageNotFound: A stored picture is not there.
            SpaceMismatch: A vector is of another space, or no loaded model serves the collection.
            EffortNotServed: The index does not serve the effort.
        """
        condition = parse_filter(query.filter, field="options.filter")
        own_ids = {term.source.image_id for term in query.terms if isinstance(term.source, Stored)}

        async def search(index: CollectionIndex) -> Found:
            vector, truncated = await self._query_vector(index, query.terms, call)
            matches = await index.search(
                vector,
                query.offset + query.top_k + len(own_ids),
                call,
                filter=condition,
                effort=query.effort,
                strong=query.strong,
            )
            others = [match for match in matches if match.record.image_id not in own_ids]
            if query.min_score is not None:
                others = [match for match in others if match.score >= query.min_score]
            page = others[query.offset : query.offset + query.top_k]
            images = await view_images(
                [match.record for match in page], query.mask, index, self._store, call, strong=query.strong
            )
            hits = [(image, match.score) for image, match in zip(images, page, strict=True)]
            return Found(hits, truncated, index.info, self._collections.models.serving(index.info))

        return await self._collections.read(query.collection, search)

    async def _query_vector(self, index: CollectionIndex, terms: Sequence[Term], call: Call) -> tuple[Vector, bool]:
        embedded = await gather(self._embed(index, term, call) for term in terms)
        if len(terms) == 1 and terms[0].weight > 0:  # most searches: it has length 1 already
            return embedded[0]
        total = np.zeros(index.info.dimension, dtype=np.float64)
        for term, (vector, _) in zip(terms, embedded, strict=True):
            total += term.weight * vector.astype(np.float64)
        length = float(np.linalg.norm(total))
        if length < MIN_LENGTH:
            raise InvalidField("the terms cancel each other out; change their weights", field="terms")
        return (total / length).astype(np.float32), any(truncated for _, truncated in embedded)

    async def _embed(self, index: CollectionIndex, term: Term, call: Call) -> tuple[Vector, bool]:
        match term.source:
            case Text(text):
                embedded = await self._collections.models.required(index.info).embed_text(text, call)
                return embedded.vector, embedded.truncated
            case Picture(data):
                model = self._collections.models.required(index.info)
                try:
                    picture = await model.decode(data, call, thumbnail=False)
                except ClipseekError as error:
                    error.field = term.field
                    raise
                return await model.embed_picture(picture.pixels, call), False
            case Stored(image_id):
                row = (await index.get_rows([image_id], call)).get(image_id)
                if row is None:
                    raise image_not_found(index.info.name, image_id, field=term.field)
                return row.vector, False
            case Given(values, space_id):
                return _checked(values, space_id, index.info, term.field), False


def _checked(values: npt.NDArray[np.float32], space_id: str, info: CollectionInfo, field: str) -> Vector:
    if space_id and space_id != info.space_id:
        raise SpaceMismatch(
            f"the embedding is of another space than collection {info.name!r}; embed it with the collection's model",
            field=field,
            collection=info.name,
            collection_space_id=info.space_id,
            embedding_space_id=space_id,
        )
    if len(values) != info.dimension:
        raise InvalidField(
            f"the embedding has {len(values)} values, but the collection's vectors have {info.dimension}", field=field
        )
    precise = values.astype(np.float64)  # the length of large float32 numbers is no float32
    length = float(np.linalg.norm(precise))
    if not np.isfinite(length) or length < MIN_LENGTH:
        raise InvalidField("the embedding must be finite and longer than 1e-6", field=field)
    return (precise / length).astype(np.float32)
