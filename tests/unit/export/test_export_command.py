"""The command, as users run it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clipseek_export import cli
from clipseek_export.cli import main
from clipseek_server.encoding.bundle import read_manifest, verify_files
from models import SmallClips

SCRIPT = Path(__file__).parents[3] / "scripts" / "export_onnx.py"


def test_a_folder_becomes_a_bundle(clips: SmallClips, tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--model", str(clips.checkpoint()), "--name", "mine", "--precision", "int8"]
    done = subprocess.run([*command, "--output", str(tmp_path / "out")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(tmp_path / "out")
    verify_files(tmp_path / "out", manifest)
    assert (manifest.name, manifest.precision) == ("mine", "int8")
    assert f"{manifest.agreement['text'].similarity.cosine_min:.6f}" in done.stdout
    assert manifest.space_id in done.stdout
    assert manifest.decoding is not None
    assert f"down to {manifest.decoding.jpeg_scale:g} times" in done.stdout
    # One line a step where no bar can be drawn, and nothing of what the libraries would like to say.
    assert all(line.endswith(" ...") for line in done.stderr.splitlines()), done.stderr


def test_precisions_have_names_of_their_own(clips: SmallClips) -> None:
    names = {precision: read_manifest(clips.bundle(precision=precision)).name for precision in ("fp32", "fp16", "int8")}
    model = clips.checkpoint().name
    assert names == {"fp32": model, "fp16": f"{model}-fp16", "int8": f"{model}-int8"}


def test_a_hub_out_of_reach_has_its_own_status(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--output", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "cache")},
    )
    assert done.returncode == 3
    assert "--model starter" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert all(word in told for word in ("--model starter", "HF_ENDPOINT", "int8", "exit status"))


@pytest.mark.parametrize(
    "arguments",
    [["--model", "no/such/folder"], ["--model", "starter", "--revision", "main"], ["--name", "a/b"]],
    ids=["model", "revision", "name"],
)
def test_what_cannot_be_done_is_said(
    clips: SmallClips, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    checkpoint = [] if "--model" in arguments else ["--model", str(clips.checkpoint())]
    assert main([*checkpoint, *arguments, "--output", str(tmp_path / "out")]) == 1
    assert "export failed: " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_is_in_the_way_is_said_before_the_model_is_loaded(
    clips: SmallClips, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "_load", lambda _: pytest.fail("the model was loaded"))
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["--model", str(clips.checkpoint()), "--output", str(tmp_path)]) == 1
    assert "is no bundle" in capsys.readouterr().err
