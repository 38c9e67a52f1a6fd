"""What went wrong, in words that say what to do."""

from grpc import StatusCode

from clipseek import (
    ClipseekError,
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    UnavailableError,
)
from clipseek.ui.words import Words

EXPECTED = (ClipseekError, OSError, ValueError)
"""What the actions of the page turn into words; all else is a bug."""


def explain(error: Exception, words: Words, collection: str) -> tuple[str, str]:
    """Our words, and after them the server's own, which are English; empty where they add nothing."""
    match error:
        case NotFoundError(reason="COLLECTION_NOT_FOUND"):
            return words.no_collection.format(collection=collection), ""
        case NotFoundError(reason="IMAGE_NOT_FOUND"):
            return words.no_picture, ""
        case InvalidArgumentError(reason="INVALID_FILTER"):
            return words.bad_filter, error.message
        # Of all that the page sends only a picture can be more than a message holds.
        case (
            InvalidArgumentError(reason="INVALID_IMAGE" | "IMAGE_TOO_LARGE")
            | InvalidArgumentError(code=StatusCode.RESOURCE_EXHAUSTED)
        ):
            return words.bad_picture, error.message
        case InvalidArgumentError(field="collection"):
            return words.bad_collection, error.message
        case InvalidArgumentError():
            return words.bad_value, error.message
        case OverloadedError():
            return words.busy.format(seconds=f"{error.retry_after or 1:g}"), ""
        case DeadlineExceededError():
            return words.slow, error.message
        case UnavailableError():
            return words.away, error.message
        case PermissionDeniedError():
            return words.forbidden, error.message
        case FailedPreconditionError(reason="SPACE_MISMATCH"):
            return words.other_model, error.message
        case ClipseekError():
            named = f" (request id {error.request_id})" if error.request_id else ""
            return words.failed, error.message + named
        case FileNotFoundError():
            return words.picture_lost, ""
        case _:
            return words.failed, str(error)
