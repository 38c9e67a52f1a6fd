"""Scale beyond one machine's memory: the same searches over collections on a Milvus server."""

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException

from benchmarks.bench import Bench
from benchmarks.milvus_index import merge_segments, wait_for_index
from benchmarks.programs import Program, running
from benchmarks.rows import COLLECTION, fill
from benchmarks.sections.limit import Alone
from benchmarks.sections.scale import of_more_callers, of_one_size

_ADDRESS = "127.0.0.1:19530"
"""The package's server has no other."""
_URI = f"http://{_ADDRESS}"
_STARTS = 4
"""One in about eight hangs while it starts, for ever."""
_START_SECONDS = 60.0
_LOOK_SECONDS = 15.0
_RESTING_SHARE = 0.25
"""Of a core: what a Milvus server takes that has nothing to do."""


def measure(bench: Bench) -> dict[str, Any]:
    """By size, at fp32: searches of one caller and of more, and the memory of both servers."""
    found: dict[str, Any] = {}
    bundle = bench.workspace.bundle("fp32")
    alone = Alone(bundle)
    for rows in bench.profile.milvus_sizes:
        data_dir = bench.empty("data-milvus")
        with _milvus(bench) as milvus:
            fill(data_dir, bundle, rows, milvus_uri=_URI)
            segments = _index(rows, milvus)
            places = {"CLIPSEEK_DATA_DIR": str(data_dir), "CLIPSEEK_MILVUS_URI": _URI}
            with bench.server("fp32", environment=places) as server:
                found[str(rows)] = {
                    "segments": segments,
                    **of_one_size(bench, server, alone),
                    "callers": of_more_callers(bench, server, ["search_text"])["search_text"],
                    "rss_mb": server.rss / 1e6,
                    "milvus_rss_mb": milvus.rss / 1e6,
                    "start_seconds": server.start_seconds,
                }
    return found


@contextmanager
def _milvus(bench: Bench) -> Iterator[Program]:
    program = Path(sys.executable).with_name("milvus-server")
    with ExitStack() as stack:
        for attempt in range(_STARTS):
            folder = bench.empty("milvus")
            try:
                server = stack.enter_context(
                    running(
                        [str(program), "--data", str(folder)],
                        _ADDRESS,
                        folder / "output.log",
                        _answers,
                        patience=_START_SECONDS,
                    )
                )
                break
            except RuntimeError:
                if attempt == _STARTS - 1:
                    raise
        yield server


def _answers(address: str) -> bool:
    try:
        client = MilvusClient(f"http://{address}", timeout=2, dedicated=True)
        client.list_collections(timeout=2)
        client.close()
    except MilvusException:
        return False
    return True


def _index(rows: int, milvus: Program) -> int:
    """Have the rows in segments with an index, as they are when nobody has written for a while."""
    client = MilvusClient(_URI, dedicated=True)
    try:
        collection = client.describe_alias(COLLECTION)["collection_name"]
        client.flush(collection)
        wait_for_index(client, collection, rows)
        merge_segments(client, collection)
        # Merged ones are indexed anew, and some of them merged once more.
        while not _rests(milvus):
            pass
        return wait_for_index(client, collection, rows)
    finally:
        client.close()


def _rests(program: Program) -> bool:
    before = program.cpu_seconds
    time.sleep(_LOOK_SECONDS)
    return program.cpu_seconds - before < _RESTING_SHARE * _LOOK_SECONDS
