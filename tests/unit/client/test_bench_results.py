"""What a load's numbers mean."""

import html
import json
import math
import pickle
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipseek.bench.histogram import Histogram
from clipseek.bench.plan import Done
from clipseek.bench.recording import Recording, merge
from clipseek.bench.report import to_html, to_json
from clipseek.bench.sentences import COUNT, WORDS, sentence


def test_percentiles_are_right_to_a_thousandth() -> None:
    values = [float(value) for value in range(1, 1001)]
    random.Random(0).shuffle(values)
    latency = Histogram.of(values).latency()
    assert latency is not None
    assert latency.count == 1000
    found = (latency.min, latency.p50, latency.p90, latency.p99, latency.p999, latency.max)
    assert found == pytest.approx((1, 500, 900, 990, 999, 1000), rel=0.001)
    assert latency.mean == pytest.approx(500.5)
    assert Histogram().latency() is None
    # More than a hundredth lie above the 59th of 60.
    sixty = Histogram.of(values[:60]).latency()
    assert sixty is not None
    assert sixty.p99 == pytest.approx(max(values[:60]), rel=0.001)


@given(st.lists(st.floats(1e-6, 3600), min_size=1, max_size=200))
def test_a_percentile_is_a_value_that_so_many_do_not_exceed(values: list[float]) -> None:
    latency = Histogram.of(values).latency()
    assert latency is not None
    ranked = sorted(values)
    for share, found in ((0.5, latency.p50), (0.99, latency.p99), (0.999, latency.p999)):
        exact = ranked[max(0, math.ceil(round(share * len(ranked), 6)) - 1)]
        assert found == pytest.approx(exact, rel=0.002, abs=1e-6)


def test_what_lies_outside_counts_as_the_nearest() -> None:
    latency = Histogram.of([0.0, -1.0, 1e6]).latency()
    assert latency is not None
    assert (latency.count, latency.min) == (3, 1e-6)
    assert latency.max == pytest.approx(3600, rel=0.001)


def test_histograms_travel_and_join() -> None:
    one, other = Histogram.of([0.1, 0.2]), pickle.loads(pickle.dumps(Histogram.of([0.3])))
    one.join(other)
    latency = one.latency()
    assert latency is not None
    assert (len(one), latency.mean) == (3, pytest.approx(0.2))
    assert latency.max == pytest.approx(0.3, rel=0.001)


def test_the_curve_rises_to_all_calls() -> None:
    curve = Histogram.of([0.001 * number for number in range(1, 1001)]).curve()
    assert curve == tuple(sorted(curve))
    assert curve[-1] == (100, pytest.approx(1.0, rel=0.001))
    assert Histogram().curve() == ()


def test_results_of_several_processes_become_one() -> None:
    one, other = Recording(10.0, 20.0, cpu_seconds=1.5), Recording(10.0, 30.0, cpu_seconds=0.5)
    for seconds in (0.1, 0.2):
        one.add("search", 10.5, seconds, Done())
    other.add("search", 11.5, 0.3, Done(stages={"index": 0.3}))
    other.add("bulk", 15.0, 5.0, Done(items=97))
    other.add("bulk", 15.0, 5.0, "UNAVAILABLE")
    result = merge([one, other])
    assert result.seconds == 20.0
    assert result.cpu_seconds == 2.0
    assert result.operations["search"].calls == 3
    assert result.operations["search"].stages == {"index": pytest.approx(0.1)}
    assert result.operations["bulk"].rate == pytest.approx(97 / 20)
    assert result.total.items == 100
    assert result.total.errors == {"UNAVAILABLE": 1}
    assert [(window.begin, window.found.calls) for window in result.windows] == [(0, 2), (1, 1), (5, 1)]
    assert result.windows[2].found.errors == {"UNAVAILABLE": 1}
    assert json.loads(json.dumps(result.to_json()))["operations"]["bulk"]["items"] == 97


@pytest.mark.parametrize(("calls", "late", "busy"), [(30_000, 1_200, True), (30_000, 60, False), (500, 20, False)])
def test_a_generator_is_busy_that_makes_more_than_a_hundredth_of_many_calls_late(
    calls: int, late: int, busy: bool
) -> None:
    recording = Recording(0.0, 60.0, due=60.0)
    for number in range(calls):
        lateness = 0.08 if number < late else 0.0
        recording.add("search", 1.0, 0.01 + lateness, Done())
        recording.lateness.add(lateness)
    result = merge([recording])
    assert result.is_generator_busy is busy
    assert result.to_json()["is_generator_busy"] is busy


