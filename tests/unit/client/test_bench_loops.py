"""When a load's calls are made and which of them count, in virtual time."""

import asyncio
import math
import statistics
import time
from collections.abc import Callable
from itertools import pairwise

import grpc
import pytest

from clipseek import OverloadedError
from clipseek.bench import ClosedLoop, Done, Load, LoadResult, OpenLoop
from clipseek.bench.loops import Share, run_share, status_of
from clipseek.bench.recording import Recording, merge
from virtual_time import run


class Server:
    """Answers one call at a time, each after as long as ``seconds`` says for its number."""

    def __init__(self, seconds: Callable[[int], float], *, at_a_time: int = 1) -> None:
        self._seconds = seconds
        self._slots = asyncio.Semaphore(at_a_time)
        self.begun: list[tuple[float, int]] = []
        self.in_flight = self.most_in_flight = 0

    async def call(self, number: int) -> Done:
        self.begun.append((asyncio.get_running_loop().time(), number))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            async with self._slots:
                await asyncio.sleep(self._seconds(number))
        finally:
            self.in_flight -= 1
        return Done()


def play(server: Server, load: Load, share: Share | None = None, start: float = 0.0) -> Recording:
    return run(run_share({"call": server.call}, load, share or Share(), start))


def open_load(rate: float, **options: object) -> Load:
    return Load(shape=OpenLoop(rate), mix={"call": 1}, **{"warmup": 0.0, **options})


def closed_load(callers: int, **options: object) -> Load:
    return Load(shape=ClosedLoop(callers), mix={"call": 1}, **{"warmup": 0.0, **options})


def test_open_loop_calls_at_a_constant_rate_whatever_the_answers() -> None:
    server = Server(lambda _: 3.0, at_a_time=1000)
    play(server, open_load(rate=4, seconds=5), start=2.0)
    assert [number for _, number in server.begun] == list(range(20))
    # Within the millisecond by which it aims early.
    assert [moment for moment, _ in server.begun] == pytest.approx(
        [2.0 + number / 4 for number in range(20)], abs=1.1e-3
    )


def test_closed_loop_shows_a_server_that_stands_still() -> None:
    # After a second of thirty it answers nobody before the time is up.
    server = Server(lambda number: 0.01 if number < 400 else 60.0, at_a_time=4)
    result = merge([play(server, closed_load(4, seconds=30))])
    latency = result.total.latency
    assert latency is not None
    assert latency.max == pytest.approx(60.0, rel=0.01)
    assert result.total.calls == 404
    # They are no part of the rate.
    assert result.total.rate == pytest.approx(400 / 30)
    assert sum(window.found.calls for window in result.windows) == 404


def test_open_loop_latency_counts_from_when_a_call_was_due() -> None:
    # A server that stands still for 10 s once. A generator that waits for it would see one slow call of a thousand.
    server = Server(lambda number: 10.0 if number == 100 else 0.001)
    result = merge([play(server, open_load(rate=10, seconds=100))])
    latency = result.total.latency
    assert latency is not None
    assert latency.count == 1000
    assert latency.max == pytest.approx(10.0, abs=0.2)
    # Those that were due meanwhile had to wait too: 100 of 1,000, and not just one.
    assert latency.p90 == pytest.approx(0.001, abs=0.2)
    assert latency.p95 == pytest.approx(5.0, abs=0.2)


def test_open_loop_waits_for_the_last_answer_and_counts_it() -> None:
    result = merge([play(Server(lambda _: 1.0), open_load(rate=2, seconds=10))])
    assert result.total.calls == 20
    assert result.seconds == pytest.approx(20.0)
    assert result.total.rate == pytest.approx(1.0)


def test_open_loop_says_how_late_its_calls_were() -> None:
    async def blocked() -> Recording:
        async def call(number: int) -> Done:
            return Done()

        loop = asyncio.get_running_loop()
        # The loop has no turn for the generator from 1 s to 3 s.
        loop.call_at(1.0, lambda: setattr(loop, "_now", 3.0))
        return await run_share({"call": call}, open_load(rate=10, seconds=5), Share(), 0.0)

    recording = run(blocked())
    assert recording.lateness.latency().max == pytest.approx(2.0, abs=0.2)
    # It is part of the latency: the calls were due, and nobody had them.
    assert recording.operations["call"].latencies.latency().max == pytest.approx(2.0, abs=0.2)


