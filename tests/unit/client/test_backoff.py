"""How long to wait before trying again, by a clock that stands still unless the test moves it."""

import pytest

from clipseek import UnavailableError
from clipseek.backoff import NOT_BEGUN, Backoff


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("clipseek.backoff.time.monotonic", lambda: now[0])
    monkeypatch.setattr("clipseek.backoff.random.uniform", lambda low, high: high)
    return now


ERROR = UnavailableError("away")


def test_pauses_double_up_to_five_seconds(clock: list[float]) -> None:
    backoff = Backoff(60)
    assert [backoff.pause(ERROR) for _ in range(7)] == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    backoff.succeeded()
    assert backoff.pause(ERROR) == 0.2


def test_the_last_try_is_at_the_end_of_the_patience(clock: list[float]) -> None:
    backoff = Backoff(0.5)
    assert backoff.pause(ERROR) == 0.2
    clock[0] += 0.2
    assert backoff.pause(ERROR) == pytest.approx(0.3)
    clock[0] += 0.3
    with pytest.raises(UnavailableError):
        backoff.pause(ERROR)


def test_no_patience_is_no_second_try(clock: list[float]) -> None:
    with pytest.raises(UnavailableError):
        Backoff(0).pause(ERROR)


def test_what_the_server_asks_for_is_waited_as_far_as_the_patience_goes(clock: list[float]) -> None:
    asks = UnavailableError("held", retry_after=2.0)
    assert Backoff(60).pause(asks) == 2.0
    assert Backoff(1.5).pause(asks) == 1.5


def test_the_next_server_need_not_wait_for_one_that_shuts_down(clock: list[float]) -> None:
    assert Backoff(60).pause(UnavailableError("shutting down", reason=NOT_BEGUN, retry_after=2.0)) == 0.2


def test_nothing_is_waited_for_beyond_the_deadline(clock: list[float]) -> None:
    assert Backoff(60, end=100.2).pause(ERROR) == 0.2
    with pytest.raises(UnavailableError):
        Backoff(60, end=100.1).pause(ERROR)
