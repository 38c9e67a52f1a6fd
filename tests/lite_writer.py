"""Writes to Milvus Lite until it is killed, and says so of each write when it begins and when it ends.

``python lite_writer.py FOLDER LARGEST_FILE``: no file may grow past ``LARGEST_FILE`` bytes (0: no limit), so that
writes fail half-way as on a full disk.
"""

import asyncio
import random
import resource
import signal
import sys
from pathlib import Path

from clipseek_server.config import Settings
from clipseek_server.errors import CollectionGone, IndexUnavailable
from clipseek_server.index.milvus import MilvusIndex
from clipseek_server.telemetry import Call, configure_logging
from index_rows import make, row

_WRITERS = 4


def _say(*words: str) -> None:
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()


async def _write(index: MilvusIndex, writer: int) -> None:
    for number in range(1_000_000):
        image_id = f"{writer}-{random.randrange(30)}"
        delete = random.random() < 0.3
        outcome = "-" if delete else str(number)
        _say("begin", image_id, outcome)
        try:
            collection = await index.open("default")
            if delete:
                await collection.delete([image_id], Call())
            else:
                await collection.upsert(row(image_id, number, number=number, padding="x" * 500), Call())
        except (IndexUnavailable, CollectionGone):
            _say("failed", image_id, outcome)
        else:
            _say("done", image_id, outcome)


async def _main(folder: Path, largest_file: int) -> None:
    index = await MilvusIndex.connect(Settings(data_dir=folder))
    await make(index)
    if largest_file:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
    await asyncio.gather(*(_write(index, writer) for writer in range(_WRITERS)))


if __name__ == "__main__":
    configure_logging("error", json=True)
    asyncio.run(_main(Path(sys.argv[1]), int(sys.argv[2])))
