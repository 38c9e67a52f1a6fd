"""Where servers are and how a channel to them is set up: the same for both clients."""

import ipaddress
import json
import math
import os
import re
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import grpc

from clipseek.v1 import (
    admin_service_pb2,
    collection_service_pb2,
    embedding_service_pb2,
    info_service_pb2,
    search_service_pb2,
)

_CONTRACT = (
    admin_service_pb2,
    collection_service_pb2,
    embedding_service_pb2,
    info_service_pb2,
    search_service_pb2,
)
_RETRY_POLICY = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
# gRPC's own 256 KB is less than most pictures; the largest message that a server takes by default fits.
_RETRY_BUFFER_BYTES = 32 * 1024 * 1024
# Often enough for proxies that drop what is idle for a minute, and not too often for a server: it allows 30 seconds.
_KEEPALIVE_MS = 45_000
_KEEPALIVE_TIMEOUT_MS = 15_000
_RECONNECT_MS = 5_000

# What servers take; of another they make up one of their own, which the caller would not know.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")

_HOST = re.compile(r"\[[^][/\s]+\]|[^][:/\s]+")
"""A name or an address, of IPv6 in brackets."""

_OWN_SCHEMES = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "xds:")

ChannelOption = tuple[str, str | int]
Pem: TypeAlias = bytes | str | os.PathLike[str]
Metadata: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True, repr=False)
class Tls:
    """How a server is known, and how the client shows who it is. Files are PEM: a path, or their bytes.

    Attributes:
        ca: The authorities to trust; ``None`` means those that gRPC brings, or those of the file that the environment
            names in ``GRPC_DEFAULT_SSL_ROOTS_FILE_PATH``.
        certificate: The client's own certificate, where servers ask for one.
        key: Its private key.
        server_name: The name in the server's certificate, where the address has another.
    """

    ca: Pem | None = None
    certificate: Pem | None = None
    key: Pem | None = None
    server_name: str = ""

    def credentials(self) -> grpc.ChannelCredentials:
        """What gRPC takes.

        Raises:
            ValueError: Only one of ``certificate`` and ``key`` is given.
            OSError: A file cannot be read.
        """
        if (self.certificate is None) != (self.key is None):
            raise ValueError("a client's certificate and its key go together")
        return grpc.ssl_channel_credentials(
            root_certificates=_pem(self.ca), private_key=_pem(self.key), certificate_chain=_pem(self.certificate)
        )


@dataclass(frozen=True)
class Endpoint:
    """Where a channel leads: gRPC's target, and whether it is encrypted; ``None`` leaves that open."""

    target: str
    secure: bool | None


def endpoint(address: str) -> Endpoint:
    """What an address means.

    ``HOST:PORT``, ``grpc://HOST:PORT``, ``grpcs://HOST:PORT`` and gRPC's own forms (``unix:PATH``, ``dns:///HOST:PORT``)
    are taken. A name that stands for several addresses is one to all of them; several addresses of machines are
    separated by commas.

    Raises:
        ValueError: It is none of these.
    """
    secure = None
    rest = address
    for scheme, meaning in (("grpcs://", True), ("grpc://", False)):
        if address.startswith(scheme):
            rest, secure = address.removeprefix(scheme).rstrip("/"), meaning
    if not rest:
        raise ValueError("the address is empty; give HOST:PORT, e.g. 127.0.0.1:50051")
    if rest.startswith(_OWN_SCHEMES):
        return Endpoint(rest, secure)
    if "," in rest:
        return Endpoint(_of_several([part.strip() for part in rest.split(",")]), secure)
    host, _, port = rest.rpartition(":")
    if not _HOST.fullmatch(host) or not _is_port(port):
        raise ValueError(f"an address is HOST:PORT, grpc://HOST:PORT or grpcs://HOST:PORT; not {address!r}")
    return Endpoint(rest, secure)


def _is_port(port: str) -> bool:
    return port.isdecimal() and 0 < int(port) < 2**16


