"""What a load's numbers mean."""

import json
import random

import pytest

from clipseek.bench.plan import Done
from clipseek.bench.recording import Recording, merge
from clipseek.bench.results import Latency, percentile
from clipseek.bench.sentences import COUNT, WORDS, sentence


def test_percentiles_are_by_nearest_rank() -> None:
    ranked = [float(value) for value in range(1, 1001)]
    assert [percentile(ranked, percent) for percent in (0, 50, 99, 99.9, 100)] == [1, 500, 990, 999, 1000]
    assert percentile([7.0], 99.9) == 7.0


def test_latency_of_calls_in_any_order() -> None:
    values = [float(value) for value in range(1, 101)]
    random.Random(0).shuffle(values)
    latency = Latency.of(values)
    assert latency is not None
    assert (latency.count, latency.min, latency.p50, latency.p99, latency.max) == (100, 1, 50, 99, 100)
    assert latency.mean == pytest.approx(50.5)
    assert Latency.of([]) is None


def test_results_of_several_processes_become_one() -> None:
    one, other = Recording(10.0, 20.0, cpu_seconds=1.5), Recording(10.0, 30.0, cpu_seconds=0.5)
    for seconds in (0.1, 0.2):
        one.of("search").add(seconds, Done())
    other.of("search").add(0.3, Done(stages={"index": 0.3}))
    other.of("bulk").add(5.0, Done(items=97))
    other.of("bulk").errors["UNAVAILABLE"] += 1
    result = merge([one, other])
    assert result.seconds == 20.0
    assert result.cpu_seconds == 2.0
    assert result.operations["search"].calls == 3
    assert result.operations["search"].stages == {"index": pytest.approx(0.1)}
    assert result.operations["bulk"].rate == pytest.approx(97 / 20)
    assert result.total.items == 100
    assert result.total.errors == {"UNAVAILABLE": 1}
    assert json.loads(json.dumps(result.to_json()))["operations"]["bulk"]["items"] == 97


def test_sentences_are_distinct() -> None:
    numbers = range(50_000)
    sentences = {sentence(number) for number in numbers}
    assert len(sentences) == len(numbers)
    assert sentence(COUNT) == sentence(0)
    assert {word for each in sentences for word in each.split()} == set(WORDS)
