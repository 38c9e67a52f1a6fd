"""The demo script, as `make demo` and `make run` call it, with a random model: it must say what works and what not."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from pictures import out_of_reach
from servers import free_port

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def listen() -> str:
    """An address that was free a moment ago."""
    return f"127.0.0.1:{free_port()}"


@pytest.fixture
def pictures(tmp_path) -> Path:
    """A folder with three pictures, one of them twice, and two files that are none."""
    folder = tmp_path / "my pictures"
    (folder / "more").mkdir(parents=True)
    Image.linear_gradient("L").save(folder / "grey.png")
    Image.effect_mandelbrot((64, 64), (-2, -1.5, 1, 1.5), 50).save(folder / "more" / "mandelbrot.png")
    Image.new("RGB", (50, 40), "red").save(folder / "red.jpg")
    (folder / "red again.jpg").write_bytes((folder / "red.jpg").read_bytes())
    (folder / "notes.txt").write_text("no picture")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nand then nothing")
    return folder


def command(*options: str | Path) -> list[str]:
    return [sys.executable, str(ROOT / "scripts" / "demo.py"), *map(str, options)]


def test_own_pictures_find_themselves_and_stay_stored(bundle, listen, pictures, tmp_path) -> None:
    options = ("--bundle", bundle, "--data", tmp_path / "data", "--listen", listen, "--pictures", pictures)
    first = subprocess.run(command(*options), capture_output=True, text=True)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "3 created, 1 unchanged" in first.stdout
    assert "Skipped broken.png" in first.stdout
    [gallery] = tmp_path.glob("data/demo-*/gallery.html")
    assert "like red.jpg" in gallery.read_text()

    second = subprocess.run(command(*options), capture_output=True, text=True)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "4 unchanged" in second.stdout


def test_odd_names_and_what_cannot_be_read_stop_nothing(bundle, listen, pictures, tmp_path) -> None:
    (pictures / "grey.png").rename(pictures / os.fsdecode(b"caf\xe9.png"))
    (pictures / "red.jpg").rename(pictures / "red [edited].jpg")
    (pictures / "more").rename(pictures / "x[")
    (pictures / "x[" / "mandelbrot.png").rename(pictures / "x[" / "y].png")
    (pictures / "broken.png").rename(pictures / "broken [b].png")
    unreadable = [path.relative_to(pictures) for path in out_of_reach(pictures)]
    options = ("--bundle", bundle, "--data", tmp_path / "data", "--listen", listen, "--pictures", pictures)
    result = subprocess.run(command(*options), capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"})
    assert result.returncode == 0, result.stdout + result.stderr
    assert "3 created, 1 unchanged" in result.stdout
    for name in ("broken [b].png", *unreadable):
        assert f"Skipped {name} (" in result.stdout
    for name in ("caf\N{REPLACEMENT CHARACTER}.png", "red [edited].jpg", "x[/y].png"):
        assert f" {name} " in result.stdout
    [gallery] = tmp_path.glob("data/demo-*/gallery.html")
    assert "like caf\N{REPLACEMENT CHARACTER}.png" in gallery.read_text(encoding="utf-8")


@pytest.mark.parametrize("stay", [[], ["--stay"]])
def test_a_folder_without_a_usable_picture_is_said(bundle, listen, tmp_path, stay) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nand then nothing")
    options = ("--bundle", bundle, "--data", tmp_path / "data", "--listen", listen, "--pictures", folder, *stay)
    result = subprocess.run(command(*options), capture_output=True, text=True)
    assert "Skipped a.png" in result.stdout
    assert (result.returncode, result.stderr) == (1, f"None of the pictures in {folder} could be imported.\n")


def test_a_wrong_answer_is_named_and_fails(bundle, listen, tmp_path) -> None:
    options = ("--bundle", bundle, "--data", tmp_path / "data", "--listen", listen)
    result = subprocess.run(command(*options), capture_output=True, text=True)
    # Random weights know no cat from a coin; but a picture still finds itself.
    assert result.returncode == 1, result.stdout + result.stderr
    [complaint] = [line for line in result.stdout.splitlines() if line.startswith("Not found first:")]
    assert "a " in complaint
    assert "like chelsea.png" not in complaint


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        (signal.SIGINT, 0),
        (signal.SIGTERM, 128 + signal.SIGTERM),
        pytest.param(signal.SIGHUP, 128 + signal.SIGHUP, id="its terminal closes"),
    ],
)
def test_run_stays_serving_until_ended(bundle, listen, pictures, tmp_path, ending, status) -> None:
    options = ("--bundle", bundle, "--data", tmp_path / "data", "--listen", listen, "--pictures", pictures, "--stay")
    # Started under nohup, we ignore SIGHUP, and so would it.
    ours = signal.signal(ending, signal.SIG_DFL)
    try:
        demo = subprocess.Popen(command(*options), stdout=subprocess.PIPE, text=True)
    finally:
        signal.signal(ending, ours)
    with demo:
        try:
            assert demo.stdout is not None
            assert any("until Ctrl-C" in line for line in demo.stdout)
            host, port = listen.split(":")
            socket.create_connection((host, int(port))).close()
            demo.send_signal(ending)
            assert demo.wait() == status
        finally:
            demo.kill()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)))


def test_make_takes_a_folder_of_any_name(tmp_path):
    environment = tmp_path / "venv"
    (environment / "bin").mkdir(parents=True)
    for stamp in (".made", ".uv", ".locked", ".torch", ".installed"):  # in the order in which make would make them
        (environment / stamp).touch()
    python = environment / "bin" / "python"
    python.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    python.chmod(0o755)
    folder = f"""{tmp_path}/a "b" 'c' `touch {tmp_path}/run` $(touch {tmp_path}/run)"""
    # A $ is make's own, and is doubled for it.
    made = subprocess.run(
        ["make", "--no-print-directory", "demo", f"VENV={environment}", f"PICTURES={folder.replace('$', '$$')}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    assert made.stdout.splitlines()[-1] == folder
    assert not (tmp_path / "run").exists()


def test_settings_that_are_meant_for_another_server_do_not_reach_it(bundle, listen, pictures, tmp_path) -> None:
    options = ("--bundle", bundle, "--data", tmp_path / "data", "--listen", listen, "--pictures", pictures)
    elsewhere = os.environ | {"CLIPSEEK_MILVUS_URI": "http://127.0.0.1:1", "CLIPSEEK_THREADS": "-1"}
    result = subprocess.run(command(*options), capture_output=True, text=True, env=elsewhere)
    assert "Gallery" in result.stdout, result.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent is gone")
def test_a_killed_run_takes_its_server_along(bundle, listen, pictures, tmp_path) -> None:
    options = ("--bundle", bundle, "--data", tmp_path / "data", "--listen", listen, "--pictures", pictures, "--stay")
    with subprocess.Popen(command(*options), stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        assert any("until Ctrl-C" in line for line in demo.stdout)
        host, port = listen.split(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            demo.kill()
            # Its connections end with the server: closed, or reset where there was something left to read.
            with suppress(ConnectionResetError):
                while connection.recv(1024):
                    pass


@pytest.mark.parametrize("nonsense", ["nonsense", "127.0.0.1:http", "127.0.0.1:65536"])
def test_an_address_that_is_none_is_said(nonsense, tmp_path) -> None:
    result = subprocess.run(command("--bundle", tmp_path, "--listen", nonsense), capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr == (
        f"{nonsense}: not HOST:PORT with a port from 1 to 65535. Choose another: make run LISTEN=127.0.0.1:50052\n"
    )


@pytest.mark.parametrize("host", ["192.0.2.1", "a..b"])
def test_an_address_that_is_not_here_is_said(host, tmp_path) -> None:
    result = subprocess.run(command("--bundle", tmp_path, "--listen", f"{host}:50051"), capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith(f"{host}:50051: ")
    assert result.stderr.endswith(". Choose another: make run LISTEN=127.0.0.1:50052\n")


def test_a_folder_that_is_not_there_is_said(listen, tmp_path) -> None:
    (tmp_path / "file.jpg").touch()
    (tmp_path / "empty").mkdir()
    for name, problem in {"nothing": "no such folder.", "file.jpg": "not a folder."}.items():
        options = ("--bundle", tmp_path, "--listen", listen, "--pictures", tmp_path / name)
        result = subprocess.run(command(*options), capture_output=True, text=True)
        assert (result.returncode, result.stderr) == (1, f"{tmp_path / name}: {problem}\n")
    options = ("--bundle", tmp_path, "--listen", listen, "--pictures", tmp_path / "empty")
    result = subprocess.run(command(*options), capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (1, f"No pictures in {tmp_path / 'empty'}.\n")


def test_an_address_in_use_is_said(bundle, tmp_path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        options = ("--bundle", bundle, "--data", tmp_path / "data", "--listen", listen)
        result = subprocess.run(command(*options), capture_output=True, text=True)
    assert result.returncode == 1
    assert f"{listen}: Address already in use" in result.stderr


def test_a_server_that_cannot_start_shows_its_log(listen, tmp_path) -> None:
    broken = tmp_path / "bundle"
    broken.mkdir()
    (broken / "bundle.json").write_text('{"space": {}}')
    options = ("--bundle", broken, "--data", tmp_path / "data", "--listen", listen)
    result = subprocess.run(command(*options), capture_output=True, text=True)
    assert result.returncode == 1
    assert "The server did not start" in result.stderr
    assert "cannot start" in result.stderr
