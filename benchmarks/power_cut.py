"""Measure what a power cut costs, and what it costs that it costs nothing. Milvus Lite, on Linux.

``cuts`` needs root, a free loop device and ``mkfs.ext4``. Each round makes an ext4 file system, has a process
write to it, cuts it off at a random moment (``EXT4_IOC_SHUTDOWN``: what only the kernel's memory held never gets to the
disk, and the journal is not flushed), kills the process, mounts again and compares what is there with what was
acknowledged. Every other round is cut off just after a segment was written, where most is at stake. Not simulated: a
disk that itself forgets what it was not told to flush::

    sudo .venv/bin/python benchmarks/power_cut.py cuts
    sudo .venv/bin/python benchmarks/power_cut.py cuts --plain     # as Milvus Lite does it by itself

``cost`` compares the two in one run, in turns: writes to the index, and with ``--bundle`` whole inserts through a
server. The folder should be on the disk that is meant::

    .venv/bin/python benchmarks/power_cut.py cost --folder /var/tmp --bundle bundles/default
"""

import argparse
import asyncio
import fcntl
import io
import json
import os
import random
import re
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from clipseek import AsyncClient, UnavailableError
from clipseek_server import cli
from clipseek_server.config import Settings
from clipseek_server.index.lite import MEMTABLE_BYTES
from clipseek_server.index.milvus import MilvusIndex
from clipseek_server.index.records import Record, Row
from clipseek_server.telemetry import Call, configure_logging

DIMENSION = 512
WRITERS = 16
EXT4_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2
MAX_WAIT = 300.0


def main() -> None:
    """Run what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="{cuts,cost}")
    cuts = commands.add_parser("cuts", help="cut the power, and count what is missing")
    cuts.add_argument("--rounds", type=int, default=8)
    cuts.add_argument("--rate", type=float, default=300, help="writes per second")
    cuts.add_argument("--seconds", type=float, nargs=2, default=(5, 60), help="a cut comes after so many")
    cuts.add_argument("--seed", type=int, default=0)
    cost = commands.add_parser("cost", help="writes per second and latencies, with and without")
    cost.add_argument("--folder", type=Path, default=Path(), help="where to write")
    cost.add_argument("--bundle", type=Path, help="a model: measure whole inserts too")
    cost.add_argument("--seconds", type=float, default=8, help="of each measurement")
    cost.add_argument("--turns", type=int, default=3)
    # What this program runs as processes of their own.
    for name, rate in (("write", 300.0), ("read", 0.0), ("measure", 0.0), ("serve", 0.0)):
        inner = commands.add_parser(name)
        inner.add_argument("folder", type=Path)
        inner.add_argument("--rate", type=float, default=rate)
        inner.add_argument("--writers", type=int, default=WRITERS)
        inner.add_argument("--seconds", type=float, default=8)
    for inner in (cuts, *(commands.choices[name] for name in ("write", "read", "measure", "serve"))):
        inner.add_argument("--plain", action="store_true", help="without what clipseek adds to Milvus Lite")
    options = parser.parse_args()
    if getattr(options, "plain", False):
        _leave_milvus_lite_alone()
    if options.command == "cuts":
        _cuts(options)
    elif options.command == "cost":
        _cost(options)
    elif options.command == "serve":
        sys.argv = ["clipseek-server", "serve"]
        cli.main()
    else:
        configure_logging("error", json=True)
        work = {"write": _write, "read": _read, "measure": _measure}[options.command]
        asyncio.run(work(options))


def _leave_milvus_lite_alone() -> None:
    os.environ.setdefault("MILVUS_LITE_MEMTABLE_MEMORY_LIMIT_BYTES", str(MEMTABLE_BYTES))
    from clipseek_server.index import durable_lite

    durable_lite.install = lambda: None


def _run_self(command: str, folder: Path, *, plain: bool, **options: float) -> list[str]:
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return [sys.executable, __file__, command, str(folder), *words, *(["--plain"] if plain else [])]


# --- Cutting ---------------------------------------------------------------------------------------------------------


@dataclass
class Write:
    """One write to an id: the row's number, or -1 for a delete, and when it was acknowledged."""

    number: int
    acknowledged: float | None = None


def _cuts(options: argparse.Namespace) -> None:
    chance = random.Random(options.seed)
    print(f"{options.rate:.0f} writes/s, {'Milvus Lite by itself' if options.plain else 'as clipseek runs it'}")
    print(f"{'cut':24} {'acknowledged':>12} {'lost':>6} {'undone':>6} {'torn':>6} {'oldest':>8}")
    for number in range(options.rounds):
        with tempfile.TemporaryDirectory(prefix="power-cut-") as folder:
            _cut_once(Path(folder), chance, options, at_segment=number % 2 == 1)