def test_closed_loop_says_how_late_it_is_for_a_timer() -> None:
    def late(begin: float, end: float) -> LoadResult:
        async def blocked() -> Recording:
            async def call(number: int) -> Done:
                await asyncio.sleep(0.3)
                return Done()

            loop = asyncio.get_running_loop()
            loop.call_at(begin, lambda: setattr(loop, "_now", end))
            return await run_share({"call": call}, closed_load(2, warmup=1.0, seconds=10), Share(), 0.0)

        result = merge([run(blocked())])
        assert result.lateness is not None
        # One for each twentieth of a second, those included that were due while there was no turn for them.
        assert result.lateness.count == pytest.approx(200, abs=1)
        return result

    quiet = late(2.0, 2.0)
    assert quiet.lateness.max == pytest.approx(0, abs=1e-5)
    assert not quiet.is_generator_busy
    stood_still = late(2.0, 4.0)
    assert stood_still.lateness.max == pytest.approx(2.0, abs=0.06)
    assert stood_still.lateness.p90 == pytest.approx(1.0, abs=0.06)
    assert stood_still.is_generator_busy
    # Of 200 timers two are beyond p99: too few to tell, so p95 is judged and said.
    assert f"its timers were late by {stood_still.lateness.p95 * 1000:.1f} ms (p95)." in stood_still.about_generator
    # What was before the time is no part of it.
    assert late(0.2, 0.8).lateness.max == pytest.approx(0, abs=1e-5)


def test_lateness_is_unknown_where_a_closed_loop_was_too_short_for_a_timer() -> None:
    assert merge([play(Server(lambda _: 0.001), closed_load(1, calls=10, seconds=60))]).lateness is None


@pytest.mark.parametrize("shape", [OpenLoop(1), ClosedLoop(1)])
@pytest.mark.parametrize(("begun", "counts"), [(0.0, False), (1.5, True), (8.0, False)])
def test_cpu_counts_while_calls_are_due(shape: OpenLoop | ClosedLoop, begun: float, counts: bool) -> None:
    spent = 0.3

    async def call(number: int) -> Done:
        if number == 0:
            await asyncio.sleep(begun)
            end = time.process_time() + spent
            while time.process_time() < end:
                pass
        else:
            await asyncio.sleep(0.1)
        return Done()

    load = Load(shape=shape, mix={"call": 1}, warmup=1.0, seconds=4.0)
    recording = run(run_share({"call": call}, load, Share(), 0.0))
    assert (recording.cpu_seconds >= spent) is counts


def test_open_loop_says_how_long_the_last_answers_took() -> None:
    assert merge([play(Server(lambda _: 1.0), open_load(rate=2, seconds=10))]).tail_seconds == pytest.approx(10.0)
    assert merge([play(Server(lambda _: 0.0), open_load(rate=2, seconds=10))]).tail_seconds <= 0
    assert merge([play(Server(lambda _: 1.0), closed_load(1, seconds=10))]).tail_seconds == 0


def test_arrivals_by_chance_come_as_poisson_says() -> None:
    def moments(seed: int, processes: int = 1) -> list[float]:
        load = Load(shape=OpenLoop(100, "poisson"), mix={"call": 1}, warmup=0.0, seconds=100, seed=seed)
        found = []
        for index in range(processes):
            server = Server(lambda _: 0.0, at_a_time=1000)
            play(server, load, Share(index, processes))
            found += [moment for moment, _ in server.begun]
        return sorted(found)

    for arrived in (moments(0), moments(0, processes=3)):
        assert len(arrived) == pytest.approx(10_000, rel=0.05)
        gaps = [later - sooner for sooner, later in pairwise(arrived)]
        mean = statistics.fmean(gaps)
        # Of an exponential distribution deviation and mean are the same, and a 1/e of all is longer.
        assert statistics.pstdev(gaps) == pytest.approx(mean, rel=0.05)
        assert sum(gap > mean for gap in gaps) / len(gaps) == pytest.approx(math.exp(-1), abs=0.02)
    assert moments(0) == moments(0) != moments(1)


def test_windows_say_how_it_went_over_time() -> None:
    result = merge([play(Server(lambda number: 0.1 if number < 20 else 0.2), closed_load(1, seconds=6.0))])
    assert [window.begin for window in result.windows] == [0, 1, 2, 3, 4, 5]
    assert result.windows[0].found.latency.p50 == pytest.approx(0.1, rel=0.01)
    assert result.windows[-1].found.latency.p50 == pytest.approx(0.2, rel=0.01)
    assert sum(window.found.calls for window in result.windows) == result.total.calls
    assert open_load(rate=1, seconds=900).window_seconds == 3


def test_closed_loop_has_as_many_calls_in_flight_as_callers() -> None:
    server = Server(lambda _: 1.0, at_a_time=1000)
    result = merge([play(server, closed_load(8, seconds=10))])
    assert server.most_in_flight == 8
    assert result.total.calls == 80
    assert result.total.rate == pytest.approx(8.0)


