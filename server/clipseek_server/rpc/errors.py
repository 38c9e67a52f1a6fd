"""The one place that turns an error into a gRPC status with ``google.rpc`` details, or into an ``ItemError``."""

from dataclasses import dataclass

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from clipseek.v1 import errors_pb2
from clipseek_server.errors import ClipseekError, Overloaded
from clipseek_server.telemetry import Call, log

DOMAIN = "clipseek"
MAX_TEXT_BYTES = 600
"""Of each text in an answer, as UTF-8. A text can quote the request, and trailers of more than 8 KB are lost on the way
with the status in them, where each byte that is not ASCII is written as three."""

Metadata = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """A call's unhappy end, ready for ``context.abort``."""

    code: grpc.StatusCode
    reason: str
    message: str
    trailers: Metadata


def as_domain_error(error: Exception, call: Call) -> ClipseekError:
    """The error itself, or for a bug one that tells the user nothing but where to look. Its traceback ends here."""
    if not isinstance(error, ClipseekError):
        log.error("bug", request_id=call.request_id, exc_info=error)
    # Its frames hold the message, and futures among them the error: a circle that would keep the bytes of a picture
    # until the garbage is collected, long after they were given back to the budget.
    error.__traceback__ = None
    if isinstance(error, ClipseekError):
        return error
    return ClipseekError(f"internal error; the server's log has more under request id {call.request_id}")


def failure(error: Exception, call: Call) -> Failure:
    """What a call that raised ``error`` answers."""
    error = as_domain_error(error, call)
    message = _shortened(error.message)
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=_short_metadata(error))
    ]
    if error.code is grpc.StatusCode.INVALID_ARGUMENT:
        violation = error_details_pb2.BadRequest.FieldViolation(field=_shortened(error.field), description=message)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    trailers: Metadata = ()
    if error.retry_after is not None:
        details.append(error_details_pb2.RetryInfo(retry_delay=_duration(error.retry_after)))
        if isinstance(error, Overloaded):
            trailers = (("grpc-retry-pushback-ms", str(int(error.retry_after * 1000))),)
    status = status_pb2.Status(code=error.code.value[0], message=message)
    for detail in details:
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    return Failure(
        error.code, error.reason, message, (*trailers, ("grpc-status-details-bin", status.SerializeToString()))
    )


def item_error(error: Exception, call: Call) -> errors_pb2.ItemError:
    """What an item that raised ``error`` answers within a call that goes on."""
    error = as_domain_error(error, call)
    call.items[error.reason] += 1
    return errors_pb2.ItemError(
        code=error.code.value[0],
        reason=errors_pb2.ErrorReason.Value(f"ERROR_REASON_{error.reason}"),
        message=_shortened(error.message),
        metadata=_short_metadata(error),
        retry_delay=_duration(error.retry_after) if error.retry_after is not None else None,
    )


def _duration(seconds: float) -> Duration:
    message = Duration()
    message.FromNanoseconds(int(seconds * 1e9))
    return message


def _shortened(text: str) -> str:
    encoded = text.encode()
    if len(encoded) <= MAX_TEXT_BYTES:
        return text
    return encoded[: MAX_TEXT_BYTES - 3].decode(errors="ignore") + "…"


def _short_metadata(error: ClipseekError) -> dict[str, str]:
    return {key: _shortened(value) for key, value in error.metadata.items()}