def _cut_once(folder: Path, chance: random.Random, options: argparse.Namespace, *, at_segment: bool) -> None:
    image, mount = folder / "disk", folder / "mount"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(4 << 30)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    with _mounted(image, mount):
        cut, writes = _cut_off(mount, chance.uniform(*options.seconds), options, at_segment=at_segment)
    acknowledged = sum(write.acknowledged is not None for history in writes.values() for write in history)
    label = f"{'segment' if at_segment else 'any moment'}, after {cut[1]:.0f} s"
    with _mounted(image, mount):
        reader = subprocess.run(
            _run_self("read", mount, plain=options.plain), capture_output=True, text=True, timeout=MAX_WAIT
        )
        empty = sorted(
            {path.stem.split("_")[0] + path.suffix for path in mount.rglob("*.*") if not path.stat().st_size}
        )
    if reader.returncode != 0:
        reason = reader.stderr.strip().splitlines()[-1].split(".")[-1]
        print(f"{label:24} {acknowledged:12}    all: {reason}; empty: {', '.join(empty)}", flush=True)
        return
    found = {image_id: (number, whole) for image_id, number, whole in json.loads(reader.stdout)}
    lost, undone, torn, oldest = 0, 0, 0, 0.0
    for image_id, history in writes.items():
        last = max((i for i, write in enumerate(history) if write.acknowledged is not None), default=None)
        possible = {write.number for write in history[last:]} if last is not None else {-1, history[0].number}
        number, whole = found.get(image_id, (-1, True))
        torn += not whole
        if number not in possible:
            assert last is not None
            lost += number == -1
            undone += number != -1
            oldest = max(oldest, cut[0] - (history[last].acknowledged or 0))
    print(f"{label:24} {acknowledged:12} {lost:6} {undone:6} {torn:6} {oldest:6.1f} s", flush=True)