@pytest.mark.parametrize(
    ("processes", "cpu", "busy"), [(4, 1.7, True), (4, 1.5, False), (2, 1.7, True), (1, 0.9, True), (1, 0.7, False)]
)
def test_a_generator_is_busy_that_uses_most_of_its_cores(processes: int, cpu: float, busy: bool) -> None:
    """However many processes there are: on two cores they use no more than two."""
    recordings = [Recording(0.0, 10.0, cpu_seconds=10 * cpu / processes, cores=2) for _ in range(processes)]
    for recording in recordings:
        recording.add("search", 1.0, 0.01, Done())
    result = merge(recordings)
    assert (result.is_generator_busy, result.cores) == (busy, 2)
    # More processes are no help where there are no more cores.
    assert ("give it more processes or another" in result.about_generator) is (busy and processes < 2)
    assert ("give it another machine" in result.about_generator) is (busy and processes >= 2)


@pytest.mark.parametrize(("due", "late", "busy"), [(60.0, 0.004, True), (None, 0.004, False), (None, 0.006, True)])
def test_timers_of_a_closed_loop_may_wait_for_a_server_that_computes(
    due: float | None, late: float, busy: bool
) -> None:
    recording = Recording(0.0, 60.0, due=due)
    for _ in range(1000):
        recording.add("search", 1.0, 0.017, Done())
        recording.lateness.add(late)
    result = merge([recording])
    assert result.is_generator_busy is busy
    assert f"its {'calls' if due else 'timers'} were late by {late * 1000:.1f} ms" in result.about_generator


def test_one_slow_call_does_not_hide_that_the_generator_was_busy() -> None:
    recording = Recording(0.0, 40.0, due=10.0, cpu_seconds=9.0)
    recording.add("search", 9.9, 30.1, Done())
    result = merge([recording])
    assert result.is_generator_busy
    assert "used 0.90 cores" in result.about_generator


def test_sentences_are_distinct() -> None:
    numbers = range(50_000)
    sentences = {sentence(number) for number in numbers}
    assert len(sentences) == len(numbers)
    assert sentence(COUNT) == sentence(0)
    assert {word for each in sentences for word in each.split()} == set(WORDS)


@pytest.mark.parametrize(
    ("calls", "unsure"),
    [
        (1, ("p50", "p90", "p95", "p99", "p999")),
        (19, ("p50", "p90", "p95", "p99", "p999")),
        (20, ("p90", "p95", "p99", "p999")),
        (999, ("p99", "p999")),
        (1_000, ("p999",)),
        (10_000, ()),
    ],
)
def test_percentiles_above_which_few_calls_lie_are_unsure(calls: int, unsure: tuple[str, ...]) -> None:
    latency = Histogram.of([0.01] * calls).latency()
    assert latency is not None
    assert latency.unsure == unsure


def test_percentiles_that_few_calls_decide_are_named() -> None:
    recording = Recording(0.0, 10.0)
    assert merge([recording]).about_percentiles == ""
    for _ in range(10_000):
        recording.add("search", 1.0, 0.01, Done())
    assert merge([recording]).about_percentiles == ""
    few = Recording(0.0, 10.0)
    for _ in range(999):
        few.add("search", 1.0, 0.01, Done())
    said = merge([few]).about_percentiles
    assert said == "fewer than ten of 999 calls lie above p99, p99.9: these say little"
    assert merge([few]).to_json()["about_percentiles"] == said


def test_what_is_not_on_the_servers_clock_is_said_of_short_latencies() -> None:
    recording = Recording(0.0, 10.0)
    for _ in range(10):
        recording.add("short", 1.0, 0.0035, Done(stages={"total": 0.002}))
        recording.add("long", 1.0, 0.0415, Done(stages={"total": 0.040}))
        recording.add("silent", 1.0, 0.001, Done())
    recording.add("failed", 1.0, 0.001, "UNAVAILABLE")
    result = merge([recording])
    outside = {name: found.seconds_outside for name, found in result.operations.items()}
    assert outside == {
        "short": pytest.approx(0.0015),
        "long": pytest.approx(0.0015),
        "silent": None,
        "failed": None,
    }
    assert result.about_latencies == (
        "Of these latencies 1.5 of 3.5 ms (short) in the mean are not on the server's clock: they pass in the "
        "generator itself, on the way, and before a busy server takes a call up."
    )
    document = json.loads(to_json({}, {"a load": result}))
    assert document["results"][0]["about_latencies"] == result.about_latencies
    assert f"<p>{html.escape(result.about_latencies)}</p>" in to_html(document)

    long = Recording(0.0, 10.0)
    long.add("long", 1.0, 0.0415, Done(stages={"total": 0.040}))
    assert merge([long]).about_latencies == ""
