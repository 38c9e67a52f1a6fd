"""Measure how ONNX Runtime's threads should be shared by the two towers.

Texts are embedded one at a time while pictures are embedded without a pause, in several arrangements, turn about, each
in a process of its own::

    .venv/bin/python benchmarks/threads.py --bundle bundles/default
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from clipseek_server.cores import available_cores
from clipseek_server.threads import thread_pool

ARRANGEMENTS: dict[str, dict[str, Any]] = {
    "each tower N threads": {"shared": False, "threads": 0, "spin": False},
    "the same, pictures give way": {"shared": False, "threads": 0, "spin": False, "give_way": True},
    "each tower N threads, spinning": {"shared": False, "threads": 0, "spin": True},
    "one pool of N threads": {"shared": True, "threads": 0, "spin": False},
    "each tower 1 thread": {"shared": False, "threads": 1, "spin": False},
}
SIDE, TOKENS = 224, 8


def main() -> None:
    """Run what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="a model bundle with a CLIP's input size")
    parser.add_argument("--batch", type=int, default=2, help="pictures in one run (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=6, help="of each measurement (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=3, help="medians are taken over so many (default: %(default)s)")
    parser.add_argument("--measure", choices=ARRANGEMENTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        sys.stdout.write(json.dumps(measure(options.bundle, options.measure, options.batch, options.seconds)))
        return
    found = defaultdict(list)
    for _ in range(options.turns):
        for name in ARRANGEMENTS:
            command = [sys.executable, __file__, *sys.argv[1:], "--measure", name]
            found[name].append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
    rows = {name: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for name, runs in found.items()}
    columns = list(next(iter(rows.values())))
    sys.stdout.write(f"{'':32}" + "".join(f"{column:>22}" for column in columns) + "\n")
    for name, row in rows.items():
        sys.stdout.write(f"{name:32}" + "".join(f"{row[column]:22.1f}" for column in columns) + "\n")


def measure(bundle: Path, arrangement: str, batch: int, seconds: float) -> dict[str, float]:
    """One arrangement: texts alone, pictures alone, both."""
    vision, text = _sessions(bundle, **ARRANGEMENTS[arrangement])
    pixels = np.random.default_rng(0).integers(0, 256, (batch, 3, SIDE, SIDE), dtype=np.uint8)
    tokens = {"input_ids": np.ones((1, TOKENS), np.int64), "attention_mask": np.ones((1, TOKENS), np.int64)}

    def texts(end: float) -> list[float]:
        times = []
        while (begin := time.monotonic()) < end:
            text.run(None, tokens)
            times.append((time.monotonic() - begin) * 1000)
        return times

    def pictures(end: float) -> float:
        count, begin = 0, time.monotonic()
        while time.monotonic() < end:
            vision.run(None, {"pixels": pixels})
            count += batch
        return count / (time.monotonic() - begin)

    texts(time.monotonic() + 0.5), pictures(time.monotonic() + 0.5)
    alone = texts(time.monotonic() + seconds / 2)
    pictures_alone = pictures(time.monotonic() + seconds / 2)
    end = time.monotonic() + seconds
    with thread_pool("pictures", giving_way=ARRANGEMENTS[arrangement].get("give_way", False)) as thread:
        rate = thread.submit(pictures, end)
        beside = texts(end)
    return {
        "text p50 ms": float(np.percentile(alone, 50)),
        "pictures/s": pictures_alone,
        "both: text p50 ms": float(np.percentile(beside, 50)),
        "both: text p99 ms": float(np.percentile(beside, 99)),
        "both: pictures/s": rate.result(),
    }


def _sessions(
    bundle: Path, *, shared: bool, threads: int, spin: bool, give_way: bool = False
) -> list[ort.InferenceSession]:
    count = threads or available_cores()
    if shared:
        ort.set_global_thread_pool_sizes(count, 1)
    sessions = []
    for tower in ("vision", "text"):
        options = ort.SessionOptions()
        options.use_per_session_threads = not shared
        if not shared:
            options.intra_op_num_threads = count
        options.enable_mem_pattern = False
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
        with thread_pool(tower, giving_way=give_way and tower == "vision") as thread:
            opened = thread.submit(
                ort.InferenceSession, bundle / f"{tower}.onnx", options, providers=["CPUExecutionProvider"]
            )
        sessions.append(opened.result())
    return sessions


if __name__ == "__main__":
    main()