def test_closed_loop_counts_late_answers_as_it_counts_late_errors() -> None:
    late = Recording(0.0, 10.0)
    late.add("call", 9.9, 1.0, Done(), in_time=False)
    late.add("call", 9.9, 1.0, "UNAVAILABLE", in_time=False)
    assert merge([late]).total.error_share == 0.5


def test_closed_loop_counts_what_ends_while_it_measures() -> None:
    server = Server(lambda _: 1.0, at_a_time=1000)
    recording = play(server, closed_load(1, warmup=2.5, seconds=3.0))
    # Ends at 3, 4 and 5; that at 6 comes too late to be done in the time.
    assert (recording.operations["call"].items, recording.operations["call"].late_items) == (4, 1)
    assert len(recording.operations["call"].latencies) == 4
    assert (recording.begin, recording.end) == (2.5, 5.5)


def test_open_loop_counts_what_is_due_after_the_warmup() -> None:
    recording = play(Server(lambda _: 0.01), open_load(rate=10, warmup=2.0, seconds=3.0))
    assert len(recording.operations["call"].latencies) == 30


@pytest.mark.parametrize("callers", [1, 3])
def test_closed_loop_ends_after_the_calls_asked_for(callers: int) -> None:
    server = Server(lambda _: 1.0, at_a_time=1000)
    recording = play(server, closed_load(callers, calls=7, seconds=1000))
    assert sorted(number for _, number in server.begun) == list(range(7))
    assert recording.end == pytest.approx(-(-7 // callers))


def test_processes_share_callers_calls_and_arrivals() -> None:
    shares = [Share(index, 3) for index in range(3)]
    servers = [Server(lambda _: 0.5, at_a_time=1000) for _ in shares]
    load = open_load(rate=9, seconds=4, first=100, processes=3)
    for server, share in zip(servers, shares, strict=True):
        play(server, load, share)
    arrivals = sorted(call for server in servers for call in server.begun)
    assert [number for _, number in arrivals] == list(range(100, 136))
    gaps = [later - sooner for (sooner, _), (later, _) in pairwise(arrivals)]
    assert gaps == pytest.approx([1 / 9] * len(gaps), abs=1.1e-3)

    servers = [Server(lambda _: 0.5, at_a_time=1000) for _ in shares]
    load = closed_load(8, calls=100, seconds=1000, processes=3)
    for server, share in zip(servers, shares, strict=True):
        play(server, load, share)
    assert [server.most_in_flight for server in servers] == [3, 3, 2]
    assert sorted(number for server in servers for _, number in server.begun) == list(range(100))


def test_mix_follows_the_weights_and_the_seed() -> None:
    def names(seed: int) -> list[str]:
        called: list[str] = []

        async def note(name: str) -> Done:
            called.append(name)
            await asyncio.sleep(1.0)
            return Done()

        operations = {name: (lambda _, name=name: note(name)) for name in ("often", "seldom")}
        load = Load(shape=ClosedLoop(1), mix={"often": 9, "seldom": 1}, warmup=0.0, seconds=1e6, calls=2000, seed=seed)
        run(run_share(operations, load, Share(), 0.0))
        return called

    assert 120 < names(0).count("seldom") < 280
    assert names(0) == names(0) != names(1)


def test_errors_count_by_status_and_have_no_latency() -> None:
    async def call(number: int) -> Done:
        if number % 2:
            raise OverloadedError("full")
        return Done(items=3, failures={"NOT_FOUND": 2}, stages={"queue": 0.5})

    load = closed_load(1, calls=10, seconds=10)
    result = merge([run(run_share({"call": call}, load, Share(), 0.0))])
    assert result.total.errors == {"RESOURCE_EXHAUSTED": 5, "NOT_FOUND": 10}
    assert (result.total.calls, result.total.items) == (5, 15)
    assert result.total.stages == {"queue": 0.5}
    assert (
        status_of(grpc.aio.AioRpcError(grpc.StatusCode.ABORTED, grpc.aio.Metadata(), grpc.aio.Metadata())) == "ABORTED"
    )
    assert status_of(ConnectionResetError()) == "ConnectionResetError"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: ClosedLoop(0),
        lambda: OpenLoop(0),
        lambda: closed_load(1, processes=2),
        lambda: closed_load(1, seconds=0),
        lambda: closed_load(1, seconds=math.inf),
        lambda: closed_load(1, warmup=math.nan),
        lambda: Load(shape=ClosedLoop(1), mix={}),
        lambda: Load(shape=ClosedLoop(1), mix={"call": 0}),
    ],
)
def test_loads_that_make_no_sense_are_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"above 0|at least one|more than 0"):
        wrong()
