"""Collections and their upkeep."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from clipseek import requests, responses
from clipseek._async.connection import AsyncConnection
from clipseek.channel import new_request_id
from clipseek.results import CheckProgress, Collection, RebuildProgress
from clipseek.v1 import admin_service_pb2, collection_service_pb2

# ruff: noqa: ASYNC109 -- "timeout" is the deadline that the server sees too; cancelling here would not tell it.


class AsyncCollections(AsyncConnection):
    """Making, showing, mending and dropping collections."""

    async def create_collection(
        self, name: str, *, model: str | None = None, timeout: float | None = None, request_id: str = ""
    ) -> Collection:
        """Make an empty collection. The first insert does so too; this chooses the model (a name from ``info()``).

        Example:
            >>> async with AsyncClient() as client:
            ...     collection = await client.create_collection("holiday")
            ...     print(collection.model.name, collection.dimension)
        """
        request = requests.build(collection_service_pb2.CreateCollectionRequest, collection=name, model=model)
        message = await self._call(
            self._collections.CreateCollection, request, timeout=timeout, request_id=request_id, repeatable=False
        )
        return responses.collection(message.collection)

    async def get_collection(self, name: str = "", *, timeout: float | None = None, request_id: str = "") -> Collection:
        """One collection; empty means ``default``.

        Example:
            >>> async with AsyncClient() as client:
            ...     print((await client.get_collection()).image_count)
        """
        request = requests.build(collection_service_pb2.GetCollectionRequest, collection=name)
        message = await self._call(self._collections.GetCollection, request, timeout=timeout, request_id=request_id)
        return responses.collection(message.collection)

    async def collections(
        self, *, timeout: float | None = None, request_id: str = ""
    ) -> AsyncGenerator[Collection, None]:
        """All collections in the order of their names, fetched page by page as one goes; ``timeout`` is for each page.

        Example:
            >>> async with AsyncClient() as client:
            ...     async for collection in client.collections():
            ...         print(collection.name, collection.image_count)
        """
        token = ""
        while True:
            request = requests.build(collection_service_pb2.ListCollectionsRequest, page_token=token)
            message = await self._call(
                self._collections.ListCollections, request, timeout=timeout, request_id=request_id
            )
            for collection in message.collections:
                yield responses.collection(collection)
            token = message.next_page_token
            if not token:
                return

    async def delete_collection(self, name: str, *, timeout: float | None = None, request_id: str = "") -> int:
        """Drop a collection with all its pictures, which cannot be undone; returns how many it held.

        Example:
            >>> async with AsyncClient() as client:
            ...     print(await client.delete_collection("holiday"))
        """
        request = requests.build(collection_service_pb2.DeleteCollectionRequest, collection=name)
        message = await self._call(
            self._collections.DeleteCollection, request, timeout=timeout, request_id=request_id, repeatable=False
        )
        return message.deleted_count

    async def rebuild(
        self, name: str = "", *, model: str = "", timeout: float | None = None, request_id: str = ""
    ) -> AsyncGenerator[RebuildProgress, None]:
        """Embed every picture of a collection again, and yield how far it is; attaches to a rebuild that runs already.

        ``model`` is another loaded one of the collection's space, e.g. of another precision; empty leaves it as it is.
        Searches go on meanwhile; writes are refused until it is done. Leaving the loop does not stop the rebuild.

        Example:
            >>> async with AsyncClient() as client:
            ...     async for progress in client.rebuild("holiday"):
            ...         print(progress.phase, progress.images_done, progress.images_total)
        """
        request = requests.build(admin_service_pb2.RebuildCollectionRequest, collection=name, model=model)
        async for message in self._stream(
            self._admin.RebuildCollection, request, timeout=timeout, request_id=request_id or new_request_id()
        ):
            yield responses.rebuild_progress(message.progress)

    async def check(
        self, name: str = "", *, verify_bytes: bool = False, timeout: float | None = None, request_id: str = ""
    ) -> AsyncGenerator[CheckProgress, None]:
        """Compare records, vectors and stored bytes; ``verify_bytes`` also reads all bytes. Changes nothing.

        Example:
            >>> async with AsyncClient() as client:
            ...     async for progress in client.check(verify_bytes=True):
            ...         for difference in progress.differences:
            ...             print(difference)
        """
        request = requests.build(admin_service_pb2.CheckCollectionRequest, collection=name, verify_bytes=verify_bytes)
        async for message in self._stream(
            self._admin.CheckCollection, request, timeout=timeout, request_id=request_id or new_request_id()
        ):
            yield responses.check_progress(message)
