"""The client of clipseek: store pictures, and find them again by sentence, by picture or by both.

>>> from clipseek import Client
>>> with Client("127.0.0.1:50051") as client:
...     client.insert("cat.jpg", metadata={"album": "summer"})
...     for hit in client.search_text("a cat on a sofa"):
...         print(hit.score, hit.image_id)
"""

from clipseek._async.client import AsyncClient
from clipseek._sync.client import Client
from clipseek.channel import Tls
from clipseek.errors import (
    AlreadyExistsError,
    ClipseekError,
    ConnectionLostError,
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    StalledError,
    TlsError,
    UnavailableError,
)
from clipseek.requests import InsertItem, Term
from clipseek.results import (
    BulkResult,
    BulkSummary,
    CheckProgress,
    Collection,
    Deleted,
    Difference,
    Embedded,
    Embedding,
    Generation,
    Hit,
    Image,
    ImageBatch,
    IndexInfo,
    Inserted,
    Limits,
    Model,
    ModelRef,
    RebuildProgress,
    SearchResult,
    ServerInfo,
    Timing,
)

__all__ = [
    "AlreadyExistsError",
    "AsyncClient",
    "BulkResult",
    "BulkSummary",
    "CheckProgress",
    "Client",
    "ClipseekError",
    "Collection",
    "ConnectionLostError",
    "DeadlineExceededError",
    "Deleted",
    "Difference",
    "Embedded",
    "Embedding",
    "FailedPreconditionError",
    "Generation",
    "Hit",
    "Image",
    "ImageBatch",
    "IndexInfo",
    "InsertItem",
    "Inserted",
    "InternalError",
    "InvalidArgumentError",
    "Limits",
    "Model",
    "ModelRef",
    "NotFoundError",
    "OverloadedError",
    "PermissionDeniedError",
    "RebuildProgress",
    "SearchResult",
    "ServerInfo",
    "StalledError",
    "Term",
    "Timing",
    "Tls",
    "TlsError",
    "UnavailableError",
]


def __getattr__(name: str) -> str:
    if name == "__version__":
        # Read only when asked for: looking it up costs more than importing all of the above.
        from importlib.metadata import version

        return version("clipseek")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
