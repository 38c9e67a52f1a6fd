"""What the server puts into an error arrives in the exception, and nothing that it puts there can hide the error."""

import pickle
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from clipseek import errors
from clipseek.v1 import errors_pb2
from small_server import Failure, SmallServer

REASONS = set(errors_pb2.ErrorReason.keys())
CLASSES = [
    (StatusCode.INVALID_ARGUMENT, errors.InvalidArgumentError),
    (StatusCode.NOT_FOUND, errors.NotFoundError),
    (StatusCode.ALREADY_EXISTS, errors.AlreadyExistsError),
    (StatusCode.FAILED_PRECONDITION, errors.FailedPreconditionError),
    (StatusCode.RESOURCE_EXHAUSTED, errors.OverloadedError),
    (StatusCode.UNAVAILABLE, errors.UnavailableError),
    (StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceededError),
    (StatusCode.UNAUTHENTICATED, errors.PermissionDeniedError),
    (StatusCode.PERMISSION_DENIED, errors.PermissionDeniedError),
    (StatusCode.INTERNAL, errors.InternalError),
    (StatusCode.ABORTED, errors.ClipseekError),
]


@pytest.mark.parametrize(("code", "kind"), CLASSES)
def test_details_arrive(client: Any, server: SmallServer, code: StatusCode, kind: type[errors.ClipseekError]) -> None:
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field="image_data", description="broken")
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(1500)
    foreign = error_details_pb2.ErrorInfo(reason="OTHER", domain="elsewhere")
    info = error_details_pb2.ErrorInfo(reason="SOME_REASON", domain="clipseek", metadata={"content_sha256": "ab"})
    server.failing("Insert", Failure(code, "what to do", (foreign, info, bad, retry)))
    with pytest.raises(errors.ClipseekError) as caught:
        client.insert(b"picture", request_id="r")
    error = caught.value
    assert type(error) is kind
    assert (error.code, error.reason, error.message, str(error)) == (code, "SOME_REASON", "what to do", "what to do")
    assert (error.field, error.metadata, error.retry_after) == ("image_data", {"content_sha256": "ab"}, 1.5)
    assert error.request_id == "r"


def test_errors_survive_pickling() -> None:
    error = errors.NotFoundError("gone", reason="IMAGE_NOT_FOUND", metadata={"a": "b"}, request_id="r", retry_after=2)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is errors.NotFoundError
    assert vars(copy) == vars(error)


@given(st.integers(-5, 40), st.integers(0, 60), st.text(max_size=20))
def test_item_errors_of_any_server(code: int, reason: int, message: str) -> None:
    error = errors.from_item_error(errors_pb2.ItemError(code=code, reason=reason, message=message), request_id="r")
    assert error.message == message
    assert error.reason == "" or f"ERROR_REASON_{error.reason}" in REASONS


class Broken(grpc.RpcError):
    """A failed call with these trailers."""

    def __init__(self, trailers: list[tuple[str, str | bytes]] | None) -> None:
        self.trailers = trailers

    def code(self) -> StatusCode:
        return StatusCode.NOT_FOUND

    def details(self) -> str:
        return "the text"

    def trailing_metadata(self) -> list[tuple[str, str | bytes]] | None:
        return self.trailers


@given(st.binary(max_size=200))
def test_damaged_details_do_not_hide_the_error(data: bytes) -> None:
    for trailers in (
        [("grpc-status-details-bin", data)],
        [("x", "y"), ("grpc-status-details-bin", b"\x1a\x02" + data)],
        None,
    ):
        error = errors.from_rpc_error(Broken(trailers), address="a", request_id="r")
        assert isinstance(error, errors.NotFoundError)
        assert str(error) == "the text"


def test_items_say_when_to_retry() -> None:
    error = errors_pb2.ItemError(code=14, message="away")
    assert errors.from_item_error(error, request_id="r").retry_after is None
    error.retry_delay.FromMilliseconds(1500)
    assert errors.from_item_error(error, request_id="r").retry_after == 1.5


@pytest.mark.parametrize("request_id", ["line\n", "caf\xe9", "two words", "{17}", "a;b", "a" * 129])
def test_request_ids_that_servers_do_not_take(client: Any, request_id: str) -> None:
    with pytest.raises(ValueError, match="a request id is made of"):
        client.info(request_id=request_id)
    with pytest.raises(ValueError, match="a request id is made of"):
        list(client.check(request_id=request_id))
