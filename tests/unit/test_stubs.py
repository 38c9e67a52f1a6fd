"""The committed stubs are what the protos generate, and the check that says so notices every kind of difference."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path("clipseek/v1")


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "scripts/generate_stubs.py", "--check", folder]
    return subprocess.run(command, capture_output=True, text=True)


def test_committed_stubs_match_the_protos() -> None:
    result = check(ROOT / "client")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("image_pb2.pyi", lambda path: path.write_text(path.read_text() + "# edited\n")),
        ("search_service_pb2_grpc.py", Path.unlink),
        ("gone_service_pb2.py", Path.touch),
    ],
    ids=["edited", "missing", "orphaned"],
)
def test_a_difference_is_named(tmp_path: Path, name: str, damage: Callable[[Path], None]) -> None:
    shutil.copytree(ROOT / "client" / PACKAGE, tmp_path / PACKAGE)
    damage(tmp_path / PACKAGE / name)
    result = check(tmp_path)
    assert result.returncode != 0
    assert name in result.stderr
