"""Objectives, the search for the highest rate that meets one, and two runs compared."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from clipseek.bench.compare import busy_loads, compare, different_settings
from clipseek.bench.objective import Condition, Objective
from clipseek.bench.plan import Done
from clipseek.bench.recording import Recording, merge
from clipseek.bench.report import read_json, to_html, to_json
from clipseek.bench.results import LoadResult
from clipseek.bench.scrape import Scraper, read
from clipseek.bench.step_search import Found, search


def result(
    seconds: float, *, calls: int = 1000, errors: int = 0, tail: float = 0.0, cpu: float = 0.0, lasting: float = 10.0
) -> LoadResult:
    """Calls of so many seconds each, spread over the time."""
    recording = Recording(0.0, lasting + tail, due=lasting, cpu_seconds=cpu)
    for number in range(calls):
        recording.add("search_text", number / calls * lasting, seconds, Done())
    for _ in range(errors):
        recording.add("search_text", 0.0, 1.0, "UNAVAILABLE")
    return merge([recording])


def test_objectives_are_read() -> None:
    objective = Objective.parse("p99<50ms, errors<0.1%,insert.p99.9<2s,mean<500us")
    assert objective.conditions == (
        Condition("p99<50ms", "p99", 0.05),
        Condition("errors<0.1%", "errors", pytest.approx(0.001)),
        Condition("insert.p99.9<2s", "p999", 2.0, "insert"),
        Condition("mean<500us", "mean", pytest.approx(0.0005)),
    )
    assert str(objective) == "p99<50ms,errors<0.1%,insert.p99.9<2s,mean<500us"


@pytest.mark.parametrize("text", ["", "p99", "p99<50", "p98<50ms", "errors<5ms", "p99<5%", "p99>50ms", "p99<50ms;x"])
def test_what_is_no_objective(text: str) -> None:
    with pytest.raises(ValueError, match=r"p99<50ms,errors<0\.1%"):
        Objective.parse(text)


def test_conditions_hold_or_do_not() -> None:
    def broken(text: str, found: LoadResult) -> int:
        return len(Objective.parse(text).broken_by(found))

    assert broken("p99<50ms,errors<1%", result(0.04)) == 0
    assert broken("p99<50ms,errors<1%", result(0.06, errors=20)) == 2
    assert broken("errors<1%", result(0.04, errors=5)) == 0
    assert broken("search_text.p50<50ms", result(0.04)) == 0
    # A call that failed took longer than any limit.
    assert broken("p99<50ms", result(0.04, errors=20)) == 1
    assert broken("p99<50ms", result(0.04, errors=5)) == 0
    assert broken("max<50ms", result(0.04)) == broken("mean<50ms", result(0.04)) == 0
    assert broken("max<50ms,mean<50ms", result(0.04, errors=1)) == 2
    # Of what was not called, or never answered, nothing can be said.
    assert broken("insert.p50<50ms", result(0.04)) == 1
    assert broken("p50<50ms", result(0.04, calls=0, errors=10)) == 1


@pytest.mark.parametrize(("slow", "failed", "holds"), [(10, 0, True), (1, 9, True), (9, 9, False), (11, 0, False)])
def test_slow_calls_and_failed_ones_lie_above_a_percentile_together(slow: int, failed: int, holds: bool) -> None:
    recording = Recording(0.0, 10.0)
    for number in range(1000 - failed):
        recording.add("search_text", 1.0, 1.0 if number < slow else 0.04, Done())
    for _ in range(failed):
        recording.add("search_text", 1.0, 0.001, "UNAVAILABLE")
    # The items of other calls make no difference.
    recording.add("bulk_import", 1.0, 0.04, Done(items=64_000))
    (condition,) = Objective.parse("search_text.p99<50ms").conditions
    assert condition.holds(merge([recording])) is holds
    (condition,) = Objective.parse("p95<50ms").conditions
    assert condition.holds(merge([recording]))
    (condition,) = Objective.parse("p99.9<50ms").conditions
    assert not condition.holds(merge([recording, recording]))


def test_items_that_failed_are_a_part_of_their_call() -> None:
    recording = Recording(0.0, 10.0)
    for _ in range(100):
        recording.add("bulk_import", 1.0, 0.04, Done(items=32, failures={"INVALID_ARGUMENT": 32}))
    (half, most) = Objective.parse("p50<50ms,p90<50ms").conditions
    assert (half.holds(merge([recording])), most.holds(merge([recording]))) == (True, False)


def test_a_percentile_among_calls_that_failed_has_no_number() -> None:
    found = search(lambda _: result(0.01, errors=500), Objective.parse("p99<50ms"))
    assert found.steps[0].why_not == "p99<50ms (calls failed)"
    total = found.steps[0].result.total
    assert total.percentiles == {"p50": pytest.approx(0.01, rel=0.01)}
    assert json.loads(to_json({}, {"10 calls a second": found.steps[0].result}, found))


class Server:
    """Quick up to a rate, slow above it; now and then out of luck."""

    def __init__(self, capacity: float, unlucky: Callable[[int], bool] = lambda _: False) -> None:
        self._capacity = capacity
        self._unlucky = unlucky
        self._measured = count()
        self.rates: list[float] = []

    def measure(self, rate: float) -> LoadResult:
        self.rates.append(rate)
        slow = rate > self._capacity or self._unlucky(next(self._measured))
        return result(0.2 if slow else 0.01)


@pytest.mark.parametrize("capacity", [1.0, 9.0, 10.0, 77.0, 1234.0])
def test_the_highest_rate_is_found(capacity: float) -> None:
    server = Server(capacity)
    found = search(server.measure, Objective.parse("p99<50ms"), begin=10.0)
    assert found.rate <= capacity < found.failed_rate
    assert found.failed_rate / found.rate <= 1.05
    assert all(server.rates.count(rate) == 2 for rate in server.rates)


def test_bad_luck_alone_decides_nothing() -> None:
    server = Server(100.0, unlucky=lambda number: number % 5 == 0)
    found = search(server.measure, Objective.parse("p99<50ms"), begin=10.0)
    assert found.rate == pytest.approx(100.0, rel=0.05)
    assert max(server.rates.count(rate) for rate in server.rates) == 3


def test_a_search_that_never_fails_and_one_that_never_succeeds() -> None:
    found = search(Server(1e9).measure, Objective.parse("p99<50ms"), begin=10.0, most=1000.0)
    assert (found.rate, found.failed_rate) == (1000.0, None)
    assert search(Server(1e9).measure, Objective.parse("p99<50ms"), begin=50.0, most=10.0).rate == 10.0
    found = search(Server(0.0).measure, Objective.parse("p99<50ms"), begin=10.0)
    assert found.rate == 0.0
    assert "p99<50ms (200" in found.steps[0].why_not


@pytest.mark.parametrize(
    ("measured", "why"),
    [(result(0.01, tail=3.0), "fell behind"), (result(0.01, cpu=9.0), "could not keep up")],
)
def test_what_does_not_count_however_quick_it_was(measured: LoadResult, why: str) -> None:
    found = search(lambda _: measured, Objective.parse("p99<50ms"))
    assert found.rate == 0.0
    assert why in found.steps[0].why_not


def test_a_generator_that_cannot_keep_up_says_nothing_of_the_server() -> None:
    def measure(rate: float) -> LoadResult:
        return result(0.01, cpu=9.0 if rate > 30 else 0.0)

    found = search(measure, Objective.parse("p99<50ms"))
    assert (found.rate, found.failed_rate, found.generator_limit) == (20.0, None, 40.0)
    assert found.steps[-1].met is None
    # Latency is partly the generator's then, errors are not.
    slow = search(lambda _: result(0.06, cpu=9.0), Objective.parse("p99<50ms"))
    assert (slow.rate, slow.generator_limit) == (0.0, 10.0)
    failing = search(lambda _: result(0.01, errors=500, cpu=9.0), Objective.parse("errors<1%"))
    assert (failing.rate, failing.generator_limit) == (0.0, None)


def test_a_search_that_ended_before_its_time_found_what_two_measurements_agreed_on() -> None:
    steps = search(Server(30.0).measure, Objective.parse("p99<50ms"), begin=10.0).steps
    assert [step.rate for step in steps[:6]] == [10.0, 10.0, 20.0, 20.0, 40.0, 40.0]
    found = [Found.of(steps[:number]) for number in range(7)]
    assert [each.rate for each in found] == [0.0, 0.0, 10.0, 10.0, 20.0, 20.0, 20.0]
    assert [each.failed_rate for each in found] == [None] * 6 + [40.0]
    assert found[3].steps == steps[:3]


def test_nothing_to_compare_with_is_no_number() -> None:
    found = {each.what: each for each in compare(kept(result(0.1)), kept(result(0.1)))}
    assert found["8 callers: all errors %"].ratio is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1, "results": [{}]}', "\xff"])
def test_files_that_are_no_results(text: str, tmp_path: Any) -> None:
    (tmp_path / "other.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"other\.json is no result of clipseek bench"):
        read_json(tmp_path / "other.json")


def kept(found: LoadResult) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(to_json({}, {"8 callers": found}))
    return document


def test_two_runs_side_by_side() -> None:
    found = {each.what: each for each in compare(kept(result(0.1)), kept(result(0.05, calls=2000)))}
    assert found["8 callers: search_text p50 ms"].ratio == pytest.approx(0.5, rel=0.01)
    assert found["8 callers: all /s"].ratio == pytest.approx(2.0)
    assert found["8 callers: all p99 ms"].is_clear is True
    same = {each.what: each for each in compare(kept(result(0.1)), kept(result(0.1)))}
    assert same["8 callers: all p99 ms"].is_clear is False
    short = {each.what: each for each in compare(kept(result(0.1, lasting=2)), kept(result(0.2, lasting=2)))}
    assert short["8 callers: all p99 ms"].is_clear is None


def test_nothing_is_clear_of_a_load_whose_generator_could_not_keep_up() -> None:
    well, busy = kept(result(0.1)), kept(result(0.05, cpu=9.0))
    assert (busy_loads(well), busy_loads(busy)) == ([], ["8 callers"])
    for one, other in ((well, busy), (busy, well)):
        assert {each.is_clear for each in compare(one, other)} == {None}
    # A file of before it was kept.
    del busy["results"][0]["is_generator_busy"]
    assert busy_loads(busy) == []
    assert any(each.is_clear for each in compare(well, busy))


def test_settings_that_differ_are_named() -> None:
    assert different_settings({"mix": 1, "seed": 1}, {"mix": 1, "seed": 2}) == ["seed: 1 and 2"]
    assert different_settings({}, {"seed": 0}) == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/metrics", "http://127.0.0.1:x/metrics", "http://[/metrics"])
def test_metrics_that_cannot_be_read_are_named(url: str) -> None:
    with pytest.raises(OSError, match=re.escape(url)):
        read(url)


def test_two_searches_side_by_side() -> None:
    def searched(most: float) -> dict[str, Any]:
        found = search(lambda rate: result(0.01, cpu=0.0 if rate <= most else 9.0), Objective.parse("p99<50ms"))
        document: dict[str, Any] = json.loads(to_json({}, {f"{most} calls a second": result(0.01)}, found))
        assert "40.0/s the generator itself could not keep up" in to_html(document) or most != 20
        return document

    # They have no load in common.
    (rate,) = compare(searched(20), searched(40))
    assert (rate.before, rate.after, rate.ratio) == (20.0, 40.0, 2.0)
    with pytest.raises(ValueError, match="no load in common"):
        list(compare(searched(20), kept(result(0.1))))


def test_results_lie_in_the_time_of_the_metrics() -> None:
    scraper = Scraper("http://127.0.0.1:1/metrics")
    scraper.begin = 1000.0
    found = replace(result(0.01), begin=1003.5)
    document = json.loads(to_json({}, {"8 callers": found}, scraper=scraper))
    assert document["results"][0]["begin"] == 3.5


def test_a_report_is_one_page_that_needs_nothing_else(tmp_path: Any) -> None:
    scraper = Scraper("http://127.0.0.1:1/metrics")
    scraper.series = {
        'clipseek_queue_length{queue="text tower"}': [(0.0, 1.0), (1.0, 5.0)],
        "process_cpu_seconds_total": [(0.0, 1.0), (1.0, 2.5)],
    }
    steps = search(Server(30.0).measure, Objective.parse("p99<50ms"))
    results = {"10 calls a second": steps.steps[0].result, "<i>": steps.steps[1].result}
    text = to_json({"server": "<b>&"}, results, steps, scraper)
    page = to_html(json.loads(text))
    assert page.count("<svg") == 6
    for load in ("10 calls a second", "&lt;i&gt;"):
        assert f"Latency over time, {load}</figcaption>" in page
    assert "&lt;b&gt;&amp;" in page
    assert "&lt;i&gt;" in page
    assert page.count("The generator used") == 2
    assert page.count("fewer than ten of 1,000 calls lie above p99.9: these say little") == 2
    assert "calls a second met the objective" in page
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    for kept, step in zip(json.loads(text)["search"]["steps"], steps.steps, strict=True):
        assert kept["operations"]["search_text"] == kept["total"]
        assert kept["total"]["calls"] == 1000
        assert kept["about_generator"] == step.result.about_generator
    (tmp_path / "run.json").write_text(text)
    assert len(read_json(tmp_path / "run.json")["results"]) == 2


def test_what_few_calls_decide_is_said() -> None:
    def found(text: str, calls: int, most: float = 10.0) -> Found:
        return search(
            lambda rate: result(0.2 if rate > 10 else 0.01, calls=calls), Objective.parse(text), begin=10.0, most=most
        )

    few = found("p99<50ms,p90<40ms,errors<1%,max<1s", 400, most=100.0)
    # Both rates that were found rest on measurements of ten seconds.
    assert few.few_calls == tuple(
        f"at {rate:.1f}/s fewer than ten calls lie above the percentile of p99<50ms, so that chance may decide; "
        "--seconds 25 would be enough"
        for rate in (few.rate, few.failed_rate)
    )
    assert all(step.few_calls for step in few.steps)
    assert found("p99<50ms", 1000).few_calls == ()
    assert found("mean<50ms,p50<40ms", 20).few_calls == ()
    assert "--seconds 100 would" in found("p99.9<50ms", 1000).few_calls[0]
    assert "--seconds 10000 would" in found("search_text.p99<50ms", 1).few_calls[0]
    # Where nothing was answered, that is what is to be said.
    assert found("p99<50ms", 0).few_calls == ()

    document = json.loads(to_json({}, {"10 calls a second": few.steps[0].result}, few))
    assert document["search"]["few_calls"] == list(few.few_calls)
    assert [step["few_calls"] for step in document["search"]["steps"]] == [step.few_calls for step in few.steps]
    assert few.few_calls[0].replace("<", "&lt;") in to_html({"measured": "", **document})
