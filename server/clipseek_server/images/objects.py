"""The image store as a bucket of an object store: Amazon S3, or one that speaks like it.

A blob is one object, written by one request that succeeds only where there is none: so a key has all of its bytes or
none, and they are as durable as the store makes them. Any number of servers may share a bucket.
"""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from obstore.exceptions import AlreadyExistsError, BaseError, GenericError
from obstore.store import S3Store

from clipseek_server.errors import ImageStoreUnavailable, StartupError
from clipseek_server.images.blobs import Blob
from clipseek_server.telemetry import log

if TYPE_CHECKING:
    from obstore import ListStream, ObjectMeta
    from obstore.store import ClientConfig, RetryConfig, S3Config

_AT_ONCE = 64
"""Requests under way; each has a connection of its own."""

_TRIES = 3
_LISTED_AT_ONCE = 1000
_WRITE = "clipseek-write"
"""Metadata of an object: which call wrote it."""

_ROLE_PATHS = ("/latest/api/token", "/latest/meta-data/")
"""Of the service that tells a machine the credentials of its role: who has some is not asked for them there."""

_ERROR_CODE = re.compile(r"<Code>(\w+)</Code>")
_REFUSAL = re.compile("status code: 40[013] ")
"""Of those with 400 are tokens that have expired and signatures for another region."""
_BARE_REDIRECT = "redirect without LOCATION"
"""Amazon S3's 301 for a bucket of another region, in obstore's words: it has no address that could be followed."""

# No library's path may have such a part, and no image id has a percent sign.
_ESCAPED = {".": "%2E", "..": "%2E%2E"}
_UNESCAPED = {escaped: part for part, escaped in _ESCAPED.items()}

P = ParamSpec("P")
T = TypeVar("T")


class _Refused(ImageStoreUnavailable):
    """The store answers, and will not do what it is asked until somebody changes a setting."""