def _of_several(addresses: Sequence[str]) -> str:
    kinds = set()
    for each in addresses:
        host, _, port = each.rpartition(":")
        try:
            kinds.add(ipaddress.ip_address(host.strip("[]")).version)
        except ValueError:
            raise ValueError(
                f"{each!r} is not IP:PORT; of several addresses each must be, and a name that stands for several is "
                "given alone"
            ) from None
        if not _is_port(port):
            raise ValueError(f"{each!r} has no port")
    if len(kinds) > 1:
        raise ValueError("several addresses must all be IPv4 or all IPv6")
    return f"ipv{kinds.pop()}:{','.join(addresses)}"


def credentials(where: Endpoint, tls: Tls | None) -> grpc.ChannelCredentials | None:
    """What an encrypted channel needs; ``None`` for one that is not.

    Raises:
        ValueError: The address says that it is not encrypted, and ``tls`` is given.
        OSError: A file that ``tls`` names cannot be read.
    """
    if where.secure is False and tls is not None:
        raise ValueError("tls is given, but grpc:// means that nothing is encrypted; say grpcs://")
    if tls is None:
        return Tls().credentials() if where.secure else None
    return tls.credentials()


def channel_options(tls: Tls | None) -> list[ChannelOption]:
    """Options of a channel: retries of reads, calls spread over all addresses, pings on idle connections.

    Messages out are bounded by the server alone, those in by gRPC's 4 MB, below which a server's answers stay.
    """
    config = {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {
                "name": [{"service": service, "method": method} for service, method in _reads()],
                "retryPolicy": _RETRY_POLICY,
            }
        ],
    }
    options: list[ChannelOption] = [
        ("grpc.service_config", json.dumps(config)),
        ("grpc.per_rpc_retry_buffer_size", _RETRY_BUFFER_BYTES),
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        # gRPC's own two minutes are longer than most servers are away.
        ("grpc.max_reconnect_backoff_ms", _RECONNECT_MS),
    ]
    if tls is not None and tls.server_name:
        options += [("grpc.ssl_target_name_override", tls.server_name), ("grpc.default_authority", tls.server_name)]
    return options


def _reads() -> Iterator[tuple[str, str]]:
    """Methods that change nothing, by the contract's word: they can be sent again when the server was away."""
    # Not at the top: it takes an eighth of the time of importing this package.
    from google.protobuf.descriptor_pb2 import MethodOptions

    for file in _CONTRACT:
        for service in file.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                if method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS:
                    yield service.full_name, method.name


def token_metadata(token: str) -> Metadata:
    """What carries a token; nothing when it is empty.

    Raises:
        ValueError: It has characters that cannot be sent.
    """
    if not token:
        return ()
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("a token is made of ASCII characters without spaces; check for a line break at its end")
    return (("authorization", f"Bearer {token}"),)


def request_id_metadata(request_id: str) -> Metadata:
    """What carries a request id.

    Raises:
        ValueError: The server would not take it.
    """
    if not _REQUEST_ID.fullmatch(request_id):
        raise ValueError(
            f"a request id is made of 1 to 128 ASCII letters, digits and the characters ._:/+=-; {request_id!r} is not"
        )
    return (("x-request-id", request_id),)


def end_of(timeout: float | None) -> float:
    """When a time limit that begins now ends, by the monotonic clock; never (infinity) where there is none."""
    return math.inf if timeout is None else time.monotonic() + timeout


def until(end: float) -> float:
    """The seconds that are left; infinity for no limit, and below 0 when it is over."""
    return end - time.monotonic()


def deadline(seconds: float | None) -> float | None:
    """The seconds as gRPC takes them: its word for "no limit" is ``None``."""
    if seconds is None or math.isinf(seconds):
        return None
    # gRPC counts milliseconds, and would send what is over by less.
    return seconds if seconds > 0 else -1.0


def new_request_id() -> str:
    """A random request id."""
    return uuid.uuid4().hex


def _pem(source: Pem | None) -> bytes | None:
    return source if source is None or isinstance(source, bytes) else Path(source).read_bytes()
