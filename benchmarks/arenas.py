"""Measure what ONNX Runtime's memory options do to a server's memory, when every batch has another shape.

    python -m benchmarks.arenas --output benchmarks/results/arenas.json

ONNX Runtime keeps what it has allocated in an arena, and with memory patterns a plan for each shape that it has seen.
Pictures in batches of 1 to 16 and texts in batches of 1 to 32, of 5 to 77 tokens, go through both towers, with each
combination of the two options, each in a process of its own.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from benchmarks.bench import medians
from benchmarks.machine import facts
from benchmarks.programs import resident_bytes
from benchmarks.workspace import Workspace
from clipseek_server.cores import available_cores

RUNS = 240
_SAMPLE_EVERY = 10
_PICTURES, _TEXTS, _TOKENS = (1, 16), (1, 32), (5, 77)
_SIDE = 224
_TURNS = 2


def main() -> None:
    """Print a line for each combination, and write all as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.arenas", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("build/bench"), help="for the model")
    parser.add_argument("--output", type=Path, help="the JSON file")
    parser.add_argument("--measure", nargs=2, metavar=("ARENA", "PATTERN"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    bundle = Workspace(options.folder).bundle("int8")
    if options.measure:
        arena, pattern = (word == "True" for word in options.measure)
        print(json.dumps(_measure(bundle, arena=arena, pattern=pattern)))
        return
    found: dict[str, Any] = {}
    turns: dict[tuple[bool, bool], list[Any]] = {
        (arena, pattern): [] for arena, pattern in product((True, False), repeat=2)
    }
    for _ in range(_TURNS):
        for arena, pattern in turns:
            command = [sys.executable, "-m", "benchmarks.arenas", "--folder", str(options.folder)]
            done = subprocess.run(
                [*command, "--measure", str(arena), str(pattern)], check=True, capture_output=True, text=True
            )
            turns[arena, pattern].append(json.loads(done.stdout))
    for (arena, pattern), each in turns.items():
        name = f"arena {'on' if arena else 'off'}, memory pattern {'on' if pattern else 'off'}"
        found[name] = {**medians(each), "rss_mb": each[0]["rss_mb"]}
        print(f"{name}: {found[name]}")
    if options.output:
        document = {"arenas": {"machine": facts(options.folder), "runs": RUNS, "options": found}}
        options.output.write_text(json.dumps(document, indent=1) + "\n")


def _measure(bundle: Path, *, arena: bool, pattern: bool) -> dict[str, Any]:
    """Memory as the runs go by, and how long they took."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = available_cores()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = arena
    options.enable_mem_pattern = pattern
    vision, text = (
        ort.InferenceSession(bundle / f"{tower}.onnx", options, providers=["CPUExecutionProvider"])
        for tower in ("vision", "text")
    )
    chosen = random.Random(0)
    samples = []
    begin = time.monotonic()
    for run in range(RUNS):
        if run % 2:
            pixels = np.zeros((chosen.randint(*_PICTURES), 3, _SIDE, _SIDE), np.uint8)
            vision.run(None, {"pixels": pixels})
        else:
            tokens = np.ones((chosen.randint(*_TEXTS), chosen.randint(*_TOKENS)), np.int64)
            text.run(None, {"input_ids": tokens, "attention_mask": tokens})
        if run % _SAMPLE_EVERY == 0:
            samples.append(resident_bytes(os.getpid()) / 1e6)
    return {
        "seconds": time.monotonic() - begin,
        "rss_mb": samples,
        "half_way_mb": samples[len(samples) // 2],
        "end_mb": samples[-1],
        "peak_mb": max(samples),
    }


if __name__ == "__main__":
    main()
