"""What the log shows, and what it must not."""

import json

import pytest
import structlog

from clipseek_server.telemetry import configure_logging


@pytest.fixture(autouse=True)
def restored():
    """The configuration is the process's."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.mark.parametrize("as_json", [True, False])
def test_a_traceback_shows_no_values(capsys, as_json):
    configure_logging("info", json=as_json)
    what_was_sent = "a private " + "text"
    try:
        raise RuntimeError(f"failed at {len(what_was_sent)}")
    except RuntimeError:
        structlog.get_logger("test").exception("bug", request_id="abc")
    written = capsys.readouterr().err
    assert "failed at 14" in written
    assert "test_a_traceback_shows_no_values" in written
    assert "a private text" not in written
    if as_json:
        assert json.loads(written)["request_id"] == "abc"