def _cut_off(
    mount: Path, seconds: float, options: argparse.Namespace, *, at_segment: bool
) -> tuple[tuple[float, float], dict[str, list[Write]]]:
    """When it was cut off (the clock, and seconds of writing), and what was written."""
    writes: dict[str, list[Write]] = defaultdict(list)
    command = _run_self("write", mount, plain=options.plain, rate=options.rate)
    # Its complaints are about the disk that goes away.
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as writer:
        assert writer.stdout is not None
        if not writer.stdout.readline():
            raise RuntimeError("the writer ended")
        begin = time.monotonic()
        reader = threading.Thread(target=_follow, args=(writer.stdout, writes))
        reader.start()
        time.sleep(seconds)
        if at_segment:
            _wait_for_segment(mount)
        descriptor = os.open(mount, os.O_RDONLY)
        cut = time.monotonic()
        fcntl.ioctl(descriptor, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        os.close(descriptor)
        writer.kill()
        reader.join()
    return (cut, cut - begin), writes


def _follow(lines: io.TextIOBase, writes: dict[str, list[Write]]) -> None:
    for line in lines:
        event, image_id, number = line.split()
        if event == "begin":
            writes[image_id].append(Write(int(number)))
        else:
            writes[image_id][-1].acknowledged = time.monotonic()


def _wait_for_segment(mount: Path) -> None:
    before = set(mount.rglob("*.parquet"))
    end = time.monotonic() + MAX_WAIT
    while set(mount.rglob("*.parquet")) <= before and time.monotonic() < end:
        time.sleep(0.005)
    time.sleep(random.uniform(0, 0.1))


@contextmanager
def _mounted(image: Path, mount: Path) -> Iterator[None]:
    subprocess.run(["mount", "-o", "loop", image, mount], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", mount], check=True)


# --- The process that is cut off -------------------------------------------------------------------------------------


def _vector(number: int) -> npt.NDArray[np.float32]:
    values = np.random.default_rng(number).normal(size=DIMENSION)
    return (values / np.linalg.norm(values)).astype(np.float32)


def _row(image_id: str, number: int) -> Row:
    record = Record(
        image_id=image_id,
        content_sha256="0" * 64,
        blob_key=f"uid/{image_id}/{'0' * 64}",
        media_type="image/jpeg",
        width=640,
        height=480,
        size_bytes=100_000,
        create_time=1_700_000_000_000_000,
        update_time=1_700_000_000_000_000,
        metadata={"number": number, "caption": "a photograph of something that somebody saw"},
    )
    return Row(record, _vector(number))


async def _write(options: argparse.Namespace) -> None:
    index = await MilvusIndex.connect(Settings(data_dir=options.folder))
    collection, _ = await index.create("default", space_id="space", precision="fp32", dimension=DIMENSION)
    print("ready", flush=True)

    async def writer(part: int) -> None:
        chance = random.Random(part)
        ids: list[str] = []
        due = time.monotonic() + part / options.rate
        for number in range(part, 10_000_000, WRITERS):
            await asyncio.sleep(due - time.monotonic())
            due = max(due + WRITERS / options.rate, time.monotonic() - 1)
            kind = chance.random()
            image_id = chance.choice(ids) if ids and kind < 0.2 else f"id-{number}"
            outcome = -1 if kind < 0.1 and ids else number
            print("begin", image_id, outcome, flush=True)
            if outcome == -1:
                await collection.delete([image_id], Call())
            else:
                await collection.upsert(_row(image_id, number), Call())
            print("done", image_id, outcome, flush=True)
            ids.append(image_id)

    await asyncio.gather(*(writer(part) for part in range(WRITERS)))


async def _read(options: argparse.Namespace) -> None:
    index = await MilvusIndex.connect(Settings(data_dir=options.folder))
    collection = await index.open("default")
    await collection.ready()
    assert await collection.verify_resident(Call()) == []
    found, after = [], ""
    while page := await collection.page(after, 1000, Call(), filter=None, strong=True):
        after = page[-1].image_id
        for image_id, row in (await collection.get_rows([record.image_id for record in page], Call())).items():
            number = int(row.record.metadata["number"])
            found.append((image_id, number, bool(np.array_equal(row.vector, _vector(number)))))
    await index.close()
    print(json.dumps(found))


# --- The cost --------------------------------------------------------------------------------------------------------


def _cost(options: argparse.Namespace) -> None:
    columns = f"{'writes/s':>9} {'p50 ms':>7} {'p99 ms':>7}"
    print(f"{'':28} {columns}   by itself: {columns}")
    for label, measure in (("index", _index), ("server", _server))[: 2 if options.bundle else 1]:
        for writers in (1, WRITERS):
            _compare(f"{label}, {writers} at a time", options, partial(measure, writers=writers, options=options))


def _compare(label: str, options: argparse.Namespace, measure: Callable[..., list[float]]) -> None:
    """Medians over the turns; each turn measures both, on empty folders."""
    turns: dict[bool, list[tuple[float, float, float]]] = {False: [], True: []}
    for turn in range(options.turns):
        for plain in (False, True) if turn % 2 == 0 else (True, False):
            with tempfile.TemporaryDirectory(prefix="power-cut-", dir=options.folder) as folder:
                seconds = measure(Path(folder), plain=plain)
            turns[plain].append(
                (len(seconds) / options.seconds, *(1000 * float(np.quantile(seconds, q)) for q in (0.5, 0.99)))
            )
    durable, plain_ = (np.median(turns[plain], axis=0) for plain in (False, True))
    columns = [f"{rate:9.0f} {median:7.2f} {slow:7.1f}" for rate, median, slow in (durable, plain_)]
    print(f"{label:28} {columns[0]}   {'':10} {columns[1]}   ratio {durable[0] / plain_[0]:.2f}", flush=True)


def _index(folder: Path, *, plain: bool, writers: int, options: argparse.Namespace) -> list[float]:
    command = _run_self("measure", folder, plain=plain, writers=writers, seconds=options.seconds)
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [float(word) for word in json.loads(output)]


async def _measure(options: argparse.Namespace) -> None:
    index = await MilvusIndex.connect(Settings(data_dir=options.folder))
    collection, _ = await index.create("default", space_id="space", precision="fp32", dimension=DIMENSION)
    rows = [_row("", number) for number in range(1000)]

    async def write(number: int) -> None:
        row = rows[number % len(rows)]
        await collection.upsert(Row(replace(row.record, image_id=f"id-{number}"), row.vector), Call())

    print(json.dumps(await _timed(write, options.writers, options.seconds)))
    await index.close()


def _server(folder: Path, *, plain: bool, writers: int, options: argparse.Namespace) -> list[float]:
    environment = {
        **os.environ,
        "CLIPSEEK_LISTEN": "127.0.0.1:0",
        "CLIPSEEK_DATA_DIR": str(folder / "data"),
        "CLIPSEEK_BUNDLES": str(options.bundle),
    }
    log = folder / "log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(_run_self("serve", folder, plain=plain), env=environment, stderr=errors) as server,
    ):
        try:
            while not (found := re.search(r'"address": "([^"]+)"', log.read_text())):
                time.sleep(0.05)
            return asyncio.run(_inserts(found.group(1), writers, options.seconds))
        finally:
            server.terminate()


async def _inserts(address: str, writers: int, seconds: float) -> list[float]:
    pictures = [_picture(seed) for seed in range(50)]
    async with AsyncClient(address) as client:

        async def insert(number: int) -> None:
            # Bytes after a JPEG's end do not matter to its picture: no two are the same.
            await client.insert(pictures[number % len(pictures)] + struct.pack("I", number), image_id=f"id-{number}")

        end = time.monotonic() + 60
        while True:
            try:
                await insert(0xFFFFFFFF)
                break
            except UnavailableError:
                if time.monotonic() > end:
                    raise
                await asyncio.sleep(0.1)
        return await _timed(insert, writers, seconds)


def _picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, size=(30, 40, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((640, 480)).save(file, "JPEG")
    return file.getvalue()


async def _timed(work: Callable[[int], Awaitable[None]], writers: int, seconds: float) -> list[float]:
    """How long each call took; so many at a time, for so long."""
    taken: list[float] = []
    numbers = iter(range(10_000_000))
    end = time.monotonic() + seconds

    async def writer() -> None:
        while (begin := time.monotonic()) < end:
            await work(next(numbers))
            taken.append(time.monotonic() - begin)

    await asyncio.gather(*(writer() for _ in range(writers)))
    return taken


if __name__ == "__main__":
    main()
