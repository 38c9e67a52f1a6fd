"""Peers: the same model, pictures and machine; each is called for a few seconds, then the next, turn about.

Whoever is not called stands still meanwhile, so that nobody disturbs another.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from benchmarks.bench import PRECISIONS, Bench, medians, milliseconds, rounded
from benchmarks.peers import clip_server, infinity
from benchmarks.programs import Program, free_address, grpc_serves, running
from clipseek.bench import ClipseekTarget, ClosedLoop, Target

MANY = 16

ROWS = 10_000


def measure(bench: Bench) -> dict[str, Any]:
    """By task and server: the rate of many callers, and the latency of one."""
    rows = min(ROWS, max(bench.profile.sizes))
    with ExitStack() as stack:
        embedders, searchers, programs, missing = _start(bench, stack, rows)
        tasks: dict[str, Mapping[str, Target]] = {
            "embed_image": embedders,
            "embed_text": embedders,
            "search_text": searchers,
        }
        idle_cores = _idle_cores(programs, bench.profile.seconds)
        turns: list[dict[str, Any]] = []
        for turn in range(bench.profile.turns):
            print(f"  turn {turn + 1} of {bench.profile.turns}", flush=True)
            turns.append(
                {
                    task: {name: _measure(bench, name, target, task, programs) for name, target in targets.items()}
                    for task, targets in tasks.items()
                }
            )
    return {"rows": rows, **medians(turns), "idle_cores": idle_cores, "missing": missing}


def _idle_cores(programs: Mapping[str, Program], seconds: float) -> dict[str, float]:
    """How much of a core each takes when nobody calls it."""
    before = {name: program.cpu_seconds for name, program in programs.items()}
    time.sleep(seconds)
    return {name: rounded((program.cpu_seconds - before[name]) / seconds) for name, program in programs.items()}


def _measure(bench: Bench, name: str, target: Target, task: str, programs: Mapping[str, Program]) -> dict[str, Any]:
    with ExitStack() as stack:
        for other, program in programs.items():
            if not name.startswith(other):
                stack.enter_context(program.paused())
        many = bench.load(target, task, ClosedLoop(MANY), **(bench.long if task == "embed_image" else {}))  # type: ignore[arg-type]  # seconds and warm-up
        one = bench.load(target, task, ClosedLoop(1))
    return {
        "rate": many.total.rate,
        "many": milliseconds(many),
        "one": milliseconds(one),
        "generator_cpu_share": many.cpu_seconds / many.seconds,
    }


def _start(
    bench: Bench, stack: ExitStack, rows: int
) -> tuple[dict[str, Target], dict[str, ClipseekTarget], dict[str, Program], dict[str, str]]:
    workspace = bench.workspace
    checkpoint, pictures = workspace.checkpoint(), workspace.pictures()
    embedders: dict[str, Target] = {}
    searchers: dict[str, ClipseekTarget] = {}
    programs: dict[str, Program] = {}
    missing: dict[str, str] = {}

    def start(
        command: list[str],
        name: str,
        address: str,
        serves: Callable[[str], bool] = grpc_serves,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        log = workspace.scratch / f"{name.replace(' ', '-')}.log"
        programs[name] = stack.enter_context(running(command, address, log, serves, environment=environment))

    for precision in PRECISIONS:
        name = f"clipseek {precision}"
        programs[name] = stack.enter_context(bench.server(precision, workspace.data(rows)))
        embedders[name] = searchers[name] = ClipseekTarget(programs[name].address, pictures=pictures)
    for precision in PRECISIONS:
        address, name = free_address(), f"naive ONNX {precision}"
        bundle = str(workspace.bundle(precision))
        start([sys.executable, "-m", "benchmarks.peers.naive", address, str(checkpoint), bundle], name, address)
        embedders[name] = ClipseekTarget(address, pictures=pictures)

    address, name = free_address(), "prototype"
    data = str(bench.empty("prototype") / "milvus.db")
    command = [sys.executable, "-m", "benchmarks.peers.prototype", address, str(checkpoint), data, str(rows)]
    start(command, name, address)
    embedders[name] = searchers[name] = ClipseekTarget(address, pictures=pictures)
    searchers["prototype, load and release"] = ClipseekTarget(address, collection="load-and-release")

    def start_infinity(name: str, address: str) -> Target:
        program = infinity.install(workspace.folder / "peers" / "infinity")
        command = infinity.command(program, checkpoint, address)
        start(command, name, address, infinity.serves, infinity.ENVIRONMENT)
        return infinity.InfinityTarget(address, pictures)

    def start_clip_server(name: str, address: str) -> Target:
        python = clip_server.install(workspace.folder / "peers" / "clip-server")
        environment = clip_server.environment(workspace.towers(), address)
        start(clip_server.command(python), name, address, clip_server.serves, environment)
        return clip_server.ClipServerTarget(address, pictures)

    installed: dict[str, Callable[[str, str], Target]] = {
        f"infinity {infinity.VERSION}": start_infinity,
        f"clip-server {clip_server.VERSION}": start_clip_server,
    }
    for name, begin in installed.items():
        try:
            embedders[name] = begin(name, free_address())
        except (subprocess.CalledProcessError, RuntimeError) as error:
            missing[name] = str(error)[-500:]
    return embedders, searchers, programs, missing
