"""What can go wrong, as exceptions.

Every failed call raises a ``ClipseekError``; its subclass follows the gRPC status, its ``reason`` is the server's
machine-readable cause (the name of a ``clipseek.v1.ErrorReason`` without the prefix)::

    try:
        client.get("no-such-id")
    except NotFoundError as error:
        print(error.reason)  # IMAGE_NOT_FOUND

This module alone turns gRPC errors and the ``ItemError`` of batches into exceptions.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, cast

import grpc
from google.protobuf.message import DecodeError
from grpc import StatusCode

from clipseek.v1 import errors_pb2

if TYPE_CHECKING:
    from google.rpc.status_pb2 import Status

DOMAIN = "clipseek"


class ClipseekError(Exception):
    """Base of everything that a call can raise.

    Attributes:
        message: What is wrong and what to do, for people.
        code: The gRPC status.
        reason: The cause, for programs, e.g. ``IMAGE_NOT_FOUND``; empty when clipseek's server did not name one.
        field: The request field at fault; empty when there is none.
        metadata: Values that belong to the reason, e.g. ``content_sha256`` for ``IMAGE_EXISTS``.
        retry_after: Seconds after which a retry may help; ``None`` when the server named none.
        request_id: Names the call in the server's log.
        may_pass: Whether the server was away, overloaded or too slow, so that a later try may help.
    """

    default_code: ClassVar[StatusCode] = StatusCode.UNKNOWN
    may_pass: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        code: StatusCode | None = None,
        reason: str = "",
        field: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.reason = reason
        self.field = field
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after
        self.request_id = request_id


class InvalidArgumentError(ClipseekError):
    """The request is wrong: a field, a picture, a filter. ``field`` names the place; a retry cannot help."""

    default_code = StatusCode.INVALID_ARGUMENT


class NotFoundError(ClipseekError):
    """No picture, collection or model of that name."""

    default_code = StatusCode.NOT_FOUND


class AlreadyExistsError(ClipseekError):
    """The id or the collection is taken."""

    default_code = StatusCode.ALREADY_EXISTS


class FailedPreconditionError(ClipseekError):
    """The collection belongs to another model, or its index cannot do what was asked."""

    default_code = StatusCode.FAILED_PRECONDITION


class OverloadedError(ClipseekError):
    """The server has too much to do already; wait ``retry_after`` seconds, then retry."""

    default_code = StatusCode.RESOURCE_EXHAUSTED
    may_pass = True


class UnavailableError(ClipseekError):
    """The server, its Milvus or its image store is out of reach, or writes are held; retry with backoff."""

    default_code = StatusCode.UNAVAILABLE
    may_pass = True


class ConnectionLostError(UnavailableError):
    """The connection broke before the answer came: nobody knows whether the call was done."""


class StatusLostError(UnavailableError):
    """The server ended a stream, and gRPC lost the reason."""


class TlsError(ClipseekError):
    """The server's certificate is not trusted, or it speaks no TLS; a retry cannot help."""

    default_code = StatusCode.UNAVAILABLE


class DeadlineExceededError(ClipseekError):
    """The answer did not come in time. Inserts and deletes can be repeated safely."""

    default_code = StatusCode.DEADLINE_EXCEEDED
    may_pass = True


class StalledError(DeadlineExceededError):
    """No result came for as long as one was willing to wait: the server is silent, or sending pictures takes longer."""


class PermissionDeniedError(ClipseekError):
    """The server wants another token (``UNAUTHENTICATED`` or ``PERMISSION_DENIED``)."""

    default_code = StatusCode.PERMISSION_DENIED


class InternalError(ClipseekError):
    """A bug of the server, or damaged data; report ``request_id``."""

    default_code = StatusCode.INTERNAL


_CLASSES: dict[StatusCode, type[ClipseekError]] = {
    StatusCode.INVALID_ARGUMENT: InvalidArgumentError,
    StatusCode.NOT_FOUND: NotFoundError,
    StatusCode.ALREADY_EXISTS: AlreadyExistsError,
    StatusCode.FAILED_PRECONDITION: FailedPreconditionError,
    StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    StatusCode.UNAVAILABLE: UnavailableError,
    # gRPC's word for a call that arrives in the moment in which its server stops.
    StatusCode.CANCELLED: UnavailableError,
    StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    StatusCode.UNAUTHENTICATED: PermissionDeniedError,
    StatusCode.INTERNAL: InternalError,
    StatusCode.DATA_LOSS: InternalError,
}
# What grpc.aio says when a server ends a stream that is still sent to; the server's status is lost (grpc/grpc#36066).
_LOST = "Internal error from Core"
# What either side of gRPC says of a message that it will not take; older ones do not name themselves.
_TOO_LARGE = re.compile(
    r"((?P<receiver>SERVER|CLIENT): )?Received message larger than max \((?P<size>\d+) vs\. (?P<limit>\d+)\)"
)
_UNREACHED = re.compile("failed to connect|connections to all backends failing|DNS resolution failed")
_HANDSHAKE = re.compile("Tls handshake failed|Hostname Verification Check failed")
_DISTRUST = re.compile("CERTIFICATE_VERIFY_FAILED[^:]*: [^:]*|Hostname Verification Check failed")
# BoringSSL's word for what went wrong, and the one for an answer that is none of TLS.
_HANDSHAKE_WORD = re.compile(r"(?<=OPENSSL_internal:)\w+")
_NO_TLS = "WRONG_VERSION_NUMBER"
_CODES: dict[int, StatusCode] = {code.value[0]: code for code in StatusCode}


