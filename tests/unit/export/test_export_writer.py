"""A bundle's folder appears whole or not at all."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from clipseek_export.errors import ExportError
from clipseek_export.writer import whole_folder

WRITE_AND_WAIT = """
import sys
from pathlib import Path
from clipseek_export.writer import whole_folder

with whole_folder(Path(sys.argv[1])) as folder:
    (folder / "vision.onnx").write_text("half")
    print("writing", flush=True)
    sys.stdin.readline()
"""


def write(output: Path, content: str) -> None:
    with whole_folder(output) as folder:
        (folder / "bundle.json").write_text(content)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_nothing_is_seen_before_the_end(tmp_path: Path) -> None:
    output = tmp_path / "deep" / "bundle"
    with whole_folder(output) as folder:
        (folder / "bundle.json").write_text("new")
        assert not output.exists()
    assert (output / "bundle.json").read_text() == "new"
    assert names(output.parent) == ["bundle"]


def test_a_bundle_is_replaced_whole(tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    write(output, "old")
    (output / "vision.onnx").write_text("old")
    with whole_folder(output) as folder:
        (folder / "bundle.json").write_text("new")
        assert (output / "bundle.json").read_text() == "old"
    assert (output / "bundle.json").read_text() == "new"
    assert names(output) == ["bundle.json"]
    assert names(tmp_path) == ["bundle"]


@pytest.mark.parametrize("error", [ExportError("no"), KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_error_leaves_what_was_there(tmp_path: Path, error: BaseException) -> None:
    output = tmp_path / "bundle"
    write(output, "old")
    with pytest.raises(type(error)), whole_folder(output) as folder:
        (folder / "bundle.json").write_text("new")
        raise error
    assert (output / "bundle.json").read_text() == "old"
    assert names(tmp_path) == ["bundle"]


def test_a_folder_with_other_files_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(ExportError, match="no bundle"):
        write(tmp_path, "new")
    assert names(tmp_path) == ["precious.txt"]


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    write(tmp_path / "bundle", "new")
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", "new")
    assert names(tmp_path / "empty") == ["bundle.json"]


def test_a_link_keeps_pointing(tmp_path: Path) -> None:
    write(tmp_path / "v1", "old")
    (tmp_path / "current").symlink_to(tmp_path / "v1")
    write(tmp_path / "current", "new")
    assert (tmp_path / "current").is_symlink()
    assert (tmp_path / "v1" / "bundle.json").read_text() == "new"


def start_writing(output: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", WRITE_AND_WAIT, str(output)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"writing\n"
    return child


def test_a_killed_export_leaves_no_bundle_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    with start_writing(output) as child:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert not output.exists()
    assert names(tmp_path) == [".bundle.partial"]
    write(output, "new")
    assert names(tmp_path) == ["bundle"]
    assert names(output) == ["bundle.json"]


def test_two_exports_to_one_place_are_refused(tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    with start_writing(output) as child:
        with pytest.raises(ExportError, match=f"another export writes to .*{output.name}"):
            write(output, "second")
        child.communicate(b"\n")
        assert child.returncode == 0
    assert names(output) == ["vision.onnx"]


def test_an_export_killed_while_it_replaces_is_put_right(tmp_path: Path) -> None:
    """Between its two renames the old bundle has another name; a failing export after that must give it back."""
    output = tmp_path / "bundle"
    write(output, "old")
    output.rename(tmp_path / ".bundle.replaced")
    with pytest.raises(ExportError, match="no"), whole_folder(output):
        raise ExportError("no")
    assert (output / "bundle.json").read_text() == "old"
    assert names(tmp_path) == ["bundle"]
