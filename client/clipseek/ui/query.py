"""What is searched for: what a session of the page remembers between two clicks."""

from dataclasses import dataclass
from pathlib import Path

from clipseek import Term


@dataclass(frozen=True)
class QueryPicture:
    """The picture to search with: a file that was sent to the page, or a stored one.

    Attributes:
        name: What to call it.
        path: Where the page keeps it; ``None`` for a stored one.
        image_id: Of a stored one; only this id goes to the server.
        collection: That holds a stored one.
        thumbnail: JPEG of a stored one.
    """

    name: str
    path: Path | None = None
    image_id: str = ""
    collection: str = ""
    thumbnail: bytes | None = None

    def term(self, weight: float | None) -> Term:
        """Its part of a query."""
        return Term.image(self.image_id, weight) if self.path is None else Term.picture(self.path, weight)


@dataclass(frozen=True)
class Query:
    """All that a search needs; without sentence and picture it lists.

    Attributes:
        text: The sentence, or empty.
        picture: The picture, or ``None``.
        text_weight: How much the sentence counts beside the picture; 0 leaves it out.
        picture_weight: The other way round.
        collection: Where to search.
        top_k: How many hits at most.
        min_score: The least cosine, or ``None``.
        filter: In the server's language, or empty.
    """

    text: str
    picture: QueryPicture | None
    text_weight: float
    picture_weight: float
    collection: str
    top_k: int
    min_score: float | None
    filter: str

    def asks(self) -> bool:
        """Whether there is something to search for."""
        return bool(self.text or self.picture)

    def terms(self) -> list[Term]:
        """The parts of the query; none if the weights leave none."""
        if self.text and self.picture:
            terms = [Term.text(self.text, self.text_weight), self.picture.term(self.picture_weight)]
            return [term for term in terms if term.weight]
        if self.picture:
            return [self.picture.term(None)]
        return [Term.text(self.text)]
