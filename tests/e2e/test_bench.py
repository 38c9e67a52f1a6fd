"""The load generator against a real server."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from clipseek.bench import ClipseekTarget, ClosedLoop, GeneratorError, Load, OpenLoop, generate
from clipseek.bench.generator import _work
from clipseek.bench.loops import Share
from clipseek.bench.scrape import Scraper
from clipseek_server.config import Settings
from pictures import picture
from servers import ServerThread


@pytest.fixture
def target(server, client, collection, tmp_path) -> ClipseekTarget:
    paths = []
    for seed in range(4):
        path = tmp_path / f"{seed}.png"
        path.write_bytes(picture(seed))
        paths.append(str(path))
        client.insert(path, collection=collection)
    return ClipseekTarget(server.address, collection=collection, pictures=tuple(paths), bulk_items=5)


def test_every_operation_in_a_closed_loop_of_two_processes(target, client, collection) -> None:
    names = ("search_text", "search_image", "embed_text", "embed_image", "insert", "bulk_import")
    load = Load(
        shape=ClosedLoop(4), mix=dict.fromkeys(names, 1), warmup=0.0, seconds=60, calls=60, processes=2, first=7
    )
    result = generate(target, load)
    assert result.total.errors == {}
    assert result.total.calls == 60
    assert set(result.operations) == set(names)
    stored = result.operations["insert"].calls + result.operations["bulk_import"].items
    assert result.operations["bulk_import"].items == 5 * result.operations["bulk_import"].calls
    assert client.get_collection(collection).image_count == 4 + stored
    assert result.operations["search_text"].stages["total"] > 0
    assert result.cpu_seconds > 0


def test_open_loop(target) -> None:
    result = generate(target, Load(shape=OpenLoop(200), mix={"search_text": 1}, warmup=0.1, seconds=0.5))
    assert result.total.errors == {}
    assert result.total.calls == 100
    assert result.lateness is not None
    assert result.lateness.count == 100


def test_errors_are_counted_by_status(server, collection) -> None:
    target = ClipseekTarget(server.address, collection=collection)
    result = generate(target, Load(shape=ClosedLoop(1), mix={"search_text": 1}, warmup=0.0, seconds=60, calls=3))
    assert result.total.errors == {"NOT_FOUND": 3}
    assert result.total.latency is None


def test_what_cannot_be_called_is_said(server) -> None:
    load = Load(shape=ClosedLoop(1), mix={"embed_image": 1}, calls=1)
    with pytest.raises(GeneratorError, match="no such operation: embed_image"):
        generate(ClipseekTarget(server.address), load)
    with pytest.raises(GeneratorError, match="no server answers") as caught:
        generate(ClipseekTarget("127.0.0.1:1", timeout=1), load)
    assert caught.value.may_pass


@pytest.fixture
def run(server, collection, tmp_path):
    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "clipseek", "--server", server.address, "--collection", collection, "bench"]
        return subprocess.run([*command, *map(str, arguments)], cwd=tmp_path, capture_output=True, text=True)

    return call


SHORT = ("--seconds", "1", "--warmup", "0.2")


def test_the_command_measures_keeps_draws_and_compares(run, target, tmp_path):
    mix = "search_text=5,search_image=2,insert=1"
    done = run("--mix", mix, "--callers", "1,2", *SHORT, "--output", "one.json", "--html", "one.html")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("search_image") == 2
    assert "The generator used" in done.stderr
    document = json.loads((tmp_path / "one.json").read_text())
    assert [result["load"] for result in document["results"]] == ["1 caller", "2 callers"]
    assert document["seed"] == 0
    said = " ".join(done.stderr.split())
    for result in document["results"]:
        # Whether it is worth a word depends on the machine.
        total = {name: found["stages"]["total"] for name, found in result["operations"].items()}
        assert set(total) == {"search_text", "search_image", "insert"}
        mean = {name: found["latency"]["mean"] for name, found in result["operations"].items()}
        short = [name for name in total if mean[name] - total[name] > 0.1 * mean[name]]
        assert re.findall(r"ms \((\w+)\)", result["about_latencies"]) == short
        assert result["about_latencies"] in said
    assert (tmp_path / "one.html").read_text().count("<svg") == 4
    done = run("--compare", "one.json", "one.json")
    assert done.returncode == 0, done.stderr
    assert "1.00" in done.stdout
    document["results"][1]["is_generator_busy"] = True
    (tmp_path / "busy.json").write_text(json.dumps(document))
    document["results"][1]["is_generator_busy"] = document["results"][0]["is_generator_busy"] = False
    (tmp_path / "well.json").write_text(json.dumps(document))
    done = run("--compare", "well.json", "busy.json")
    assert "after, 2 callers: the generator itself could not keep up" in " ".join(done.stderr.split())
    assert "before, " not in done.stderr


def test_what_was_measured_before_an_interruption_is_kept(server, target, collection, tmp_path):
    command = [sys.executable, "-m", "clipseek", "--server", server.address, "--collection", collection, "bench"]
    options = "--callers", "1,2", "--seconds", "2", "--warmup", "0", "--output", "one.json"
    with subprocess.Popen([*command, *options], cwd=tmp_path, stderr=subprocess.PIPE, text=True) as bench:
        assert any("The generator used" in line for line in bench.stderr)
        bench.send_signal(signal.SIGINT)
        rest = bench.stderr.read()
        assert bench.wait() == 130, rest
    assert "interrupted" in rest
    assert [each["load"] for each in json.loads((tmp_path / "one.json").read_text())["results"]] == ["1 caller"]


def test_an_interruption_breaks_off_no_file(server, target, collection, tmp_path):
    # Opened for writing, it waits for somebody who reads.
    os.mkfifo(tmp_path / "report.html")
    command = [sys.executable, "-m", "clipseek", "--server", server.address, "--collection", collection, "bench"]
    options = "--callers", "1", "--seconds", "1", "--warmup", "0", "--output", "one.json", "--html", "report.html"
    with subprocess.Popen([*command, *options], cwd=tmp_path, stderr=subprocess.PIPE, text=True) as bench:
        assert any("wrote one.json" in line for line in bench.stderr)
        bench.send_signal(signal.SIGINT)
        assert (tmp_path / "report.html").read_text().rstrip().endswith("</html>")
        rest = bench.stderr.read()
        assert bench.wait() == 0, rest


def test_an_interrupted_search_keeps_its_steps(server, target, collection, tmp_path):
    command = [sys.executable, "-m", "clipseek", "--server", server.address, "--collection", collection, "bench"]
    options = "--slo", "p99<30s", "--rate", "5", "--seconds", "2", "--warmup", "0", "--output", "one.json"
    with subprocess.Popen([*command, *options], cwd=tmp_path, stderr=subprocess.PIPE, text=True) as bench:
        said = (line for line in bench.stderr if "/s: " in line)
        # One measurement never decides, so another one is under way now. Two might end the search on a busy machine.
        steps = [next(said)]
        bench.send_signal(signal.SIGINT)
        rest = bench.stderr.read()
        assert bench.wait() == 130, rest
    document = json.loads((tmp_path / "one.json").read_text())
    assert document["ended_by"] == "interruption"
    found = document["search"]
    assert [f"{step['rate']:8.1f}/s: " for step in found["steps"]] == [line[:12] for line in steps]
    met = [step["rate"] for step in found["steps"] if step["met"]]
    assert found["rate"] == max((rate for rate in met if met.count(rate) == 2), default=0.0)
    assert len(document["results"]) == 1


def test_what_was_measured_before_the_server_went_away_is_kept(bundle, tmp_path):
    settings = Settings(listen="127.0.0.1:0", bundles=[bundle], data_dir=tmp_path / "data")
    with ServerThread(settings) as server:
        command = [sys.executable, "-m", "clipseek", "--server", server.address, "--timeout", "2", "bench"]
        options = "--mix", "embed_text", "--callers", "1,2,4", "--seconds", "1", "--warmup", "0", "--output", "one.json"
        bench = subprocess.Popen([*command, *options], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        assert any("The generator used" in line for line in bench.stderr)
    with bench:
        rest = bench.stderr.read()
    # Of the load under way all calls may have failed; that after it finds no server.
    assert bench.returncode == 3, rest
    document = json.loads((tmp_path / "one.json").read_text())
    assert document["results"][0]["load"] == "1 caller"
    assert len(document["results"]) < 3
    assert "no server answers" in document["ended_by"]


def test_two_measurements_of_a_rate_have_arrivals_of_their_own(run, target):
    rates = "--rate", "30", "--max-rate", "30", "--arrivals", "poisson"
    done = run("--slo", "p99<30s", *rates, "--seconds", "2", "--warmup", "0", "--json")
    one, other = json.loads(done.stdout)["search"]["steps"][:2]
    assert one["total"]["calls"] != other["total"]["calls"]


def test_processes_end_with_the_one_that_began_them(server, target, client, collection, tmp_path):
    command = [sys.executable, "-m", "clipseek", "--server", server.address, "--collection", collection, "bench"]
    options = "--mix", "insert", "--callers", "2", "--processes", "2", "--seconds", "600"
    with subprocess.Popen([*command, *options], cwd=tmp_path, stderr=subprocess.DEVNULL) as bench:
        try:
            until(lambda: client.get_collection(collection).image_count > 10)
            children = Path(f"/proc/{bench.pid}/task/{bench.pid}/children").read_text().split()
        finally:
            bench.kill()
    assert len(children) >= 2
    until(lambda: not any(is_running(child) for child in children))


def is_running(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_command_searches_the_highest_rate(run, target):
    rates = "--rate", "5", "--max-rate", "10"
    done = run("--slo", "p99<10s,errors<1%", *rates, "--seconds", "1", "--warmup", "0", "--json")
    # What it finds is up to the machine; that it finds what it should is tested without one.
    found = json.loads(done.stdout)["search"]
    assert done.returncode == (0 if found["rate"] else 1), done.stderr
    assert found["rate"] <= 10.0
    assert len(found["steps"]) >= 2
    assert all(f"{step['rate']:.1f}/s" in done.stderr for step in found["steps"])


def test_the_command_reads_the_metrics(bundle, tmp_path):
    settings = Settings(
        listen="127.0.0.1:0", metrics_listen="127.0.0.1:0", bundles=[bundle], data_dir=tmp_path / "data"
    )
    with ServerThread(settings) as server:
        metrics = f"http://127.0.0.1:{server.server.metrics_port}/metrics"
        command = [sys.executable, "-m", "clipseek", "--server", server.address, "bench", "--mix", "embed_text"]
        done = subprocess.run(
            [*command, *SHORT, "--metrics", metrics, "--json"], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        series = json.loads(done.stdout)["metrics"]
        assert series['clipseek_batch_items_sum{queue="text tower"}'][-1][1] > 0
        with pytest.raises(OSError), Scraper("http://127.0.0.1:1/metrics"):
            pass


def test_a_server_that_is_away_is_one_line(tmp_path):
    command = [sys.executable, "-m", "clipseek", "--server", "127.0.0.1:1", "bench", *SHORT]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (3, 1), done.stderr
    assert "no server answers" in done.stderr


def test_what_makes_no_sense_is_refused(run):
    for arguments, message in (
        (("--mix", "insert", "--callers", "1", "--rate", "5"), "give one of them"),
        (("--mix", "search_text=x"), "no part of one"),
        (("--mix", "search_text=1,search_text=2"), "--mix names search_text twice"),
        (("--callers", "a"), "separated by commas"),
        (("--slo", "fast"), "an objective is"),
        (("--slo", "insert.p99<1s"), "is not in the --mix"),
        (("--rate", "0"), "above 0"),
        (("--slo", "p99<1s", "--max-rate", "0"), "--max-rate is above 0"),
        (("--slo", "p99<1s", "--max-rate", "-1"), "--max-rate is above 0"),
        (("--seconds", "inf"), "neither for ever"),
        (("--callers", "inf"), "takes different numbers"),
        (("--callers", "4,4"), "takes different numbers"),
        (("--callers", "2.7"), "takes whole numbers"),
        (("--mix", "search_text=inf"), "above 0"),
        (("--callers", "0"), "at least one caller"),
        (("--mix", "search_text=0"), "above 0"),
        (("--server", "ftp://x"), "grpcs://HOST:PORT"),
        (("--mix", "dance", "--seconds", "0.1"), "no such operation"),
        (("--pictures", "nowhere", "--mix", "embed_image"), "no such file"),
    ):
        done = run(*arguments)
        assert done.returncode == (1 if "--pictures" in arguments else 2), arguments
        # A terminal's width breaks the line in a frame anywhere.
        assert message in " ".join(done.stderr.replace("│", " ").split()), done.stderr


def test_a_process_whose_generator_ended_says_nothing(unused_tcp_port):
    context = multiprocessing.get_context("spawn")
    pipe, other_end = context.Pipe()
    pipe.close()
    load = Load(shape=ClosedLoop(1), mix={"embed_text": 1}, seconds=1)
    target = ClipseekTarget(f"127.0.0.1:{unused_tcp_port}")
    process = context.Process(target=_work, args=(target, load, Share(0, 1), other_end))
    process.start()
    other_end.close()
    process.join(60)
    assert process.exitcode == 0