class ObjectStore:
    """An ``ImageStore`` in a bucket. Access keys come from the environment, or from the machine's or the pod's role.

    Args:
        url: ``s3://BUCKET`` or ``s3://BUCKET/PREFIX``.
        endpoint: Address of a store other than Amazon's, ``https://HOST:PORT`` or, not encrypted, ``http://…``.
        region: Empty means that of the environment (``AWS_REGION``), or us-east-1.
        tls_ca: PEM file of an authority to trust beside the usual ones.
        timeout: Seconds after which a call has failed, whatever was tried again meanwhile.

    Raises:
        StartupError: The authority's file cannot be used.
    """

    def __init__(
        self, url: str, *, endpoint: str = "", region: str = "", tls_ca: Path | None = None, timeout: float = 10.0
    ) -> None:
        self._url = url
        self._timeout = timeout
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._trouble = ""
        limit = timedelta(seconds=timeout)
        client: ClientConfig = {"timeout": limit, "connect_timeout": limit / (_TRIES + 1)}
        if endpoint.startswith("http://"):
            client["allow_http"] = True
        config: S3Config = {}
        if endpoint:
            config["endpoint"] = endpoint
        if region:
            config["region"] = region
        retries: RetryConfig = {
            "max_retries": _TRIES - 1,
            "retry_timeout": limit,
            "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=1), "base": 2},
        }
        try:
            if tls_ca is not None:
                client["root_certificate"] = tls_ca.read_bytes()
            self._store = S3Store.from_url(url, config=config, client_options=client, retry_config=retries)
        except (BaseError, OSError, ValueError) as error:
            raise StartupError(f"the image store {url} cannot be set up: {_safe(error)}") from None

    async def check(self) -> None:
        """See that the bucket is there and may be listed. A store that does not answer is only warned of.

        Raises:
            StartupError: There is no such bucket, it is in another region, or it refuses this server.
        """
        try:
            await self._ask(_next, self._store.list(chunk_size=1))
        except _Refused as error:
            raise StartupError(f"{error.message}; image_store is {self._url}") from None
        except ImageStoreUnavailable:
            log.warning("inserts and downloads will fail until the image store answers", image_store=self._url)

    async def put(self, key: str, data: bytes) -> None:
        """Store bytes under a new key; they are durable on return.

        Raises:
            FileExistsError: The key has bytes already; keys are written once.
            ImageStoreUnavailable: The store does not answer, or refuses.
        """
        await self._ask(self._create, _to_path(key), data)

    async def size(self, key: str) -> int | None:
        """How many bytes the key has; ``None`` when there are none."""
        try:
            return (await self._ask(self._store.head_async, _to_path(key)))["size"]
        except FileNotFoundError:
            # An answer to HEAD has no words: only that to GET says whether the key or the whole bucket is missing.
            data = await self.get(key)
            return None if data is None else len(data)

    async def get(self, key: str) -> bytes | None:
        """The bytes, or ``None`` when there are none."""
        try:
            return await self._ask(self._read, _to_path(key))
        except FileNotFoundError:
            return None

    async def chunks(self, key: str, size: int) -> AsyncIterator[bytes]:
        """The bytes in pieces of ``size``; raises ``ImageStoreUnavailable`` when there are none.

        Each piece is asked for when it is wanted: nothing is held for a slow reader, and what breaks is tried again.
        """
        path = _to_path(key)
        total = await self.size(key)
        if total is None:
            raise _lacking()
        for start in range(0, total, size):
            try:
                piece = await self._ask(self._store.get_range_async, path, start=start, end=min(start + size, total))
            except FileNotFoundError:
                raise _lacking() from None
            yield bytes(piece)

    async def list(self, prefix: str = "") -> AsyncIterator[Blob]:
        """Everything below a prefix, in no particular order; blobs that come or go meanwhile may be missed."""
        folder = prefix.rpartition("/")[0]
        pages = self._store.list(_escaped(folder) or None, chunk_size=_LISTED_AT_ONCE)
        while True:
            page = await self._ask(_next, pages)
            if page is None:
                return
            # The store's clock may differ from this one by less than the 15 minutes that a signature is good for.
            now = datetime.now(UTC)
            for each in page:
                key = _from_path(each["path"])
                if key.startswith(prefix):
                    yield Blob(key, each["size"], max(0.0, (now - each["last_modified"]).total_seconds()))

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete; keys without bytes do not matter."""
        if keys:
            await self._ask(self._store.delete_async, [_to_path(key) for key in keys])

    async def close(self) -> None:
        """Nothing is kept open that would have to be let go of."""

    async def _create(self, path: str, data: bytes) -> None:
        write = secrets.token_hex(8)
        for tries_left in reversed(range(_TRIES)):
            try:
                await self._store.put_async(path, data, mode="create", attributes={_WRITE: write})
            except AlreadyExistsError:
                # What was tried again, here or by obstore, may find what it wrote itself: its answer was lost.
                there = await self._store.get_async(path, options={"head": True})
                if there.attributes.get(_WRITE) != write:
                    raise
            except GenericError:
                if not tries_left:
                    raise
                continue
            return

    async def _read(self, path: str) -> bytes:
        return bytes(await (await self._store.get_async(path)).bytes_async())

    async def _ask(self, call: Callable[P, Awaitable[T]], *args: P.args, **options: P.kwargs) -> T:
        """What a call to the store returns, within the timeout and in its turn.

        Raises:
            FileNotFoundError: The key has no bytes.
            FileExistsError: The key has bytes already.
            ImageStoreUnavailable: Anything else.
        """
        try:
            async with asyncio.timeout(self._timeout), self._places:
                result = await call(*args, **options)
        except AlreadyExistsError:
            failure: Exception = FileExistsError("the key has bytes already")
        except (BaseError, OSError) as error:
            failure = _as_ours(error)
            cause = _safe(error)
        else:
            self._note("")
            return result
        # Not in the except blocks, where it would keep obstore's error: its text, and frames that hold the picture.
        if isinstance(failure, ImageStoreUnavailable):
            self._note(failure.message, cause)
        raise failure

    def _note(self, trouble: str, cause: str = "") -> None:
        """Log that the store fails, or works again; once, however many calls find it so."""
        if trouble == self._trouble:
            return
        self._trouble = trouble
        if trouble:
            log.warning(trouble, image_store=self._url, cause=cause)
        else:
            log.info("the image store answers again", image_store=self._url)


async def _next(pages: "ListStream[Sequence[ObjectMeta]]") -> "Sequence[ObjectMeta] | None":
    return await anext(pages, None)


def _as_ours(error: BaseError | OSError) -> Exception:
    """The domain error for one of obstore's; what is about one key stays ``FileNotFoundError``."""
    text = str(error)
    if (code := _ERROR_CODE.search(text)) and code[1] == "NoSuchBucket":
        return _Refused("the image store's bucket does not exist; make it, or correct the server's image_store")
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError("the key has no bytes")
    if any(path in text for path in _ROLE_PATHS):
        return ImageStoreUnavailable(
            "the image store cannot be asked: this server has no credentials; set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or give it a role"
        )
    if _REFUSAL.search(text):  # a listing has no class of its own for it
        return _Refused(
            "the image store refuses this server; check its access key, secret and region, and that they allow it to "
            "read, write, list and delete in the bucket"
        )
    if _BARE_REDIRECT in text:
        return _Refused(
            "the image store sends this server elsewhere without saying where, as for a bucket in another region; "
            "correct the server's s3_region, or its s3_endpoint"
        )
    return ImageStoreUnavailable("the image store does not answer; retry later")


def _safe(error: BaseException) -> str:
    """What went wrong, for the log: without what the store quotes of a request, which can be as good as a password."""
    text = str(error)
    code = _ERROR_CODE.search(text)
    summary = text.partition("\n")[0].partition("<")[0].strip() or type(error).__name__
    return f"{summary} {code[1]}" if code else summary


def _lacking() -> ImageStoreUnavailable:
    return ImageStoreUnavailable("the image store lacks the bytes that the record names")


def _to_path(key: str) -> str:
    uid, _, rest = key.partition("/")
    if not uid or not rest or "" in rest.split("/"):
        raise ValueError("a blob's key is uid/rest")
    return _escaped(key)


def _escaped(key: str) -> str:
    return "/".join(_ESCAPED.get(part, part) for part in key.split("/"))


def _from_path(path: str) -> str:
    return "/".join(_UNESCAPED.get(part, part) for part in path.split("/"))
