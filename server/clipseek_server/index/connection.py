"""The one way to Milvus, Lite or server: blocking pymilvus calls in threads, and its errors as ours."""

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import grpc
from pymilvus import MilvusClient
from pymilvus.exceptions import DataNotMatchException, MilvusException, ParamError

from clipseek_server.config import Settings
from clipseek_server.errors import ClipseekError, CollectionGone, IndexUnavailable, StartupError
from clipseek_server.index.lite import Lite
from clipseek_server.telemetry import log
from clipseek_server.threads import thread_pool

Result = TypeVar("Result")

_THREADS = 16

_NOT_FOUND = {100, 101}
"""Milvus' codes for a collection that does not exist and for one that is not loaded; opening it again settles both."""
_ALIAS_NOT_FOUND = 1600
_CONNECT_FAILED = 2
_REFUSED = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}
_OURS: tuple[type[Exception], ...] = (ClipseekError, ParamError, DataNotMatchException)
"""Domain errors, and bugs."""
_BAD_REQUEST = {6, 1100}
"""Milvus' codes for arguments that it does not take: a bug of ours, not an absence of Milvus."""


class Connection:
    """A Milvus client that is made when it is first needed and made again when it has to be.

    Attributes:
        version: What Milvus said that it is; empty until it answered once.
        epoch: Changes when Milvus Lite was opened anew; whatever was loaded or copied before is void then.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lite = None if settings.milvus_uri else Lite(settings.data_dir / "milvus")
        self._executor = thread_pool("milvus", _THREADS)
        # Milvus Lite's catalogue is not safe to change from two threads, and a thread goes on when its caller gives up.
        self._catalogue_executor = thread_pool("milvus-lite") if self._lite else self._executor
        self._opening: asyncio.Task[None] | None = None
        self._client: Any = None
        self._distrusted = False
        self.version = ""
        self.epoch = 0

    @property
    def embedded(self) -> bool:
        """Whether this is Milvus Lite."""
        return self._lite is not None

    async def start(self) -> None:
        """Open Milvus Lite; a server is not asked for yet.

        Raises:
            StartupError: The data folder cannot be opened.
        """
        if self._lite is not None:
            await self._run(self._catalogue_executor, self._lite.start)

    async def call(self, method: Callable[..., Any], *args: object, **options: object) -> Any:
        """Call a method of ``MilvusClient`` that reads, given unbound, or a function like one; returns what it returns.

        Raises:
            CollectionGone: The collection or alias does not exist, or is not loaded.
            IndexUnavailable: Milvus does not answer within ``milvus_timeout``, or refuses.
        """
        if self.embedded:
            return await self._call_once(self._executor, method, *args, **options)
        timeout = self._settings.milvus_timeout
        with _translating():
            client = await self._usable_client()
            # May be tried again, and goes on behind a caller who gave up: it changes nothing.
            return await self._within_timeout(
                self._executor, partial(method, client, *args, timeout=timeout, **options)
            )

    async def call_lite(self, function: Callable[..., Result], physical: str, **options: object) -> Result:
        """What a function makes of a collection of Milvus Lite's, past pymilvus and the socket; in a thread.

        Raises:
            CollectionGone: The collection does not exist.
            IndexUnavailable: Milvus Lite cannot be opened.
        """
        with _translating():
            await self._usable_client()
            return await self._run(self._executor, partial(self._of_lite, function, physical, **options))

    def _of_lite(self, function: Callable[..., Result], physical: str, **options: object) -> Result:
        from milvus_lite.exceptions import CollectionNotFoundError

        assert self._lite is not None  # noqa: S101
        try:
            return function(self._lite.collection(physical), **options)
        except CollectionNotFoundError as error:
            raise CollectionGone("the collection does not exist any more") from error

    async def call_catalogue(self, method: Callable[..., Any], *args: object, **options: object) -> Any:
        """As ``write``, for what changes or lists collections and aliases: one at a time with Milvus Lite.

        Space is only looked for where something is made: a full disk must be able to drop collections.
        """
        return await self._call_once(self._catalogue_executor, method, *args, **options)

    def check_space(self) -> None:
        """Raise ``IndexUnavailable`` when this is Milvus Lite and its disk is too full to write safely."""
        if self._lite is not None:
            self._lite.check_space()

    async def write(self, method: Callable[..., Any], *args: object, **options: object) -> Any:
        """As ``call``, for what changes rows: tried once, and when this returns or raises nothing of it goes on.

        What went on would land on top of what is written, and acknowledged, after it. A caller may thus wait for longer
        than ``milvus_timeout``: until pymilvus, which reconnects inside a call that failed, has ended.

        A write that fails in Milvus Lite, on a full disk for instance, leaves it in doubt: its log may end in half a
        batch, and what is written behind that would be lost. It is opened anew, from what is on the disk, before
        anything else is asked of it.
        """
        self.check_space()
        try:
            return await self._call_once(self._executor, method, *args, **options)
        except IndexUnavailable:
            self._distrusted = self.embedded
            raise

    async def ping(self) -> None:
        """Raise ``IndexUnavailable`` unless Milvus answers."""
        self.version = str(await self.call(MilvusClient.get_server_version))

    async def close(self) -> None:
        """Let go of Milvus; Lite flushes."""
        if self._opening is not None:
            await asyncio.wait([self._opening])
        await self._run(self._executor, self._disconnect)
        if self._lite is not None:
            await self._run(self._executor, self._lite.stop)
        self._executor.shutdown(wait=False)
        self._catalogue_executor.shutdown(wait=False)

    async def _call_once(self, executor: Executor, method: Callable[..., Any], *args: object, **options: object) -> Any:
        with _translating():
            client = await self._usable_client()
            # Without a timeout of pymilvus', which would take its place. A server's deadline is the channel's; Lite,
            # in this process, has none.
            return await self._run(executor, partial(method, client, *args, retry_times=0, **options))

    async def _usable_client(self) -> Any:
        if self._client is None or self._distrusted:
            if self._opening is None or self._opening.done():
                self._opening = asyncio.create_task(self._open(), name="milvus-open")
            # All callers wait for one opening, which goes on when they give up.
            await asyncio.shield(self._opening)
        return self._client

    async def _open(self) -> None:
        if self._distrusted:
            await self._run(self._catalogue_executor, self._reopen_lite)
            self.epoch += 1
            self._distrusted = False
        self._client = await self._within_timeout(self._catalogue_executor, self._connect)

    def _connect(self) -> Any:
        _quieten()
        settings = self._settings
        if self._lite is not None:
            client = MilvusClient(self._lite.uri, dedicated=True)
            # Opens all collections, one by one: two threads that opened one would each have their own.
            client.list_collections()
            return client
        tls = {"server_pem_path": str(settings.milvus_tls_ca)} if settings.milvus_tls_ca else {}
        return MilvusClient(
            settings.milvus_uri,
            user=settings.milvus_user,
            password=settings.milvus_password.get_secret_value(),
            token=settings.milvus_token.get_secret_value(),
            db_name=settings.milvus_database,
            timeout=settings.milvus_timeout,
            dedicated=True,
            grpc_options={"grpc.service_config": _deadline_for_all(settings.milvus_timeout)},
            **tls,
        )

    def _disconnect(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _reopen_lite(self) -> None:
        assert self._lite is not None  # noqa: S101
        log.warning("milvus lite is opened anew after a failed write")
        self._disconnect()
        self._lite.stop()
        self._lite.start()

    @staticmethod
    async def _run(executor: Executor, function: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(executor, function)

    async def _within_timeout(self, executor: Executor, function: Callable[[], Result]) -> Result:
        # pymilvus reconnects inside a call, which its own timeout does not cover.
        async with asyncio.timeout(None if self.embedded else self._settings.milvus_timeout + 1.0):
            return await self._run(executor, function)


def _deadline_for_all(seconds: float) -> str:
    """A gRPC service config that ends every call of a channel after so long."""
    return json.dumps({"methodConfig": [{"name": [{}], "timeout": f"{seconds:.3f}s"}]})


@contextmanager
def _translating() -> Iterator[None]:
    """Raise the domain's errors for what pymilvus raises."""
    try:
        yield
    except Exception as error:
        raise _translated(error) from error


