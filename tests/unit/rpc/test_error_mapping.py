import inspect

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from clipseek.v1 import errors_pb2
from clipseek_server import errors
from clipseek_server.rpc.errors import MAX_TEXT_BYTES, failure, item_error
from clipseek_server.telemetry import Call

CLASSES = [
    each
    for _, each in inspect.getmembers(errors, inspect.isclass)
    if issubclass(each, errors.ClipseekError) and each is not errors.ClipseekError
]


def details_of(unhappy) -> dict[str, object]:
    trailers = dict(unhappy.trailers)
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    assert status.code == unhappy.code.value[0]
    found = {}
    for detail in status.details:
        for message in (error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()):
            if detail.Unpack(message):
                found[type(message).__name__] = message
    return found


@pytest.mark.parametrize("error_class", CLASSES)
def test_every_error_has_a_reason_of_the_contract_whose_comment_says_the_same_status(error_class):
    assert f"ERROR_REASON_{error_class.reason}" in errors_pb2.ErrorReason.DESCRIPTOR.values_by_name
    unhappy = failure(error_class("what is wrong", field="f", key="value"), Call())
    details = details_of(unhappy)
    assert unhappy.code is error_class.code is not grpc.StatusCode.INTERNAL
    assert details["ErrorInfo"].reason == error_class.reason
    assert details["ErrorInfo"].domain == "clipseek"
    assert dict(details["ErrorInfo"].metadata) == {"key": "value"}
    assert ("BadRequest" in details) == (unhappy.code is grpc.StatusCode.INVALID_ARGUMENT)
    assert ("RetryInfo" in details) == (error_class.retry_after is not None)


def test_every_reason_of_the_contract_is_used():
    used = {each.reason for each in CLASSES} | {errors.ClipseekError.reason, "UNSPECIFIED"}
    assert {name.removeprefix("ERROR_REASON_") for name in errors_pb2.ErrorReason.DESCRIPTOR.values_by_name} == used


def test_overload_tells_grpc_when_to_retry():
    trailers = dict(failure(errors.Overloaded("full"), Call()).trailers)
    assert trailers["grpc-retry-pushback-ms"] == "500"


def test_a_bug_says_nothing_but_the_request_id():
    unhappy = failure(KeyError("/secret/path"), Call(request_id="abc"))
    assert unhappy.code is grpc.StatusCode.INTERNAL
    assert "secret" not in unhappy.message
    assert "abc" in unhappy.message
    assert details_of(unhappy)["ErrorInfo"].reason == "INTERNAL"


@pytest.mark.parametrize("letter", ["x", "夏", "😀", "e\u0301"])
def test_long_texts_fit_into_the_trailers(letter):
    text = letter * 100_000
    unhappy = failure(errors.InvalidField(text, field=text, key=text, other=text, third=text), Call())
    assert MAX_TEXT_BYTES - 8 < len(unhappy.message.encode()) <= MAX_TEXT_BYTES
    assert unhappy.message == text[: len(unhappy.message) - 1] + "…"
    assert 3 * len(unhappy.message.encode()) + len(dict(unhappy.trailers)["grpc-status-details-bin"]) * 4 / 3 < 8000


def test_item_errors_say_the_same():
    error = item_error(errors.ImageExists("taken", content_sha256="ab"), Call())
    assert error.code == grpc.StatusCode.ALREADY_EXISTS.value[0]
    assert error.reason == errors_pb2.ERROR_REASON_IMAGE_EXISTS
    assert dict(error.metadata) == {"content_sha256": "ab"}


def test_item_errors_say_when_to_retry():
    assert not item_error(errors.InvalidImage("none"), Call()).HasField("retry_delay")
    delay = item_error(errors.ImageStoreUnavailable("away"), Call()).retry_delay
    assert delay.ToTimedelta().total_seconds() == errors.ImageStoreUnavailable.retry_after
