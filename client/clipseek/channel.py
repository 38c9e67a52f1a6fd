"""Where a server is and how a channel to it is set up: the same for both clients."""

import json
import math
import uuid

# Reads change nothing and can be sent again when the server was away; nothing else is repeated.
_READS = {
    "clipseek.v1.SearchService": (
        "SearchByText",
        "SearchByImage",
        "Search",
        "GetImage",
        "BatchGetImages",
        "ListImages",
    ),
    "clipseek.v1.EmbeddingService": ("EmbedText", "EmbedImage"),
    "clipseek.v1.CollectionService": ("GetCollection", "ListCollections"),
    "clipseek.v1.InfoService": ("GetServerInfo",),
}
_RETRY_POLICY = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}

ChannelOption = tuple[str, str | int]


def target(address: str) -> str:
    """The gRPC target of an address.

    ``HOST:PORT``, ``grpc://HOST:PORT`` and gRPC's own forms (``unix:PATH``, ``dns:///HOST:PORT``) are taken.

    Raises:
        ValueError: It is none of these.
    """
    if address.startswith("grpc://"):
        address = address.removeprefix("grpc://").rstrip("/")
    elif "://" in address and not address.startswith(("unix://", "dns://", "ipv4://", "ipv6://", "xds://")):
        raise ValueError(f"an address is HOST:PORT or grpc://HOST:PORT; not {address!r}")
    if not address:
        raise ValueError("the address is empty; give HOST:PORT, e.g. 127.0.0.1:50051")
    return address


def channel_options() -> list[ChannelOption]:
    """Options of a channel: retries of reads. Messages out are bounded by the server alone, those in by gRPC's 4 MB."""
    config = {
        "methodConfig": [
            {
                "name": [
                    {"service": service, "method": method} for service, methods in _READS.items() for method in methods
                ],
                "retryPolicy": _RETRY_POLICY,
            }
        ]
    }
    return [("grpc.service_config", json.dumps(config))]


def deadline(timeout: float | None) -> float | None:
    """The seconds as gRPC takes them: its word for "no limit" is ``None``."""
    return None if timeout is None or math.isinf(timeout) else timeout


def new_request_id() -> str:
    """A random request id."""
    return uuid.uuid4().hex
