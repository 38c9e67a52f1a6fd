"""Domain errors.

An error is raised once, where its cause is known, with a message for the user. ``rpc.errors`` alone turns it into a
gRPC status with ``google.rpc`` details; nobody else builds a status. Each class knows its status ``code`` and its
``reason`` (the name of a ``clipseek.v1.ErrorReason`` without the prefix).
"""

from typing import ClassVar

from grpc import StatusCode


class ClipseekError(Exception):
    """Base of all errors that a user may see.

    Attributes:
        message: For the user: what is wrong and what to do. No path, no stack, no secret.
        field: The request field at fault, for ``BadRequest``; empty when there is none.
        metadata: Values for programs, for ``ErrorInfo.metadata``.
        retry_after: Seconds after which a retry may help, for ``RetryInfo``; ``None`` when it cannot.
    """

    code: ClassVar[StatusCode] = StatusCode.INTERNAL
    reason: ClassVar[str] = "INTERNAL"
    default_field: ClassVar[str] = ""
    retry_after: float | None = None

    def __init__(self, message: str, *, field: str = "", **metadata: str) -> None:
        super().__init__(message)
        self.message = message
        self.field = field or self.default_field
        self.metadata = metadata


class InvalidField(ClipseekError):
    """A field is missing, malformed or out of range."""

    code = StatusCode.INVALID_ARGUMENT
    reason = "INVALID_FIELD"


class InvalidImage(ClipseekError):
    """The bytes are not a whole picture of a supported format."""

    code = StatusCode.INVALID_ARGUMENT
    reason = "INVALID_IMAGE"
    default_field = "image_data"


class ImageTooLarge(ClipseekError):
    """The picture has more bytes or pixels than the server takes."""

    code = StatusCode.INVALID_ARGUMENT
    reason = "IMAGE_TOO_LARGE"
    default_field = "image_data"


class InvalidFilter(ClipseekError):
    """The filter cannot be parsed, is too long or too deep."""

    code = StatusCode.INVALID_ARGUMENT
    reason = "INVALID_FILTER"


class MalformedMessage(ClipseekError):
    """Not the message that the method expects, or not exactly one."""

    code = StatusCode.INVALID_ARGUMENT
    reason = "MALFORMED_MESSAGE"


class ImageNotFound(ClipseekError):
    """No picture has that id."""

    code = StatusCode.NOT_FOUND
    reason = "IMAGE_NOT_FOUND"


class CollectionNotFound(ClipseekError):
    """No collection has that name."""

    code = StatusCode.NOT_FOUND
    reason = "COLLECTION_NOT_FOUND"


class CollectionGone(CollectionNotFound):
    """The generation behind the name was dropped meanwhile; resolve the name afresh, once."""


class ModelNotFound(ClipseekError):
    """The server has not loaded a model of that name."""

    code = StatusCode.NOT_FOUND
    reason = "MODEL_NOT_FOUND"


class ImageExists(ClipseekError):
    """The id is taken and the caller asked to fail then."""

    code = StatusCode.ALREADY_EXISTS
    reason = "IMAGE_EXISTS"


class CollectionExists(ClipseekError):
    """The collection is there already."""

    code = StatusCode.ALREADY_EXISTS
    reason = "COLLECTION_EXISTS"


class SpaceMismatch(ClipseekError):
    """Vectors of two spaces cannot be compared, or no loaded model serves the collection's space."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "SPACE_MISMATCH"


class EffortNotServed(ClipseekError):
    """The collection's index does not serve that effort."""

    code = StatusCode.FAILED_PRECONDITION
    reason = "EFFORT_NOT_SERVED"


class Overloaded(ClipseekError):
    """A queue, the streams or the bytes in flight are full."""

    code = StatusCode.RESOURCE_EXHAUSTED
    reason = "OVERLOADED"
    retry_after = 0.5


class DeadlineExceeded(ClipseekError):
    """The deadline passed before the work was done."""

    code = StatusCode.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"


class IndexUnavailable(ClipseekError):
    """Milvus does not answer."""

    code = StatusCode.UNAVAILABLE
    reason = "INDEX_UNAVAILABLE"
    retry_after = 1.0


class ImageStoreUnavailable(ClipseekError):
    """The image store does not answer or is full."""

    code = StatusCode.UNAVAILABLE
    reason = "IMAGE_STORE_UNAVAILABLE"
    retry_after = 5.0


class ImageDamaged(ClipseekError):
    """The stored bytes of a picture are missing or cannot be decoded any more; waiting does not mend them."""

    code = StatusCode.DATA_LOSS
    reason = "IMAGE_DAMAGED"


class CollectionHeld(ClipseekError):
    """Writes to the collection are held while it is rebuilt or deleted."""

    code = StatusCode.UNAVAILABLE
    reason = "COLLECTION_HELD"
    retry_after = 2.0


class NotServing(ClipseekError):
    """The server is starting or shutting down."""

    code = StatusCode.UNAVAILABLE
    reason = "NOT_SERVING"
    retry_after = 2.0


class Unauthenticated(ClipseekError):
    """No token, or one that the server does not know."""

    code = StatusCode.UNAUTHENTICATED
    reason = "UNAUTHENTICATED"


class PermissionDenied(ClipseekError):
    """The token does not allow this call."""

    code = StatusCode.PERMISSION_DENIED
    reason = "PERMISSION_DENIED"


class StartupError(Exception):
    """The server cannot start: a setting, a bundle or the environment is wrong. The message says what to do."""
