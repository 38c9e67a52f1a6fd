"""kill -9 while rows are written to Milvus Lite: what was acknowledged holds, on a full disk too."""

import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from clipseek_server.index.milvus import MilvusIndex
from clipseek_server.telemetry import Call
from index_rows import lite_settings, vector

WRITER = Path(__file__).parents[1] / "lite_writer.py"


@pytest.mark.parametrize(
    ("largest_file", "acknowledged", "failed"),
    [
        pytest.param(0, 600, 0, id="enough space"),
        pytest.param(60_000, 600, 8, id="logs fail half-way"),
        pytest.param(9_000, 10, 12, id="flushes fail too"),
    ],
)
async def test_what_was_acknowledged_holds(tmp_path: Path, largest_file: int, acknowledged: int, failed: int) -> None:
    possible = _write_until(tmp_path, largest_file, acknowledged=acknowledged, failed=failed)
    index = await MilvusIndex.connect(lite_settings(tmp_path))
    collection = await index.open("default")
    await collection.ready()
    assert await collection.verify_resident(Call()) == []
    rows = await collection.get_rows(sorted(possible), Call())
    for image_id, outcomes in possible.items():
        row = rows.get(image_id)
        outcome = str(row.record.metadata["number"]) if row is not None else "-"
        assert outcome in outcomes, image_id
        if row is not None:
            # Whole: the vector that was written with the record.
            assert row.vector.tolist() == vector(int(outcome)).tolist()
    assert await collection.count(Call(), strong=True) == len(rows)
    await index.close()


def _write_until(folder: Path, largest_file: int, *, acknowledged: int, failed: int) -> dict[str, set[str]]:
    """Kill the writer when so many writes were acknowledged and so many have failed; what each id may be then.

    That is its last acknowledged write, or one that was begun since; ``-`` is none.
    """
    possible: dict[str, set[str]] = defaultdict(lambda: {"-"})
    seen: Counter[str] = Counter()
    with subprocess.Popen(
        [sys.executable, WRITER, folder, str(largest_file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            event, image_id, outcome = line.split()
            if event == "begin":
                possible[image_id].add(outcome)
            elif event == "done":
                possible[image_id] = {outcome}
            seen[event] += 1
            if seen["done"] >= acknowledged and seen["failed"] >= failed:
                writer.kill()
    assert seen["done"] >= acknowledged
    assert seen["failed"] >= failed
    return dict(possible)
