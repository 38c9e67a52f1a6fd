"""The command line against the real server: a folder in, found again, out, gone."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from clipseek import Client
from pictures import large_picture, picture
from servers import ServerProcess


@pytest.fixture
def run(server, collection):
    """Runs the command as a user does; the server's log, which is this process's, stays out of what it prints."""

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "clipseek", "--collection", collection, *map(str, arguments)]
        environment = os.environ | {"CLIPSEEK_SERVER": server.address}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    return call


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    for seed in range(20):
        (folder / "deep" / f"{seed}.png").write_bytes(picture(seed))
    (folder / "large.png").write_bytes(large_picture(5_000_000))
    (folder / "photo.jpg").write_bytes(picture(100, format="JPEG"))
    (folder / "readme.txt").write_text("no picture")
    return folder


def test_a_folder_goes_in_is_found_and_goes(run, folder, tmp_path):
    result = run("import", folder)
    assert result.returncode == 0, result.stderr
    assert "22 created, 1 no pictures" in result.stderr
    assert "22 unchanged" in run("import", folder).stderr
    (folder / "twice.jpg").write_bytes((folder / "photo.jpg").read_bytes())
    assert "23 unchanged" in run("import", folder).stderr
    (folder / "twice.jpg").unlink()

    page = tmp_path / "found.html"
    result = run("search", "--image", folder / "photo.jpg", "--top-k", 3, "--json", "--html", page)
    assert result.returncode == 0, result.stderr
    hits = json.loads(result.stdout)["hits"]
    assert len(hits) == 3
    assert hits[0]["image"]["metadata"] == {"file": "photo.jpg"}
    assert hits[0]["score"] == pytest.approx(1, abs=1e-3)
    assert page.read_text(encoding="utf-8").count('src="data:image/jpeg;base64,') == 4
    assert run("search", "a cat", "--filter", 'metadata.file == "large.png"').stdout.count("large.png") == 1

    listed = [json.loads(line) for line in run("list", "--json").stdout.splitlines()]
    [large] = [image["image_id"] for image in listed if image["metadata"]["file"] == "large.png"]
    assert len(listed) == 22
    assert run("get", large, "--output", tmp_path / "again.png").returncode == 0
    assert (tmp_path / "again.png").read_bytes() == (folder / "large.png").read_bytes()

    assert "done" in run("rebuild").stderr
    assert run("check", "--verify-bytes").returncode == 0
    assert run("delete", large, "--yes").returncode == 0
    assert run("get", large).returncode == 1


def test_broken_pictures_are_named_and_the_others_stored(run, folder):
    (folder / "truncated.png").write_bytes(picture(7)[:200])
    result = run("import", folder)
    assert result.returncode == 1
    assert "22 created, 1 failed, 1 no pictures" in result.stderr
    assert "not stored" in result.stderr
    assert "truncated.png" in result.stderr


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """So many pictures that an import with --json can't end before its lines are read: a pipe holds 64 KiB of them."""
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(1000):
        Image.new("RGB", (2, 2), (number // 256, number % 256, 0)).save(folder / f"{number}.bmp")
    return folder


def begin(address: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "clipseek", "--server", address, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def rest(importing: "subprocess.Popen[str]") -> tuple[str, str]:
    """What it still prints. Not by ``communicate``: it forgets what came along with a line that was read before."""
    assert importing.stdout is not None
    assert importing.stderr is not None
    return importing.stdout.read(), importing.stderr.read()


def check_summary(lines: str, errors: str) -> None:
    """Each picture is either in the lines or without an answer, and one is told how to go on."""
    printed = lines.count("\n") + 1
    found = re.search(r"(\d+) created, (\d+) without an answer\n", errors)
    assert found is not None, errors
    stored, unknown = map(int, found.groups())
    assert stored + unknown == 1000
    assert stored - printed in (0, 1)  # one may be cut off between the two
    assert "running it again is safe" in errors


def test_an_import_that_breaks_says_how_far_it_came_and_goes_on_when_repeated(bundle, many, tmp_path):
    with ServerProcess(tmp_path / "data", bundle) as server:
        with begin(server.address, "import", many, "--json", "--patience", "0") as importing:
            assert importing.stdout is not None
            assert json.loads(importing.stdout.readline())["outcome"] == "created"
            server.kill()
            lines, errors = rest(importing)
        assert importing.returncode == 3
        check_summary(lines, errors)
        server.start()
        with begin(server.address, "import", many) as importing:
            _, errors = importing.communicate(timeout=60)
        assert importing.returncode == 0, errors
        [created, unchanged] = re.findall(r"(\d+) (?:created|unchanged)", errors)
        assert int(created) + int(unchanged) == 1000
        assert int(unchanged) > lines.count("\n")


def test_an_import_goes_on_when_the_server_comes_back(bundle, many, tmp_path, unused_tcp_port):
    listen = f"127.0.0.1:{unused_tcp_port}"
    with ServerProcess(tmp_path / "data", bundle, CLIPSEEK_LISTEN=listen) as server:
        with begin(listen, "import", many, "--json") as importing:
            assert importing.stdout is not None
            importing.stdout.readline()
            server.kill()
            server.start()
            lines, errors = rest(importing)
        assert importing.returncode == 0, errors
        assert lines.count("\n") + 1 == 1000
        with Client(listen) as client:
            assert client.get_collection().image_count == 1000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_import_that_is_interrupted_says_how_far_it_came(server, collection, many, tmp_path, number):
    failed = tmp_path / "failed.jsonl"
    named = ("--collection", collection, "--failures", str(failed))
    with begin(server.address, "import", many, "--json", *named) as importing:
        assert importing.stdout is not None
        importing.stdout.readline()
        importing.send_signal(number)
        lines, errors = rest(importing)
    assert importing.returncode == 130
    check_summary(lines, errors)
    assert f", {len(failed.read_text().splitlines())} without an answer\n" in errors
    assert errors.endswith("clipseek: interrupted\n")


def test_errors_of_the_real_server(run):
    for arguments in (["get", "nothing"], ["search", "a cat"]):
        result = run(*arguments)
        assert (result.returncode, result.stdout) == (1, ""), result.stderr
        assert result.stderr.startswith("clipseek: ")
    result = run("info")
    assert result.returncode == 0
    assert "milvus-lite" in result.stdout