def _translated(error: Exception) -> Exception:
    """The domain error for what pymilvus raised; bugs stay what they are."""
    bug: Exception = error
    if isinstance(error, _OURS):
        return error
    if isinstance(error, MilvusException):
        if error.code in _NOT_FOUND or error.code == _ALIAS_NOT_FOUND:
            return CollectionGone("the collection does not exist any more")
        if error.code in _BAD_REQUEST:
            return bug
    elif not isinstance(error, grpc.RpcError | TimeoutError | OSError | StartupError):
        return error
    if _is_refusal(error):
        log.error("milvus refuses the credentials", error=str(error))
        return IndexUnavailable("Milvus refuses this server's credentials; check its milvus_… settings")
    away = isinstance(error, grpc.RpcError | TimeoutError) or getattr(error, "code", None) == _CONNECT_FAILED
    write = log.debug if away else log.warning  # who is away is away for every call, and health says so once
    write("milvus does not answer", error=str(error) or type(error).__name__)
    return IndexUnavailable("the index does not answer; retry later")


def _is_refusal(error: Exception) -> bool:
    """Whether the error, or what caused it, is about who we are."""
    # Not the whole chain: pymilvus has errors that are their own cause.
    return any(isinstance(each, grpc.Call) and each.code() in _REFUSED for each in (error, error.__cause__))


def _quieten() -> None:
    """Pymilvus and Lite's adapter log a traceback for each error that they also raise."""
    for name in ("pymilvus", "milvus_lite.adapter"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
