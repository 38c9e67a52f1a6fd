"""Measure what rows that are put in one by one add to the memory of a process with Milvus Lite.

    python -m benchmarks.growth
    ARROW_DEFAULT_MEMORY_POOL=mimalloc python -m benchmarks.growth

The server has Arrow use the system's allocator unless that variable names another one. Each row is written, merged and
copied into memory as the server does it; merges of Milvus Lite's files show as steps.
"""

import argparse
import asyncio
import os
from pathlib import Path

from benchmarks.programs import resident_bytes
from benchmarks.rows import COLLECTION, rows
from benchmarks.workspace import Workspace
from clipseek_server.config import Settings
from clipseek_server.encoding.bundle import read_manifest
from clipseek_server.index.milvus import MilvusIndex
from clipseek_server.telemetry import Call

BEFORE = 10_000
STEP = 1000


def main() -> None:
    """Print the memory at each thousand rows, and the most."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.growth", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=6000, help="put in (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("build/bench"), help="for models and data")
    options = parser.parse_args()
    workspace = Workspace(options.folder)
    bundle, data_dir = workspace.bundle("int8"), workspace.data(BEFORE)
    most = asyncio.run(_grow(Settings(data_dir=data_dir, bundles=[bundle]), options.rows))
    print(f"at most {most / 1e6:.0f} MB")


async def _grow(settings: Settings, count: int) -> int:
    most = 0
    index = await MilvusIndex.connect(settings)
    try:
        collection = await index.open(COLLECTION)
        await collection.ready()
        for number, row in enumerate(rows(count, read_manifest(settings.bundles[0]).dimension, first=BEFORE)):
            await collection.upsert(row, Call())
            memory = resident_bytes(os.getpid())
            most = max(most, memory)
            if number % STEP == STEP - 1:
                print(f"{number + 1:,} rows: {memory / 1e6:.0f} MB", flush=True)
    finally:
        await index.close()
    return most


if __name__ == "__main__":
    main()
