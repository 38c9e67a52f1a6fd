"""Calls without our client: raw bytes, as many messages as one likes; and what a refusal says on the wire."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

PACKAGE = "clipseek.v1"


@dataclass
class Refusal:
    """A failed call, as it came over the wire."""

    code: grpc.StatusCode
    message: str
    reason: str = ""
    domain: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    field: str | None = None
    retry_after: float | None = None
    pushback_ms: int | None = None
    request_id: str = ""

    @classmethod
    def of(cls, error: grpc.RpcError) -> "Refusal":
        """Read the status, its ``google.rpc`` details and the trailers."""
        refusal = cls(error.code(), error.details())
        trailers = dict(error.trailing_metadata() or ())
        refusal.request_id = str(trailers.get("x-request-id", ""))
        if "grpc-retry-pushback-ms" in trailers:
            refusal.pushback_ms = int(trailers["grpc-retry-pushback-ms"])
        if "grpc-status-details-bin" not in trailers:
            return refusal
        status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
        assert (status.code, status.message) == (refusal.code.value[0], refusal.message)
        for detail in status.details:
            info, bad, retry = (
                error_details_pb2.ErrorInfo(),
                error_details_pb2.BadRequest(),
                error_details_pb2.RetryInfo(),
            )
            if detail.Unpack(info):
                refusal.reason, refusal.domain, refusal.metadata = info.reason, info.domain, dict(info.metadata)
            elif detail.Unpack(bad):
                [violation] = bad.field_violations
                assert violation.description == refusal.message
                refusal.field = violation.field
            else:
                assert detail.Unpack(retry)
                refusal.retry_after = retry.retry_delay.ToTimedelta().total_seconds()
        return refusal


class Caught:
    """What ``refused`` caught."""

    refusal: Refusal


@contextmanager
def refused(code: grpc.StatusCode, reason: str) -> Iterator[Caught]:
    """Expect a call to fail with a status, a reason, and all the details that belong to that status."""
    caught = Caught()
    with pytest.raises(grpc.RpcError) as error:
        yield caught
    refusal = caught.refusal = Refusal.of(error.value)
    assert (refusal.code, refusal.reason) == (code, reason), refusal
    assert refusal.domain == "clipseek"
    assert refusal.message
    assert (refusal.field is not None) == (code is grpc.StatusCode.INVALID_ARGUMENT)
    may_retry = code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert (refusal.retry_after is not None) == may_retry
    assert (refusal.pushback_ms is not None) == (code is grpc.StatusCode.RESOURCE_EXHAUSTED)
    if refusal.pushback_ms is not None and refusal.retry_after is not None:
        assert refusal.pushback_ms == round(refusal.retry_after * 1000) > 0


def call_raw(
    channel: grpc.Channel, method: str, messages: Iterable[bytes], *, timeout: float | None = 30, **options: object
) -> bytes:
    """Call a unary method (``Service/Method``) with any number of any bytes, as a stream of one is on the wire."""
    multi = channel.stream_unary(
        f"/{PACKAGE}.{method}", request_serializer=lambda raw: raw, response_deserializer=lambda raw: raw
    )
    answer: bytes = multi(iter(messages), timeout=timeout, **options)
    return answer


def stream_raw(
    channel: grpc.Channel, method: str, messages: Iterable[bytes], *, timeout: float | None = 30, **options: object
) -> "grpc.CallIterator[bytes]":
    """Call a method that answers with a stream, with any messages."""
    multi = channel.stream_stream(
        f"/{PACKAGE}.{method}", request_serializer=lambda raw: raw, response_deserializer=lambda raw: raw
    )
    return multi(iter(messages), timeout=timeout, **options)
