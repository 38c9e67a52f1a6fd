"""What the benchmarks make of their results. That they measure, only running them shows."""

import io
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.bench import medians
from benchmarks.goals import goals
from benchmarks.machine import Theft
from benchmarks.pictures import BYTES, SIZE, make_pictures
from benchmarks.programs import Program
from benchmarks.report import PAGES, PUBLISHED, read_results, with_tables
from benchmarks.rows import vectors
from benchmarks.scaling import scaling_tables
from benchmarks.tables import tables


def test_medians_are_taken_number_by_number() -> None:
    turns = [{"rate": rate, "one": {"p50_ms": rate * 2}, "note": "x"} for rate in (5.0, 1.0, 3.0)]
    assert medians(turns) == {"rate": 3.0, "one": {"p50_ms": 6.0}}


def test_what_other_machines_took(monkeypatch: pytest.MonkeyPatch) -> None:
    # user, nice, system, idle, iowait, irq, softirq, steal, guest, guest_nice
    times = iter([[100, 0, 100, 100, 0, 0, 0, 10, 0, 0], [150, 0, 120, 900, 5, 0, 0, 40, 7, 0]])
    monkeypatch.setattr("benchmarks.machine._cpu_times", lambda: next(times))
    with Theft() as theft:
        pass
    assert theft.share == 0.3


def test_who_is_paused_stands_still_until_the_others_were_measured() -> None:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as process:
        program = Program("", process.pid, 0.0, Path())

        def wait(states: str) -> None:
            stat = Path(f"/proc/{process.pid}/stat")
            end = time.monotonic() + 30
            while stat.read_text().rpartition(")")[2].split()[0] not in states:
                assert time.monotonic() < end

        try:
            with pytest.raises(ValueError, match="not measured"), program.paused():
                wait("T")
                raise ValueError("not measured")
            wait("RS")
        finally:
            process.kill()


def test_what_was_not_measured_stays_empty() -> None:
    assert {goal.measured for goal in goals({})} == {None}
    assert {goal.met for goal in goals({})} == {None}
    machine = read_results(PUBLISHED)["machine"]
    made = tables(
        {"machine": machine, "runs": {"limit": {"profile": "short", "at": "2026-11-28 03:00", "seconds": 1.0}}}
    )
    assert set(made) == {"machine", "goals"}
    assert all(line.endswith("|  |  |") for line in made["goals"].splitlines()[2:])


def test_goals_are_ratios_of_one_run() -> None:
    def server(rate: float, p50: float) -> dict[str, object]:
        return {"rate": rate, "one": {"p50_ms": p50}, "many": {"p50_ms": 16 * p50}}

    servers = {"clipseek fp32": server(20, 60), "prototype": server(10, 90), "naive ONNX fp32": server(21, 50)}
    found = {goal.what: goal for goal in goals({"peers": {"embed_image": servers}})}
    better = found["pictures, fp32: throughput against the prototype's way"]
    assert (better.measured, better.met) == (2.0, True)
    worse = found["pictures, fp32, against naive ONNX fp32: p50 of one caller"]
    assert (worse.measured, worse.met) == (pytest.approx(50 / 60), False)


def test_tables_are_written_between_their_marks() -> None:
    page = "before\n<!-- table one -->\nold\n<!-- /table -->\nbetween\n<!-- table two -->\n<!-- /table -->\nafter\n"
    written = with_tables(page, {"one": "| 1 |\n", "absent": "| 3 |\n"})
    assert written == page.replace("old", "| 1 |")
    assert with_tables(written, {"one": "| 1 |\n"}) == written


def test_the_pages_have_a_place_for_every_table() -> None:
    made = tables(read_results(PUBLISHED)) | scaling_tables()
    text = "".join(page.read_text() for page in PAGES)
    assert all(f"<!-- table {name} -->" in text for name in made)
    assert text.count("<!-- table ") == text.count("<!-- /table -->")


def test_a_tower_that_int8_hardly_touched_is_named() -> None:
    results = read_results(PUBLISHED)
    towers = results["retrieval"]["starter"]["towers"]
    towers["vision"]["weight_share"], towers["text"]["weight_share"] = 0.49, 0.5
    made = tables(results)
    names = [line.split(" | ")[-1].removesuffix(" |") for line in made["retrieval"].splitlines()[-4:]]
    assert names == ["", "", "picture tower", "picture tower"]
    silent = [line for line in made["retrieval-towers"].splitlines() if "does not speak" in line]
    assert [line.split(" | ")[0] for line in silent] == ["| starter: picture tower"]


def test_vectors_are_shaped_like_those_of_pictures() -> None:
    made = vectors(2000, 512)
    assert np.linalg.norm(made, axis=1) == pytest.approx(1, abs=1e-5)
    cosines = (made @ made.T)[np.triu_indices(len(made), 1)]
    assert cosines.mean() == pytest.approx(0.5, abs=0.05)
    assert cosines.max() == pytest.approx(0.8, abs=0.1)


def test_pictures_are_as_a_camera_makes_them(tmp_path) -> None:
    make_pictures(tmp_path)
    files = [path.read_bytes() for path in tmp_path.iterdir()]
    assert len(files) == 10
    for data in files:
        assert len(data) == pytest.approx(BYTES, rel=0.05)
        assert Image.open(io.BytesIO(data)).size == SIZE
