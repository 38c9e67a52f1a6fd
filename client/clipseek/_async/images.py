"""Storing, reading and deleting single pictures and handfuls of them."""

from __future__ import annotations

import io
import itertools
from collections.abc import AsyncGenerator, Iterable
from os import PathLike
from typing import BinaryIO

from clipseek import requests, responses
from clipseek._async.concurrency import in_thread, sleep
from clipseek._async.connection import AsyncConnection
from clipseek.backoff import Backoff
from clipseek.channel import end_of, new_request_id, until
from clipseek.downloads import Download, destination
from clipseek.errors import UnavailableError
from clipseek.pictures import Picture, picture_bytes
from clipseek.requests import Consistency, Metadata, OnExists
from clipseek.results import Deleted, Image, ImageBatch, Inserted
from clipseek.v1 import search_service_pb2

# ruff: noqa: ASYNC109 -- "timeout" is the deadline that the server sees too; cancelling here would not tell it.


class AsyncImages(AsyncConnection):
    """What a client does with pictures and their records."""

    async def insert(
        self,
        picture: Picture,
        *,
        image_id: str | None = None,
        metadata: Metadata | None = None,
        collection: str = "",
        on_exists: OnExists = "replace",
        timeout: float | None = None,
        request_id: str = "",
    ) -> Inserted:
        """Store a picture. Repeating an insert is safe: the same bytes under the same id change nothing.

        When the server goes away before it has answered, the picture is sent again, unless ``on_exists`` is ``fail``.
        If it had been stored, the outcome is then ``unchanged``.

        Args:
            picture: Bytes, a path or a PIL image.
            image_id: The id to store it under; ``None`` means the SHA-256 of its bytes.
            metadata: What to attach, e.g. ``{"album": "summer"}``; ``None`` leaves what is stored.
            collection: Where to; empty means ``default``. It comes into being with its first picture.
            on_exists: When the id is taken: ``replace``, ``keep`` what is stored, or ``fail``.
            timeout: Seconds; ``None`` is the client's default.
            request_id: Names the call in the server's log; made up when empty.

        Raises:
            OSError: The picture's file cannot be read.

        Example:
            >>> async with AsyncClient() as client:
            ...     inserted = await client.insert("cat.jpg", metadata={"album": "summer"})
            ...     print(inserted.image_id, inserted.outcome)
        """
        request = requests.build(
            search_service_pb2.InsertRequest,
            collection=collection,
            image_data=await in_thread(picture_bytes, picture),
            image_id=image_id,
            metadata=requests.struct(metadata),
            on_exists=requests.on_exists(on_exists),
        )
        return responses.inserted(
            await self._call(
                self._search.Insert,
                request,
                timeout=timeout,
                request_id=request_id,
                repeatable=on_exists != "fail",
            )
        )

    async def get(
        self,
        image_id: str,
        *,
        collection: str = "",
        with_thumbnail: bool = False,
        with_embedding: bool = False,
        consistency: Consistency | None = None,
        timeout: float | None = None,
        request_id: str = "",
    ) -> Image:
        """The record of one picture; raises ``NotFoundError`` when there is none.

        Example:
            >>> async with AsyncClient() as client:
            ...     image = await client.get("cat", with_thumbnail=True)
            ...     print(image.width, image.height, image.metadata)
        """
        request = requests.build(
            search_service_pb2.GetImageRequest,
            collection=collection,
            image_id=image_id,
            read_mask=requests.read_mask(thumbnails=with_thumbnail, embeddings=with_embedding),
            consistency=requests.consistency(consistency),
        )
        message = await self._call(self._search.GetImage, request, timeout=timeout, request_id=request_id)
        return responses.image(message.image)

    async def get_many(
        self,
        image_ids: Iterable[str],
        *,
        collection: str = "",
        with_thumbnails: bool = False,
        with_embeddings: bool = False,
        consistency: Consistency | None = None,
        timeout: float | None = None,
        request_id: str = "",
    ) -> ImageBatch:
        """The records of many pictures, and which of them do not exist.

        As many requests as the server's limit needs, one after the other, all within ``timeout``.

        Example:
            >>> async with AsyncClient() as client:
            ...     batch = await client.get_many(["a", "b"])
            ...     print([image.image_id for image in batch], batch.missing)

        Raises:
            TypeError: The ids are one string.
        """
        requests.check_many(image_ids, "image_ids")
        end = self._end(timeout)
        limits = await self._server_limits(end, request_id)
        size = limits.max_top_k_with_mask if with_thumbnails or with_embeddings else limits.max_batch_ids
        images: tuple[Image, ...] = ()
        missing: tuple[str, ...] = ()
        for ids in _chunks(image_ids, size):
            request = requests.build(
                search_service_pb2.BatchGetImagesRequest,
                collection=collection,
                image_ids=ids,
                read_mask=requests.read_mask(thumbnails=with_thumbnails, embeddings=with_embeddings),
                consistency=requests.consistency(consistency),
            )
            message = await self._call(self._search.BatchGetImages, request, timeout=until(end), request_id=request_id)
            images += tuple(responses.image(image) for image in message.images)
            missing += tuple(message.missing_image_ids)
        return ImageBatch(images=images, missing=missing)

    async def update(
        self,
        image_id: str,
        metadata: Metadata,
        *,
        merge: bool = False,
        collection: str = "",
        timeout: float | None = None,
        request_id: str = "",
    ) -> Image:
        """Change a picture's metadata; picture and vector stay. Returns the record as it is then.

        Args:
            image_id: The picture.
            metadata: The new metadata as a whole; with ``merge`` only the keys to set, ``None`` removing one.
            merge: Whether keys that are not given stay as they are.
            collection: Where it is; empty means ``default``.
            timeout: Seconds; ``None`` is the client's default.
            request_id: Names the call in the server's log; made up when empty.

        Example:
            >>> async with AsyncClient() as client:
            ...     await client.update("cat", {"rating": 5, "draft": None}, merge=True)
        """
        if merge and not metadata:
            # An empty mask would mean "replace".
            return await self.get(image_id, collection=collection, timeout=timeout, request_id=request_id)
        values = {key: value for key, value in metadata.items() if value is not None} if merge else metadata
        request = requests.build(
            search_service_pb2.UpdateImageRequest,
            collection=collection,
            image_id=image_id,
            metadata=requests.struct(values),
            update_mask=requests.update_mask(metadata) if merge else None,
        )
        message = await self._call(self._search.UpdateImage, request, timeout=timeout, request_id=request_id)
        return responses.image(message.image)

    async def delete(
        self,
        image_ids: str | Iterable[str],
        *,
        collection: str = "",
        timeout: float | None = None,
        request_id: str = "",
    ) -> Deleted:
        """Delete one picture or many. An id that no picture has is no error; ``missing`` names it.

        As many requests as the server's limit needs, one after the other, all within ``timeout``. When the server goes
        away before it has answered, the ids are sent again: ``missing`` may then name pictures that this very call
        deleted, and ``count`` is less by them.

        Example:
            >>> async with AsyncClient() as client:
            ...     deleted = await client.delete(["a", "b"])
            ...     print(deleted.count, deleted.missing)
        """
        end = self._end(timeout)
        limits = await self._server_limits(end, request_id)
        count = 0
        missing: tuple[str, ...] = ()
        for ids in _chunks([image_ids] if isinstance(image_ids, str) else image_ids, limits.max_batch_ids):
            request = requests.build(search_service_pb2.BatchDeleteImagesRequest, collection=collection, image_ids=ids)
            message = await self._call(
                self._search.BatchDeleteImages, request, timeout=until(end), request_id=request_id
            )
            count += message.deleted_count
            missing += tuple(message.missing_image_ids)
        return Deleted(count=count, missing=missing)

    async def list(
        self,
        *,
        collection: str = "",
        filter: str = "",
        page_size: int = 0,
        with_thumbnails: bool = False,
        with_embeddings: bool = False,
        consistency: Consistency | None = None,
        timeout: float | None = None,
        request_id: str = "",
    ) -> AsyncGenerator[Image, None]:
        """All pictures of a collection in the order of their ids, fetched page by page as one goes.

        Args:
            collection: What to list; empty means ``default``.
            filter: Only pictures that it holds for.
            page_size: How many to fetch at a time; 0 means 100, or the server's limit where that is lower.
            with_thumbnails: Whether the images carry their thumbnails.
            with_embeddings: Whether the images carry their embeddings.
            consistency: How fresh the answer must be.
            timeout: Seconds for each page; ``None`` is the client's default.
            request_id: Names the calls in the server's log; made up when empty.

        Example:
            >>> async with AsyncClient() as client:
            ...     async for image in client.list(filter="width >= 800"):
            ...         print(image.image_id)
        """
        token = ""
        while True:
            request = requests.build(
                search_service_pb2.ListImagesRequest,
                collection=collection,
                filter=filter,
                page_size=page_size,
                page_token=token,
                read_mask=requests.read_mask(thumbnails=with_thumbnails, embeddings=with_embeddings),
                consistency=requests.consistency(consistency),
            )
            message = await self._call(self._search.ListImages, request, timeout=timeout, request_id=request_id)
            for image in message.images:
                yield responses.image(image)
            token = message.next_page_token
            if not token:
                return

    async def download(
        self,
        image_id: str,
        *,
        collection: str = "",
        consistency: Consistency | None = None,
        timeout: float | None = None,
        request_id: str = "",
    ) -> bytes:
        """A picture's original bytes, checked against the record's size and hash.

        There is no time limit unless ``timeout`` sets one. ``download_to`` needs less memory.

        Example:
            >>> async with AsyncClient() as client:
            ...     data = await client.download("cat")
        """
        file = io.BytesIO()
        await self._download(file, image_id, collection, consistency, timeout, request_id or new_request_id())
        return file.getvalue()

    async def download_to(
        self,
        image_id: str,
        path: str | PathLike[str],
        *,
        collection: str = "",
        consistency: Consistency | None = None,
        timeout: float | None = None,
        request_id: str = "",
    ) -> Image:
        """Write a picture's original bytes to a file, which appears only when they are whole. Returns the record.

        A file that is there is replaced; of a link, the file that it leads to.

        Example:
            >>> async with AsyncClient() as client:
            ...     image = await client.download_to("cat", "copy.png")

        Raises:
            ValueError: What is there is no file but a device, a pipe or a socket.
            OSError: The file cannot be written.
        """
        target = await in_thread(destination, path)
        # Not of the target's name, which may be as long as names can be, nor of the caller's request id: it may have
        # slashes, and two calls may share it.
        partial = target.with_name(f".clipseek-{new_request_id()}.part")
        try:
            with await in_thread(partial.open, "xb") as file:
                image = await self._download(
                    file, image_id, collection, consistency, timeout, request_id or new_request_id()
                )
            await in_thread(partial.replace, target)
        finally:
            await in_thread(partial.unlink, missing_ok=True)
        return image

    async def _download(
        self,
        file: BinaryIO,
        image_id: str,
        collection: str,
        consistency: Consistency | None,
        timeout: float | None,
        request_id: str,
    ) -> Image:
        """Write a picture's bytes to an empty file; from the start again when the server goes away meanwhile."""
        request = requests.build(
            search_service_pb2.DownloadImageRequest,
            collection=collection,
            image_id=image_id,
            consistency=requests.consistency(consistency),
        )
        end = end_of(timeout)
        backoff = Backoff(self._repeat_seconds, end=end)
        while True:
            download = Download(request_id=request_id)
            try:
                async for message in self._stream(
                    self._search.DownloadImage, request, timeout=until(end), request_id=request_id
                ):
                    await in_thread(file.write, download.feed(message))
                return download.finish()
            except UnavailableError as error:
                if self._closed:
                    raise
                pause = backoff.pause(error)
            await sleep(pause)
            await in_thread(file.seek, 0)
            await in_thread(file.truncate)


def _chunks(ids: Iterable[str], size: int) -> Iterable[tuple[str, ...]]:
    rest = iter(ids)
    return iter(lambda: tuple(itertools.islice(rest, size)), ())
