"""Searching."""

from __future__ import annotations

from typing import Any

from clipseek import requests, responses
from clipseek._async.concurrency import in_thread
from clipseek._async.connection import AsyncConnection
from clipseek.pictures import Picture, picture_bytes
from clipseek.requests import Consistency, Effort, Term
from clipseek.results import SearchResult
from clipseek.v1 import search_service_pb2

# ruff: noqa: ASYNC109 -- "timeout" is the deadline that the server sees too; cancelling here would not tell it.


class AsyncSearching(AsyncConnection):
    """The searches of a client."""

    async def search_text(
        self,
        text: str,
        *,
        collection: str = "",
        top_k: int = 5,
        offset: int = 0,
        filter: str = "",
        min_score: float | None = None,
        effort: Effort | None = None,
        consistency: Consistency | None = None,
        with_thumbnails: bool = False,
        with_embeddings: bool = False,
        timeout: float | None = None,
        request_id: str = "",
    ) -> SearchResult:
        """Find the pictures nearest to a sentence.

        Args:
            text: The sentence. What is longer than the model reads is cut off, and ``text_truncated`` says so.
            collection: Where to search; empty means ``default``.
            top_k: How many hits at most.
            offset: How many of the best hits to skip.
            filter: Only pictures that it holds for, e.g. ``metadata.album == "summer" and width >= 800``.
            min_score: Only hits with at least this cosine.
            effort: ``fast``, ``thorough`` or ``exact``; ``None`` is the index's default.
            consistency: ``strong`` sees every acknowledged write, ``bounded`` may lag; ``None``: the server's choice.
            with_thumbnails: Whether hits carry their thumbnails.
            with_embeddings: Whether hits carry their embeddings.
            timeout: Seconds; ``None`` is the client's default.
            request_id: Names the call in the server's log; made up when empty.

        Example:
            >>> async with AsyncClient() as client:
            ...     for hit in await client.search_text("a cat asleep on a sofa", top_k=3):
            ...         print(f"{hit.score:.3f} {hit.image_id}")
        """
        request = requests.build(
            search_service_pb2.SearchByTextRequest,
            collection=collection,
            text=text,
            options=requests.search_options(
                top_k=top_k,
                offset=offset,
                filter=filter,
                min_score=min_score,
                effort=effort,
                consistency=consistency,
                with_thumbnails=with_thumbnails,
                with_embeddings=with_embeddings,
            ),
        )
        message = await self._call(self._search.SearchByText, request, timeout=timeout, request_id=request_id)
        return responses.search_result(message)

    async def search_image(
        self,
        picture: Picture | None = None,
        *,
        image_id: str | None = None,
        collection: str = "",
        top_k: int = 5,
        offset: int = 0,
        filter: str = "",
        min_score: float | None = None,
        effort: Effort | None = None,
        consistency: Consistency | None = None,
        with_thumbnails: bool = False,
        with_embeddings: bool = False,
        timeout: float | None = None,
        request_id: str = "",
    ) -> SearchResult:
        """Find the pictures nearest to a picture: one that is given (it is not stored), or a stored one by its id.

        Args:
            picture: Bytes, a path or a PIL image.
            image_id: Instead of it: a stored picture's id; it is left out of the hits.
            collection: As in ``search_text``, like everything that follows.
            top_k: How many hits at most.
            offset: How many of the best hits to skip.
            filter: Only pictures that it holds for.
            min_score: Only hits with at least this cosine.
            effort: Latency against recall.
            consistency: How fresh the answer must be.
            with_thumbnails: Whether hits carry their thumbnails.
            with_embeddings: Whether hits carry their embeddings.
            timeout: Seconds; ``None`` is the client's default.
            request_id: Names the call in the server's log; made up when empty.

        Raises:
            ValueError: Both or neither of ``picture`` and ``image_id`` were given.
            OSError: The picture's file cannot be read.

        Example:
            >>> async with AsyncClient() as client:
            ...     result = await client.search_image("holiday/cat.jpg", filter='metadata.album == "summer"')
        """
        if (picture is None) == (image_id is None):
            raise ValueError("give either a picture or an image_id")
        source: dict[str, Any] = (
            {"image_id": image_id} if picture is None else {"image_data": await in_thread(picture_bytes, picture)}
        )
        request = requests.build(
            search_service_pb2.SearchByImageRequest,
            collection=collection,
            options=requests.search_options(
                top_k=top_k,
                offset=offset,
                filter=filter,
                min_score=min_score,
                effort=effort,
                consistency=consistency,
                with_thumbnails=with_thumbnails,
                with_embeddings=with_embeddings,
            ),
            **source,
        )
        message = await self._call(self._search.SearchByImage, request, timeout=timeout, request_id=request_id)
        return responses.search_result(message)

    async def search(
        self,
        *terms: Term | str,
        collection: str = "",
        top_k: int = 5,
        offset: int = 0,
        filter: str = "",
        min_score: float | None = None,
        effort: Effort | None = None,
        consistency: Consistency | None = None,
        with_thumbnails: bool = False,
        with_embeddings: bool = False,
        timeout: float | None = None,
        request_id: str = "",
    ) -> SearchResult:
        """Find the pictures nearest to a weighted sum of sentences, pictures, stored pictures and embeddings.

        Args:
            terms: What to add up; a plain string is a sentence.
            collection: As in ``search_text``, like everything that follows.
            top_k: How many hits at most.
            offset: How many of the best hits to skip.
            filter: Only pictures that it holds for.
            min_score: Only hits with at least this cosine.
            effort: Latency against recall.
            consistency: How fresh the answer must be.
            with_thumbnails: Whether hits carry their thumbnails.
            with_embeddings: Whether hits carry their embeddings.
            timeout: Seconds; ``None`` is the client's default.
            request_id: Names the call in the server's log; made up when empty.

        Example:
            >>> async with AsyncClient() as client:
            ...     terms = Term.picture("beach.jpg"), Term.text("at night"), Term.text("people", -0.3)
            ...     result = await client.search(*terms)
        """
        request = requests.build(
            search_service_pb2.SearchRequest,
            collection=collection,
            terms=[await in_thread(requests.term, term) for term in terms],
            options=requests.search_options(
                top_k=top_k,
                offset=offset,
                filter=filter,
                min_score=min_score,
                effort=effort,
                consistency=consistency,
                with_thumbnails=with_thumbnails,
                with_embeddings=with_embeddings,
            ),
        )
        message = await self._call(self._search.Search, request, timeout=timeout, request_id=request_id)
        return responses.search_result(message)
