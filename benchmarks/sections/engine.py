"""The engine: the same work through the batcher, then through gRPC, turn about with ONNX Runtime alone."""

import asyncio
import itertools
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench import Bench, medians, milliseconds, search_milliseconds
from benchmarks.machine import cores
from benchmarks.programs import CpuMeter, Program, free_address, grpc_serves, running
from benchmarks.sections.limit import Alone
from clipseek.bench import ClipseekTarget, ClosedLoop
from clipseek_server.config import Settings
from clipseek_server.encoding.bundle import Precision
from clipseek_server.encoding.decoding import DecodePool
from clipseek_server.encoding.model import LoadedModel
from clipseek_server.images.thumbnails import make_thumbnail
from clipseek_server.telemetry import Call, Stage

CALLERS = 16
"""Enough to saturate."""

ROWS = 10_000


def measure(bench: Bench) -> dict[str, Any]:
    """By precision: pictures through each layer, where a search's time goes, and a bulk import."""
    return {precision: _measure(bench, precision) for precision in bench.precisions}


def _measure(bench: Bench, precision: Precision) -> dict[str, Any]:
    rows = min(ROWS, max(bench.profile.sizes))
    alone = Alone(bench.workspace.bundle(precision))
    with bench.server(precision, bench.workspace.data(rows)) as server, _constant(bench) as constant:
        turns = [_turn(bench, precision, server, constant, alone) for _ in range(bench.profile.turns)]
        found = medians(turns)
        # Measured beside a server that has just imported, and still has work with it, ONNX Runtime would be slower.
        alone_ms = 1000 / found["ort_rate"]
        imports = [_import(bench, server, alone, alone_ms) for _ in range(bench.profile.turns // 2 or 1)]
        found["import"] = medians(imports)
    starts = [_start_seconds(bench, precision, rows) for _ in range(min(3, bench.profile.turns))]
    found["start_seconds"] = statistics.median(starts)
    return found


def _constant(bench: Bench) -> AbstractContextManager[Program]:
    """A server that answers every search at once."""
    address = free_address()
    command = [sys.executable, "-m", "benchmarks.peers.constant", address]
    return running(command, address, bench.workspace.scratch / "constant.log", grpc_serves)


def _turn(bench: Bench, precision: Precision, server: Program, constant: Program, alone: Alone) -> dict[str, Any]:
    seconds, pictures = bench.profile.seconds, bench.workspace.pictures()
    files = [Path(path).read_bytes() for path in pictures]
    target = ClipseekTarget(server.address, pictures=pictures)
    before = server.batch_counts("picture tower")
    with CpuMeter(server) as cpu:
        through_grpc = bench.load(target, "embed_image", ClosedLoop(CALLERS), **bench.long)  # type: ignore[arg-type]  # seconds and warm-up
    embedded, runs = np.subtract(server.batch_counts("picture tower"), before).tolist()
    batch = embedded / runs
    ort = alone.pictures(max(1, round(batch)), seconds)
    decode = alone.decoding(pictures, seconds / 2)
    limit = 1000 / (ort["ms"] + decode / cores())
    _, searched_before = server.call_seconds("SearchService/SearchByText")
    with CpuMeter(server) as searching:
        search = bench.load(target, "search_text", ClosedLoop(1), seconds=seconds)
    searched = server.call_seconds("SearchService/SearchByText")[1] - searched_before
    with CpuMeter(server) as searching_many:
        many = bench.load(target, "search_text", ClosedLoop(CALLERS), seconds=seconds)
    searched_by_many = server.call_seconds("SearchService/SearchByText")[1] - searched - searched_before
    answered_at_once = bench.load(ClipseekTarget(constant.address), "search_text", ClosedLoop(1), seconds=seconds / 2)
    assert answered_at_once.total.latency is not None
    return {
        "batch": batch,
        "ort_rate": ort["rate"],
        "ort_cpu_ms": ort["cpu_ms"],
        "decode_core_ms": decode,
        "limit_rate": limit,
        "in_process": asyncio.run(_in_process(bench.workspace.bundle(precision), files, 2 * seconds)),
        "grpc": {
            "rate": through_grpc.total.rate,
            **milliseconds(through_grpc),
            "server_cpu_ms": cpu.seconds / embedded * 1000,
            "generator_cpu_ms": through_grpc.cpu_seconds / through_grpc.total.calls * 1000,
            "threads_cpu_ms": cpu.thread_ms(embedded),
            "overhead_cpu_ms": cpu.seconds / embedded * 1000 - ort["cpu_ms"] - decode,
            "share_of_limit": through_grpc.total.rate / limit,
        },
        "search": {
            **search_milliseconds(search),
            "text_tower_alone_ms": alone.sentences(seconds / 2),
            "answered_at_once_ms": answered_at_once.total.latency.mean * 1000,
            "threads_cpu_ms": searching.thread_ms(searched),
        },
        "search_many": {
            "rate": many.total.rate,
            **milliseconds(many),
            "threads_cpu_ms": searching_many.thread_ms(searched_by_many),
        },
    }


async def _in_process(bundle: Path, files: Sequence[bytes], seconds: float) -> dict[str, float]:
    """Pictures a second, and the mean milliseconds of each in each stage."""
    settings = Settings(bundles=[bundle])
    pool = DecodePool(settings.cores, max_pixels=settings.max_image_pixels, max_queue=settings.queue_length)
    model = await asyncio.to_thread(LoadedModel.load, bundle, settings, pool, thumbnail=make_thumbnail)
    numbers = itertools.count()
    calls: list[Call] = []
    end = time.perf_counter() + seconds

    async def embed_again_and_again() -> None:
        while time.perf_counter() < end:
            call = Call()
            decoded = await model.decode(files[next(numbers) % len(files)], call, thumbnail=False)
            await model.embed_picture(decoded.pixels, call)
            calls.append(call)

    begin = time.perf_counter()
    await asyncio.gather(*(embed_again_and_again() for _ in range(CALLERS)))
    elapsed = time.perf_counter() - begin
    await model.close()
    await pool.close()
    stages = {
        f"{stage}_ms": sum(call.seconds.get(stage, 0.0) for call in calls) / len(calls) * 1000
        for stage in (Stage.DECODE, Stage.QUEUE, Stage.INFERENCE)
    }
    return {"rate": len(calls) / elapsed, **stages}


def _import(bench: Bench, server: Program, alone: Alone, alone_ms: float) -> dict[str, float]:
    """One bulk import from disk, end to end; what is possible is by a picture's milliseconds in ONNX Runtime alone."""
    pictures, count = bench.workspace.pictures(), bench.profile.bulk_pictures
    target = ClipseekTarget(server.address, collection="imported", pictures=pictures, bulk_items=count)
    before = server.batch_counts("picture tower")
    with CpuMeter(server) as cpu:
        result = bench.load(target, "bulk_import", ClosedLoop(1), calls=1)
    embedded, runs = np.subtract(server.batch_counts("picture tower"), before).tolist()
    decode = alone.decoding(pictures, bench.profile.seconds / 2, thumbnail=True)
    limit = 1000 / (alone_ms + decode / cores())
    return {
        "rate": result.total.rate,
        "batch": embedded / runs,
        "limit_rate": limit,
        "share_of_limit": result.total.rate / limit,
        "decode_core_ms": decode,
        "server_cpu_ms": cpu.seconds / embedded * 1000,
        "threads_cpu_ms": cpu.thread_ms(embedded),
        "generator_cpu_ms": result.cpu_seconds / embedded * 1000,
    }


def _start_seconds(bench: Bench, precision: Precision, rows: int) -> float:
    with bench.server(precision, bench.workspace.data(rows)) as server:
        return server.start_seconds
