"""The benchmarks measure: a wrong name of a metric or of a field would show only here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = "limit", "engine", "mixed", "scale", "loading", "memory"


def run(*command: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(300)
def test_what_they_measure_is_shown(tmp_path: Path) -> None:
    results, page = tmp_path / "smoke.json", tmp_path / "performance.md"
    begun = ["benchmarks", "smoke", "--folder", str(tmp_path / "bench"), "--results", str(results)]
    run(*begun, "--precisions", "fp16", "--sections", *SECTIONS)
    run("benchmarks.report", str(results), "--output", str(page), "--plots", str(tmp_path))
    tables = {part.split(" -->")[0]: part for part in page.read_text().split("<!-- table ")[1:]}
    for name in ("limit", "engine", "threads", "search", "mixed", "sizes", "callers", "loading", "memory"):
        assert "Not measured" not in tables[name], name
    assert "| fp16 |" in tables["limit"] and "| fp16 |" in tables["engine"]
    assert "Not measured" in tables["peers-pictures"]
    assert (tmp_path / "memory.png").exists()
