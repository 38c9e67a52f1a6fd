"""The composition root: builds everything, starts it, drains it, stops it."""

import asyncio
import gc
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from clipseek_server import metrics
from clipseek_server.catalog.checks import Checks
from clipseek_server.catalog.collections import Collections
from clipseek_server.catalog.images import Images
from clipseek_server.catalog.inserts import Inserts
from clipseek_server.catalog.interfaces import Index
from clipseek_server.catalog.models import Models
from clipseek_server.catalog.rebuilds import Rebuilds
from clipseek_server.catalog.searches import Searches
from clipseek_server.catalog.sweeper import Sweeper
from clipseek_server.config import Settings
from clipseek_server.encoding.decoding import DecodePool
from clipseek_server.encoding.model import LoadedModel
from clipseek_server.encoding.pictures import MAX_SIDE, SUPPORTED_MEDIA_TYPES
from clipseek_server.errors import StartupError
from clipseek_server.images.folder import FolderStore
from clipseek_server.images.objects import ObjectStore
from clipseek_server.images.thumbnails import make_thumbnail
from clipseek_server.rpc.access import Access
from clipseek_server.rpc.admin_service import AdminService
from clipseek_server.rpc.admission import ByteBudget, StreamLimit
from clipseek_server.rpc.bulk_insert import BulkInserts
from clipseek_server.rpc.certificates import credentials
from clipseek_server.rpc.collection_service import CollectionService
from clipseek_server.rpc.edge import Edge
from clipseek_server.rpc.embedding_service import EmbeddingService
from clipseek_server.rpc.health import Health
from clipseek_server.rpc.info_service import InfoService
from clipseek_server.rpc.messages import Allowance
from clipseek_server.rpc.search_service import SearchService
from clipseek_server.rpc.server import make_health_server, make_server
from clipseek_server.rpc.wire import most_fields
from clipseek_server.telemetry import log

if TYPE_CHECKING:
    from clipseek_server.index.milvus import MilvusIndex

HEALTH_INTERVAL = 2.0
"""Seconds between looks at Milvus."""

BUDGET_LINE = 1024
"""Calls that may wait for a share of the memory budget."""

BUDGET_PATIENCE = 1.0
"""Seconds that they wait; longer, and another server had better be asked."""

SMALL_MESSAGE_TIMEOUT = 10.0
"""Seconds at most that a client may take to send a message without pictures."""

NEEDS_INDEX = ("", "SearchService", "CollectionService", "AdminService")
"""Health entries that need Milvus; the others serve as soon as the models are loaded."""


class Server:
    """A running server.

    ``async with Server(settings) as server`` starts it; leaving drains and stops it.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.address = ""
        self.health_address = ""
        self.metrics_port: int | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "Server":
        """Load, connect, listen.

        Raises:
            StartupError: A bundle, the data folder, the bucket, Milvus Lite or the address cannot be used.
        """
        async with AsyncExitStack() as stack:
            await self._start(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Read nothing new, finish what was read, let go of everything."""
        await self._stack.aclose()

    async def _start(self, stack: AsyncExitStack) -> None:
        settings = self.settings
        decode_pool = DecodePool(settings.cores, max_pixels=settings.max_image_pixels, max_queue=settings.queue_length)
        stack.push_async_callback(decode_pool.close)
        # Side by side: a process may have a second core, and each takes seconds.
        loading = asyncio.create_task(self._load_models(stack, decode_pool))
        connecting = asyncio.create_task(self._connect(stack))
        await asyncio.gather(loading, connecting, return_exceptions=True)
        models, index = Models(loading.result()), connecting.result()
        store = await _open_store(settings)
        stack.push_async_callback(store.close)

        collections = Collections(index, models, store, auto_create=settings.auto_create)
        inserts = Inserts(collections, store)
        rebuilds = Rebuilds(collections, index, store)
        stack.push_async_callback(rebuilds.close)
        sweeper = Sweeper(index, store, grace=settings.sweep_grace, interval=settings.sweep_interval)

        # Bytes younger than the grace time are left alone, so no write may live that long.
        max_call_seconds = settings.sweep_grace / 2
        edge = _edge(settings, max_call_seconds)
        streams = StreamLimit(settings.max_bulk_streams, "bulk streams")
        bulk_inserts = BulkInserts(inserts, settings, streams, max_call_seconds)
        search = SearchService(
            inserts,
            Searches(collections, store),
            Images(collections, store, max_metadata_bytes=settings.max_metadata_bytes),
            settings,
            strong_by_default=index.default_consistency == "strong",
        )
        info = InfoService(
            version("clipseek"),
            models,
            index,
            settings,
            media_types=SUPPORTED_MEDIA_TYPES,
            max_image_side=MAX_SIDE,
            max_call_seconds=max_call_seconds,
        )
        server, health = make_server(
            edge,
            [
                ("SearchService", (search, bulk_inserts)),
                ("EmbeddingService", (EmbeddingService(models, settings),)),
                ("CollectionService", (CollectionService(collections, rebuilds),)),
                ("AdminService", (AdminService(rebuilds, Checks(collections, store)),)),
                ("InfoService", (info,)),
            ],
            max_message_bytes=settings.max_message_bytes,
            max_connection_age=settings.max_connection_age,
        )
        self.address = _bind(server, settings.listen, _credentials(settings))
        if settings.metrics_listen:
            self.metrics_port = stack.enter_context(metrics.endpoint(settings.metrics_listen))
        for service in ("EmbeddingService", "InfoService"):
            health.set(service, serving=True)
        watch = _IndexWatch(index, health)
        await watch.look()
        if settings.health_listen:
            probes = make_health_server(health)
            self.health_address = _bind(probes, settings.health_listen, flag="--health-listen")
            await probes.start()
            stack.push_async_callback(probes.stop, None)
        await server.start()
        stack.push_async_callback(self._drain, server, edge, health, rebuilds)
        for coroutine in (watch.run(), sweeper.run(), collections.open_all()):
            task = asyncio.create_task(coroutine)
            stack.push_async_callback(_cancel, task)
        if settings.is_open:
            log.warning(
                "everybody who reaches this address may read and change everything; see --tokens and --tls-certificate",
                address=self.address,
            )
        log.info(
            "serving",
            address=self.address,
            models=[model.manifest.name for model in models],
            index=index.engine,
            image_store=settings.image_store or str(settings.data_dir / "images"),
        )

    async def _load_models(self, stack: AsyncExitStack, decode_pool: DecodePool) -> Sequence[LoadedModel]:
        models = []
        folders: dict[str, Path] = {}
        for folder in self.settings.bundles:
            log.info("loading model", bundle=str(folder))
            model = await asyncio.to_thread(
                LoadedModel.load, folder, self.settings, decode_pool, thumbnail=make_thumbnail
            )
            stack.push_async_callback(model.close)
            name = model.manifest.name
            if name in folders:
                raise StartupError(
                    f"the bundles {folders[name]} and {folder} are both named {name!r}, but clients tell models by "
                    "their names; export one of them again with another --name"
                )
            folders[name] = folder
            models.append(model)
        return models

    async def _connect(self, stack: AsyncExitStack) -> "MilvusIndex":
        index = await (await asyncio.to_thread(_index_class)).connect(self.settings)
        stack.push_async_callback(index.close)
        return index

    async def _drain(self, server: grpc.aio.Server, edge: Edge, health: Health, rebuilds: Rebuilds) -> None:
        log.info("draining", seconds=self.settings.drain_timeout)
        edge.draining.begin()
        health.drain()
        await rebuilds.close()  # they may take hours, and so would those who watch them
        await server.stop(self.settings.drain_timeout)
        log.info("stopped")