@contextmanager
def translating(address: str, request_id: str) -> Iterator[None]:
    """Turn a gRPC error that leaves the ``with`` block into a ``ClipseekError``."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error, address=address, request_id=request_id) from error


def from_rpc_error(error: grpc.RpcError, *, address: str, request_id: str) -> ClipseekError:
    """The exception for a failed call, with what the server put into its ``google.rpc`` details."""
    code = error.code()
    text = error.details() or ""
    status = _status(error)
    if status is None:
        return _from_transport(code, text, address=address, request_id=request_id)
    return _from_status(code, text, status, request_id=request_id)


def from_item_error(error: errors_pb2.ItemError, *, request_id: str) -> ClipseekError:
    """The exception for one item of a batch that failed while the others did not."""
    code = _CODES.get(error.code, StatusCode.UNKNOWN)
    delay = error.retry_delay
    return _class(code)(
        error.message,
        code=code,
        reason=_reason_name(error.reason),
        metadata=error.metadata,
        retry_after=delay.seconds + delay.nanos / 1e9 if error.HasField("retry_delay") else None,
        request_id=request_id,
    )


def _class(code: StatusCode) -> type[ClipseekError]:
    return _CLASSES.get(code, ClipseekError)


def _reason_name(reason: "errors_pb2.ErrorReason.ValueType") -> str:
    if reason not in errors_pb2.ErrorReason.values() or reason == errors_pb2.ERROR_REASON_UNSPECIFIED:
        return ""  # A newer server's: the status code has to do.
    return errors_pb2.ErrorReason.Name(reason).removeprefix("ERROR_REASON_")


def _status(error: grpc.RpcError) -> "Status | None":
    # Imported here because only failed calls need it, and an app's start should not.
    from google.rpc.status_pb2 import Status

    # Pairs at run time, in both flavours of gRPC; the stubs do not know it.
    trailers = cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ())
    for key, value in trailers:
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            try:
                return Status.FromString(value)
            except DecodeError:
                return None
    return None


def _from_status(code: StatusCode, text: str, status: "Status", *, request_id: str) -> ClipseekError:
    from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo

    result = _class(code)(text, code=code, request_id=request_id)
    for detail in status.details:
        info, bad, retry = ErrorInfo(), BadRequest(), RetryInfo()
        try:
            if detail.Unpack(info) and info.domain == DOMAIN:
                result.reason = info.reason
                result.metadata = dict(info.metadata)
            elif detail.Unpack(bad) and bad.field_violations:
                result.field = bad.field_violations[0].field
            elif detail.Unpack(retry):
                result.retry_after = retry.retry_delay.ToTimedelta().total_seconds()
        except (DecodeError, ValueError):
            continue  # A damaged detail must not hide the error itself.
    return result


def _from_transport(code: StatusCode, text: str, *, address: str, request_id: str) -> ClipseekError:
    """An error that gRPC made itself, on this side or on the way, put in words that help."""
    kind = _class(code)
    if code is StatusCode.UNAVAILABLE and _HANDSHAKE.search(text):
        return _from_handshake(text, address, request_id=request_id)
    if code is StatusCode.UNAVAILABLE and _UNREACHED.search(text):
        text = (
            f"no server answers at {address}; start one with `clipseek-server serve`, "
            f"or give the address of yours ({_cause(text)})"
        )
        if text.endswith("(Socket closed)") and not address.startswith("grpcs://"):
            text += "; if it wants TLS, say grpcs://"
    elif code is StatusCode.INTERNAL and _LOST in text:
        return StatusLostError(f"{address} ended the stream while it was being sent to", request_id=request_id)
    elif kind is UnavailableError:
        return ConnectionLostError(f"the connection to {address} broke ({text})", code=code, request_id=request_id)
    elif code is StatusCode.DEADLINE_EXCEEDED:
        text = f"{address} did not answer in time; allow more with timeout="
    elif code is StatusCode.RESOURCE_EXHAUSTED and "larger than max" in text:
        # Not a matter of load: the same message would be refused again.
        kind = InvalidArgumentError
        text = _too_large(text, address)
    elif code is StatusCode.UNIMPLEMENTED:
        text = f"{address} does not know this call; is it a clipseek server, and not an older one? ({text})"
    return kind(text, code=code, request_id=request_id)


def _from_handshake(text: str, address: str, *, request_id: str) -> ClipseekError:
    """An error of TLS, which a later try would meet again where its cause is known to be here."""
    if _NO_TLS in text:
        return TlsError(f"the server at {address} has no TLS; use grpc://, without Tls(…)", request_id=request_id)
    distrust = _DISTRUST.search(text)
    cause = distrust or _HANDSHAKE_WORD.search(text)
    message = (
        f"the TLS handshake with {address} failed ({cause[0] if cause else text}); name the authority of its "
        "certificate with Tls(ca=…) or clipseek --ca, and the name in it with server_name"
    )
    if distrust:
        return TlsError(message, request_id=request_id)
    return UnavailableError(f"{message}; or, if it has no TLS, use grpc://", request_id=request_id)


def _too_large(text: str, address: str) -> str:
    sizes = _TOO_LARGE.search(text)
    if sizes is None:
        return f"the message is larger than the other side takes ({text}); info() has the limits"
    size, limit = int(sizes["size"]), int(sizes["limit"])
    if sizes["receiver"] == "CLIENT":
        return (
            f"the answer has {size:,} bytes, and this client takes at most {limit:,}; "
            'ask for less at a time, or allow more with options=[("grpc.max_receive_message_length", BYTES)]'
        )
    return (
        f"the request has {size:,} bytes, and {address} takes at most {limit:,}; "
        "give less or smaller pictures (info() has all limits)"
    )


def _cause(text: str) -> str:
    """The end of gRPC's chain of causes, e.g. ``Connection refused (111)``."""
    return text.rsplit(": ", 1)[-1]
