"""Embedding without storing."""

from __future__ import annotations

from collections.abc import Iterable

from clipseek import requests, responses
from clipseek._async.concurrency import in_thread
from clipseek._async.connection import AsyncConnection
from clipseek.batches import Batcher
from clipseek.channel import new_request_id, until
from clipseek.errors import InvalidArgumentError
from clipseek.pictures import Picture, check_size, picture_bytes
from clipseek.results import Embedded, Embedding
from clipseek.v1 import embedding_service_pb2

# ruff: noqa: ASYNC109 -- "timeout" is the deadline that the server sees too; cancelling here would not tell it.

# Larger messages make a batch wait for its last picture.
BATCH_BYTES = 8 * 1024 * 1024


class AsyncEmbeddings(AsyncConnection):
    """Vectors for sentences and pictures; nothing is stored, and Milvus is not needed."""

    async def embed_text(
        self, text: str, *, model: str = "", timeout: float | None = None, request_id: str = ""
    ) -> Embedding:
        """The embedding of one sentence; ``model`` empty means the server's default.

        Example:
            >>> async with AsyncClient() as client:
            ...     embedding = await client.embed_text("a cat")
            ...     print(len(embedding), embedding.space_id)
        """
        results = await self.embed_texts([text], model=model, timeout=timeout, request_id=request_id)
        return results[0].unwrap()

    async def embed_texts(
        self, texts: Iterable[str], *, model: str = "", timeout: float | None = None, request_id: str = ""
    ) -> tuple[Embedded, ...]:
        """The embeddings of many sentences, in their order; one that fails does so alone.

        As many requests as the server's limits need, one after the other, all within ``timeout``.

        Example:
            >>> async with AsyncClient() as client:
            ...     cat, dog = await client.embed_texts(["a cat", "a dog"])
            ...     print(len(cat.unwrap()))

        Raises:
            InvalidArgumentError: A sentence is no Unicode text.
            ClipseekError: Among others, a sentence is by itself larger than a message may be; none is answered then.
            TypeError: The sentences are one string.
        """
        requests.check_many(texts, "texts")
        request_id = request_id or new_request_id()
        end = self._end(timeout)
        limits = await self._server_limits(end, request_id)
        batcher = Batcher[str](max_items=limits.max_batch_items, max_bytes=limits.max_small_message_bytes // 2)
        batches = [full for text in texts if (full := batcher.add(text, 4 * len(text)))]
        results: list[Embedded] = []
        for batch in [*batches, batcher.take()]:
            if not batch:
                continue
            request = requests.build(embedding_service_pb2.EmbedTextRequest, texts=batch, model=model)
            message = await self._call(self._embedding.EmbedText, request, timeout=until(end), request_id=request_id)
            results += responses.embedded(message.results, request_id=request_id)
        return tuple(results)

    async def embed_image(
        self, picture: Picture, *, model: str = "", timeout: float | None = None, request_id: str = ""
    ) -> Embedding:
        """The embedding of one picture: bytes, a path or a PIL image.

        Example:
            >>> async with AsyncClient() as client:
            ...     print(len(await client.embed_image("cat.jpg")))
        """
        results = await self.embed_images([picture], model=model, timeout=timeout, request_id=request_id)
        return results[0].unwrap()

    async def embed_images(
        self, pictures: Iterable[Picture], *, model: str = "", timeout: float | None = None, request_id: str = ""
    ) -> tuple[Embedded, ...]:
        """The embeddings of many pictures, in their order; one that fails does so alone.

        As many requests as the server's limits need, one after the other, all within ``timeout``, the reading of files
        included: give many pictures more than the client's default.

        Example:
            >>> async with AsyncClient() as client:
            ...     for embedded in await client.embed_images(["cat.jpg", "dog.jpg"]):
            ...         print(embedded.error or len(embedded.unwrap()))

        Raises:
            OSError: A picture's file cannot be read.
            TypeError: The pictures are one path, or the bytes of one.
        """
        requests.check_many(pictures, "pictures")
        request_id = request_id or new_request_id()
        end = self._end(timeout)
        limits = await self._server_limits(end, request_id)
        batcher = Batcher[bytes](
            max_items=limits.max_batch_items, max_bytes=min(BATCH_BYTES, limits.max_message_bytes // 2)
        )
        results: list[Embedded] = []

        async def embed(batch: list[bytes]) -> None:
            if batch:
                request = requests.build(embedding_service_pb2.EmbedImageRequest, images=batch, model=model)
                message = await self._call(
                    self._embedding.EmbedImage, request, timeout=until(end), request_id=request_id
                )
                results.extend(responses.embedded(message.results, request_id=request_id))

        for picture in pictures:
            data = await in_thread(picture_bytes, picture)
            try:
                check_size(data, limits.max_image_bytes)
            except InvalidArgumentError as error:
                await embed(batcher.take())
                results.append(Embedded(error=error))
            else:
                await embed(batcher.add(data, len(data)))
        await embed(batcher.take())
        return tuple(results)