def _index_class() -> "type[MilvusIndex]":
    # Not at the top: pymilvus and what it needs take longer to import than all else.
    from clipseek_server.index.milvus import MilvusIndex

    return MilvusIndex


class _IndexWatch:
    """Keeps the health entries that need Milvus honest."""

    def __init__(self, index: Index, health: Health) -> None:
        self._index = index
        self._health = health
        self._answers: bool | None = None

    async def run(self) -> None:
        while True:
            await asyncio.sleep(HEALTH_INTERVAL)
            await self.look()

    async def look(self) -> None:
        try:
            await self._index.ping()
            await self._index.follow()
            answers = True
        except Exception as error:  # whatever it is, health must not freeze
            answers = False
            if self._answers is not False:
                log.warning("Milvus does not answer; retrying", reason=str(error), cause=str(error.__cause__ or ""))
        if answers and self._answers is False:
            log.info("Milvus answers again")
        if answers != self._answers:
            self._answers = answers
            for service in NEEDS_INDEX:
                self._health.set(service, serving=answers)


def _edge(settings: Settings, max_call_seconds: float) -> Edge:
    fields = most_fields(settings)
    large = settings.max_message_bytes
    with_pictures = _budget(settings.max_bytes_in_flight)
    return Edge(
        pictures=Allowance(with_pictures, large, fields, settings.message_timeout),
        streams=Allowance(with_pictures, large, fields, settings.bulk_idle_timeout),
        others=Allowance(
            _budget(settings.max_bytes_in_flight // 4),
            settings.max_small_message_bytes,
            fields,
            min(settings.message_timeout, SMALL_MESSAGE_TIMEOUT),
        ),
        max_call_seconds=max_call_seconds,
        access=Access(
            [token.get_secret_value() for token in settings.tokens],
            [token.get_secret_value() for token in settings.read_tokens],
        ),
    )


def _credentials(settings: Settings) -> grpc.ServerCredentials | None:
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return credentials(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)


def _budget(total: int) -> ByteBudget:
    return ByteBudget(total, max_waiting=BUDGET_LINE, patience=BUDGET_PATIENCE)


async def _open_store(settings: Settings) -> FolderStore | ObjectStore:
    if not settings.image_store:
        return await asyncio.to_thread(FolderStore, settings.data_dir / "images")
    store = await asyncio.to_thread(
        ObjectStore,
        settings.image_store,
        endpoint=settings.s3_endpoint,
        region=settings.s3_region,
        tls_ca=settings.s3_tls_ca,
        timeout=settings.s3_timeout,
    )
    await store.check()
    return store


def _bind(
    server: grpc.aio.Server, listen: str, secure: grpc.ServerCredentials | None = None, *, flag: str = "--listen"
) -> str:
    try:
        port = server.add_secure_port(listen, secure) if secure else server.add_insecure_port(listen)
    except RuntimeError as error:
        raise StartupError(
            f"cannot listen on {listen}: is another server running there? Choose another address with {flag}"
        ) from error
    return listen if listen.startswith("unix:") else f"{listen.rpartition(':')[0]}:{port}"


async def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait([task])


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with Server(settings):
        # What is there now stays: no collection need look at it again while callers wait.
        gc.collect()
        gc.freeze()
        await stop.wait()
