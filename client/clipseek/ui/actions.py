"""What the page does when something is clicked: calls of the client, and their answers as HTML.

Nothing is remembered here: one ``Actions`` serves all sessions of a language.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from clipseek import Client, InsertItem, InvalidArgumentError, NotFoundError
from clipseek.results import Limits, Model, ServerInfo
from clipseek.ui import markup
from clipseek.ui.problems import EXPECTED, explain
from clipseek.ui.query import Query, QueryPicture
from clipseek.ui.uploads import Sent, Uploads
from clipseek.ui.words import Words

_PATIENCE_SECONDS = 10.0
"""For a server that is away while pictures are added: somebody looks at the page and waits."""


class Actions:
    """The actions of the page in one language.

    Args:
        client: Of the server.
        words: The language.
        folder: Where the browsers' files come to lie.
    """

    def __init__(self, client: Client, words: Words, folder: Path) -> None:
        self.words = words
        self._client = client
        self._uploads = Uploads(folder)

    def about(self, collection: str) -> tuple[str, Limits]:
        """What the server is for a collection, and what it takes; raises what the client does."""
        info = self._client.info()
        return markup.header(info, self._model(info, collection), self.words), info.limits

    def _model(self, info: ServerInfo, collection: str) -> Model | None:
        try:
            name = self._client.get_collection(collection).model.name
        except (NotFoundError, InvalidArgumentError):
            return info.models[0]  # with which it would be made
        return next((model for model in info.models if model.name == name), None)

    def away(self, error: Exception) -> str:
        """What stands for that while no server answers."""
        return markup.header_without_server(self.words, self.problem(error, ""))

    def collections(self) -> list[str]:
        """The collections' names, in their order."""
        return [collection.name for collection in self._client.collections()]

    def search(self, query: Query) -> tuple[str, str]:
        """A line that says what was found, or what was wrong, and the pictures; without anything to ask, a listing."""
        try:
            return self._search(query) if query.asks() else self._list(query)
        except EXPECTED as error:
            return self.problem(error, query.collection), ""

    def _search(self, query: Query) -> tuple[str, str]:
        terms = query.terms()
        if not terms:
            return markup.problem(self.words.no_weight), ""
        result = self._client.search(
            *terms,
            collection=query.collection,
            top_k=query.top_k,
            min_score=query.min_score,
            filter=query.filter,
            with_thumbnails=True,
        )
        if not result.hits:
            return markup.note(self._nothing(query, self.words.nothing_found)), ""
        line = self.words.found.format(
            count=len(result), collection=query.collection, milliseconds=f"{result.timing.total * 1000:.0f}"
        )
        notes = [line] + [self.words.truncated] * result.text_truncated
        return markup.note(*notes), markup.hits(result.hits, self.words)

    def _list(self, query: Query) -> tuple[str, str]:
        images = self._client.list(
            collection=query.collection, filter=query.filter, page_size=query.top_k, with_thumbnails=True
        )
        try:
            first = list(islice(images, query.top_k))
        except NotFoundError:
            # Nothing was asked for: no reason to be alarmed.
            return markup.note(self.words.no_collection.format(collection=query.collection)), ""
        if not first:
            return markup.note(self._nothing(query, self.words.nothing_left)), ""
        if query.filter:
            line = self.words.listed_filtered.format(count=len(first), collection=query.collection)
        else:
            total = self._client.get_collection(query.collection).image_count
            line = self.words.listed.format(count=len(first), total=f"{total:,}", collection=query.collection)
        return markup.note(line), markup.images(first, self.words)

    def _nothing(self, query: Query, otherwise: str) -> str:
        empty = self._client.get_collection(query.collection).image_count == 0
        return self.words.empty.format(collection=query.collection) if empty else otherwise

    def keep(self, sent: Sent) -> QueryPicture:
        """A picture to search with; raises what ``Uploads.keep`` does."""
        return QueryPicture(sent.name, path=self._uploads.keep(sent))

    def stored(self, image_id: str, collection: str) -> QueryPicture:
        """A stored picture to search with; raises what the client does."""
        image = self._client.get(image_id, collection=collection, with_thumbnail=True)
        return QueryPicture(
            markup.name(image), image_id=image_id, collection=image.collection, thumbnail=image.thumbnail
        )

    def show(self, image_id: str, collection: str) -> str:
        """The details of a stored picture; raises what the client does."""
        return markup.details(self._client.get(image_id, collection=collection), self.words)

    def remove(self, image_id: str, name: str, collection: str) -> str:
        """Delete a picture; returns a line about it."""
        try:
            deleted = self._client.delete(image_id, collection=collection)
        except EXPECTED as error:
            return self.problem(error, collection)
        line = self.words.deleted_before if deleted.missing else self.words.deleted
        return markup.note(line.format(name=name))

    def store(self, sent: Sequence[Sent], collection: str) -> Iterator[str]:
        """Add pictures, and say after each how far it is and what was not stored; the files are removed at the end."""
        outcomes, failures = Counter[str](), list[tuple[str, str]]()
        stopped = ""

        def failed(name: str, error: Exception) -> None:
            ours, theirs = explain(error, self.words, collection)
            failures.append((name, f"{ours} {theirs}".rstrip()))

        try:
            with self._uploads.batch() as link:
                names, items = list[str](), list[InsertItem]()
                for file in sent:
                    try:
                        items.append(InsertItem(link(file), metadata={"file": file.name}))
                        names.append(file.name)
                    except EXPECTED as error:
                        failed(file.name, error)
                yield markup.storing(len(failures), len(sent), self.words)
                results = self._client.insert_stream(
                    items, collection=collection, on_exists="keep", patience=_PATIENCE_SECONDS
                )
                for done, result in enumerate(results, len(failures) + 1):
                    if result.error is None:
                        outcomes[result.outcome] += 1
                    else:
                        failed(names[result.index], result.error)
                    yield markup.storing(done, len(sent), self.words)
        except EXPECTED as error:
            stopped = self.problem(error, collection)
        yield markup.stored(outcomes, failures, stopped, self.words)

    def problem(self, error: Exception, collection: str) -> str:
        """An error as a line that says what to do."""
        return markup.problem(*explain(error, self.words, collection))

    def original(self, image_id: str, collection: str) -> tuple[str, bytes]:
        """Media type and bytes of a picture; raises ``NotFoundError`` if there is none."""
        image = self._client.get(image_id, collection=collection)
        return image.media_type, self._client.download(image_id, collection=collection)
