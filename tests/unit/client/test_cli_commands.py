"""The command line against a small real server: what it prints where, and its exit codes."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from google.rpc import error_details_pb2
from grpc import StatusCode
from PIL import Image
from typer.testing import CliRunner, Result

from clipseek.cli.app import app
from clipseek.cli.output import Output
from clipseek.v1 import image_pb2
from pictures import out_of_reach
from small_server import Failure, SmallServer


@pytest.fixture
def run(server: SmallServer, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("CLIPSEEK_SERVER", server.address)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object, **kwargs: Any) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], **kwargs)

    return call


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(["a.png", "deep/er/b.png", ".hidden/c.png", ".d.png"]):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), number).save(path)
    (tmp_path / "pictures/notes.txt").write_text("no picture")
    (tmp_path / "pictures/fake.jpg").write_text("no picture either")
    return tmp_path / "pictures"


def test_import_a_folder(run: Any, server: SmallServer, folder: Path) -> None:
    result = run("import", folder, "--collection", "pets")
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert "2 created, 2 no pictures" in result.stderr
    assert "fake.jpg" in result.stderr
    assert "notes.txt" in result.stderr
    assert sorted(image.metadata["file"] for image, _ in server.images.values()) == ["a.png", "deep/er/b.png"]
    assert server.asked("BulkInsert")[0].collection == "pets"


def test_import_prints_a_line_of_json_for_each_picture(run: Any, folder: Path, tmp_path: Path) -> None:
    truncated = tmp_path / "bad.png"
    truncated.write_bytes(b"\xff\xd8\xff" + b"x" * 2_000_000)
    result = run("--json", "import", folder, truncated)
    assert result.exit_code == 1
    rows = {Path(row["path"]).name: row for row in map(json.loads, result.stdout.splitlines())}
    assert rows["a.png"]["outcome"] == "created"
    assert len(rows["b.png"]["image_id"]) == 64
    assert rows["bad.png"]["error"]["reason"] == "IMAGE_TOO_LARGE"
    assert "1 failed" in result.stderr


def test_import_skips_what_the_server_has(run: Any, server: SmallServer, folder: Path) -> None:
    run("import", folder)
    batches = len(server.asked("BulkInsert.batch"))
    result = run("import", folder, "--json")
    assert "2 unchanged" in result.stderr
    assert [json.loads(line)["outcome"] for line in result.stdout.splitlines()] == ["unchanged"] * 2
    assert len(server.asked("BulkInsert.batch")) == batches
    # What it has is not asked for where it must be refused.
    asked = len(server.asked("BatchGetImages"))
    run("import", folder, "--on-exists", "fail")
    assert len(server.asked("BatchGetImages")) == asked
    assert len(server.asked("BulkInsert.batch")) > batches


def test_import_with_metadata(run: Any, server: SmallServer, folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("file,image_id,title,year\na.png,007,A,1999\ndeep/er/b.png,,,\ngone.png,,G,1\n")
    result = run("import", folder, "-m", "year=2024", "-m", "album=summer", "--metadata-from", table)
    assert result.exit_code == 0, result.output
    assert "gone.png, and there is no such picture" in result.stderr
    found = {image.metadata["file"]: (image_id, image.metadata) for image_id, (image, _) in server.images.items()}
    assert found["a.png"][0] == "007"
    assert dict(found["a.png"][1]) == {"file": "a.png", "title": "A", "year": 1999, "album": "summer"}
    assert dict(found["deep/er/b.png"][1]) == {"file": "deep/er/b.png", "year": 2024, "album": "summer"}


def test_import_says_where_another_picture_has_the_id(
    run: Any, server: SmallServer, folder: Path, tmp_path: Path
) -> None:
    server.store(b"another picture", "007")
    table = tmp_path / "table.csv"
    table.write_text("file,image_id\na.png,007\n")
    result = run("import", folder, "--metadata-from", table, "--json")
    assert "1 created, 1 kept" in result.stderr
    assert "other pictures have these ids; --on-exists replace" in result.stderr
    assert {"007": "kept"}.items() <= {
        row["image_id"]: row["outcome"] for row in map(json.loads, result.stdout.splitlines())
    }.items()
    assert server.images["007"][1] == b"another picture"


def test_import_gives_no_two_pictures_one_id(run: Any, server: SmallServer, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(folder / "deep/er/b.png", other / "a.png")
    table = tmp_path / "table.csv"
    table.write_text("file,image_id\na.png,007\n")
    result = run("import", folder, other, "--metadata-from", table)
    assert result.exit_code == 2
    said = " ".join(result.output.replace("│", " ").split())
    assert "gives both" in said and "the id 007" in said
    assert not server.images
    # Twice the same one is no two.
    assert run("import", folder, folder / "a.png", "--metadata-from", table).exit_code == 0


def test_import_says_which_keep_other_metadata(run: Any, server: SmallServer, folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "a.png", folder / "same.png")
    run("import", folder, "-m", "album=x", "-m", "year=2024.0")
    for asked, said in (
        ([], None),
        (["-m", "album=x", "-m", "year=2024"], None),
        (["-m", "album=y"], "3 keep other metadata"),
        (["-m", "place=here"], "3 keep other metadata"),
        (["-m", "album=y", "--on-exists", "replace"], None),
    ):
        result = run("import", folder, *asked)
        assert result.exit_code == 0
        if said is None:
            assert "other metadata" not in result.stderr
        else:
            assert f"{said}; --on-exists replace replaces it\n3 unchanged, 2 no pictures\n" in result.stderr
    # Of some only.
    table = tmp_path / "table.csv"
    table.write_text("file,album\ndeep/er/b.png,z\n")
    assert "1 keep other metadata; " in run("import", folder, "--metadata-from", table).stderr
    # Where another picture has the id, that is what is said.
    server.store(b"another picture", "007")
    table.write_text("file,image_id\na.png,007\n")
    assert "other metadata" not in run("import", folder, "-m", "album=y", "--metadata-from", table).stderr


def test_one_id_that_is_none_leaves_what_is_known_of_the_others(
    run: Any, server: SmallServer, folder: Path, tmp_path: Path
) -> None:
    server.store(b"another picture", "007")
    table = tmp_path / "table.csv"
    table.write_text("file,image_id\na.png,007\ndeep/er/b.png,no id\n")
    assert "1 kept" in run("import", folder, "--metadata-from", table).stderr
    assert server.images["007"][1] == b"another picture"


def test_import_says_whether_a_later_try_may_help(run: Any, server: SmallServer, folder: Path) -> None:
    server.held = {(folder / "a.png").read_bytes(): 10**6}
    result = run("import", folder, "--patience", "0")
    assert (result.exit_code, "1 created, 1 failed" in result.stderr) == (3, True)


def test_import_goes_on_where_the_server_cannot_be_asked(run: Any, server: SmallServer, folder: Path) -> None:
    server.failing("BatchGetImages", Failure(StatusCode.INVALID_ARGUMENT, "one of the ids is none"))
    assert "2 created" in run("import", folder).stderr


def test_wrong_usage_of_import_is_that(run: Any, folder: Path) -> None:
    assert run("import", folder, "--metadata", "foo").exit_code == 2


def test_import_in_several_streams(run: Any, server: SmallServer, tmp_path: Path) -> None:
    for number in range(300):
        Image.new("L", (number + 1, 1)).save(tmp_path / f"{number}.png")
    assert "300 created" in run("import", tmp_path, "--workers", "5").stderr
    assert len(server.asked("BulkInsert")) == 2
    assert len(server.images) == 300


def test_import_goes_on_in_the_streams_for_which_there_is_room(run: Any, server: SmallServer, tmp_path: Path) -> None:
    for number in range(300):
        Image.new("L", (number + 1, 1)).save(tmp_path / f"{number}.png")
    server.room = 1
    # The stream that is taken sends nothing before the other is refused, and that had taken pictures by then.
    server.gated = frozenset({"BulkInsert.batch"})
    opener = threading.Thread(target=lambda: (server.refused.wait(30), server.gate.set()))
    opener.start()
    result = run("import", tmp_path, "--workers", "2", "--patience", "0", "--json")
    opener.join()
    assert result.exit_code == 0, result.output
    assert server.refused.is_set()
    assert result.stderr.endswith("300 created\n")
    assert len(server.images) == 300
    assert len({json.loads(line)["path"] for line in result.stdout.splitlines()}) == 300


def test_import_gives_what_was_refused_to_a_worker_that_had_found_nothing_left(
    run: Any, server: SmallServer, folder: Path
) -> None:
    server.failing("BulkInsert.batch", Failure(StatusCode.RESOURCE_EXHAUSTED))
    result = run("import", folder, "--workers", "2", "--patience", "0")
    assert result.exit_code == 0, result.output
    assert "2 created" in result.stderr


def test_import_ends_where_there_is_room_for_no_stream(run: Any, server: SmallServer, folder: Path) -> None:
    server.room = 0
    result = run("import", folder, "--workers", "2", "--patience", "0")
    assert (result.exit_code, "2 without an answer" in result.stderr) == (3, True)
    assert "no room for one more stream" in result.stderr


def test_import_says_which_linked_folders_it_did_not_look_through(
    run: Any, server: SmallServer, folder: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Image.new("L", (5, 5)).save(elsewhere / "far.png")
    link = folder / "deep" / "link"
    link.symlink_to(elsewhere)
    (folder / ".hidden link").symlink_to(elsewhere)
    (folder / "file.png").symlink_to(elsewhere / "far.png")
    failed = tmp_path / "failed.jsonl"
    result = run("import", folder, "--failures", failed)
    assert result.exit_code == 0
    hint = "a symbolic link to a folder; name it to store what is in it"
    assert f"not looked through: {link}: {hint}\n" in result.stderr
    assert "3 created, 2 no pictures, 1 linked folders not looked through\n" in result.stderr
    assert [json.loads(line) for line in failed.read_text().splitlines()] == [
        {"path": str(link), "error": {"message": hint}}
    ]
    # Named, it is a folder as any.
    assert "1 unchanged\n" in run("import", link).stderr
    assert {image.metadata["file"] for image, _ in server.images.values()} == {"a.png", "deep/er/b.png", "file.png"}


def test_import_keeps_what_had_no_answer_and_what_is_no_picture(
    run: Any, server: SmallServer, folder: Path, tmp_path: Path
) -> None:
    failed = tmp_path / "failed.jsonl"
    assert run("import", folder / "notes.txt", "--failures", failed).exit_code == 1
    assert [json.loads(line)["error"]["message"] for line in failed.read_text().splitlines()] == ["no picture"]
    # Twice: grpc.aio may lose the first answer, and then the client asks again.
    server.failing("BulkInsert", *[Failure(StatusCode.PERMISSION_DENIED)] * 2)
    result = run("import", folder, "--failures", failed)
    assert result.exit_code == 1
    rows = [json.loads(line) for line in failed.read_text().splitlines()]
    assert sorted(Path(row["path"]).name for row in rows) == ["a.png", "b.png"]
    assert {row["error"]["code"] for row in rows} == {"PERMISSION_DENIED"}
    # It would be refused again.
    assert "running it again" not in result.stderr


def test_import_keeps_the_failures(run: Any, server: SmallServer, folder: Path, tmp_path: Path) -> None:
    (folder / "large.png").write_bytes(b"\xff\xd8\xff" + b"x" * 2_000_000)
    failed = tmp_path / "failed.jsonl"
    assert run("import", folder, "--failures", failed).exit_code == 1
    [row] = map(json.loads, failed.read_text().splitlines())
    assert Path(row["path"]).name == "large.png"
    assert row["error"]["reason"] == "IMAGE_TOO_LARGE"
    assert run("import", folder, "--failures", tmp_path / "no" / "folder").exit_code == 1


def test_import_of_what_is_no_picture_or_not_there(run: Any, folder: Path) -> None:
    result = run("import", folder / "notes.txt")
    assert result.exit_code == 1
    assert "no picture" in result.stderr
    result = run("import", folder / "nothing.png")
    assert (result.exit_code, "no such file" in result.stderr) == (1, True)


def test_import_lists_what_cannot_be_read_and_stores_the_others(run: Any, server: SmallServer, folder: Path) -> None:
    file, subfolder = out_of_reach(folder)
    result = run("import", folder, "--json")
    assert result.exit_code == 1
    for path in (file, subfolder):
        assert f"not stored: {path}: the picture cannot be read" in result.stderr
    assert "2 created, 2 failed, 2 no pictures" in result.stderr
    assert [json.loads(line)["path"] for line in result.stdout.splitlines() if "INVALID_IMAGE" in line] == [
        str(file),
        str(subfolder),
    ]
    assert sorted(image.metadata["file"] for image, _ in server.images.values()) == ["a.png", "deep/er/b.png"]


def test_import_says_how_far_it_is_on_a_terminal(run: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "storing" not in run("import", folder, "--collection", "pets").stderr
    monkeypatch.setenv("FORCE_COLOR", "1")  # to rich, that is a terminal
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", run("import", folder).stderr)
    *_, last = (line for line in shown.splitlines() if line.startswith("storing"))
    rate = re.fullmatch(r"storing ━+ 2/2 (\d+\.\d)/s \d:\d\d:\d\d \d:\d\d:\d\d", last.rstrip())
    assert rate is not None, last
    assert float(rate[1]) > 0


def test_bench_sends_regular_files_only(run: Any, server: SmallServer, folder: Path, tmp_path: Path) -> None:
    out_of_reach(folder)
    options = "--mix", "embed_image", "--seconds", "0.5", "--warmup", "0", "--pictures"
    result = run("bench", *options, folder, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["results"][0]["total"]["errors"] == {}
    (tmp_path / "none").mkdir()
    out_of_reach(tmp_path / "none")
    assert "there is no picture in" in run("bench", *options, tmp_path / "none").stderr


def test_search_prints_a_table_json_and_a_page(run: Any, server: SmallServer, tmp_path: Path, folder: Path) -> None:
    server.store(b"one", "id-1", metadata={"file": "cat\x1b[31m.jpg", "album": "[bold]summer"})
    result = run("search", "a cat", "-k", 3, "--filter", "width > 1")
    assert result.exit_code == 0, result.output
    assert "1.0000" in result.stdout
    assert "album=[bold]summer" in result.stdout
    assert "\x1b[31m" not in result.stdout
    [request] = server.asked("Search")
    assert [term.text for term in request.terms] == ["a cat"]
    assert (request.options.top_k, request.options.filter) == (3, "width > 1")

    result = run("search", "--image", folder / "a.png", "--json")
    hits = json.loads(result.stdout)["hits"]
    assert hits[0]["image"]["image_id"] == "id-1"
    assert hits[0]["image"]["created"] == "2024-05-06T07:08:09.123456Z"
    assert server.asked("Search")[1].terms[0].image_data == (folder / "a.png").read_bytes()

    page = tmp_path / "found.html"
    result = run("search", "a cat", "--json", "--html", page)
    assert "thumbnail" not in json.loads(result.stdout)["hits"][0]["image"]
    assert "data:image/jpeg;base64," in page.read_text(encoding="utf-8")
    result = run("search", "a <b>cat</b>", "-i", folder / "a.png", "--html", page)
    assert result.exit_code == 0, result.output
    assert "a &lt;b&gt;cat" in page.read_text(encoding="utf-8")
    assert len(server.asked("Search")[3].terms) == 2
    assert run("search").exit_code == 2


def test_search_pages_and_says_how_fresh(run: Any, server: SmallServer, tmp_path: Path) -> None:
    for name in "abcde":
        server.store(name.encode(), name)
    page = tmp_path / "found.html"
    result = run("search", "a cat", "-k", 2, "--offset", 2, "--consistency", "strong", "--html", page)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()[1:]
    assert [(line.split()[0], line.split()[-1]) for line in lines] == [("3", "c"), ("4", "d")]
    assert '<span class="rank">3</span>' in page.read_text(encoding="utf-8")
    run("list", "--consistency", "strong")
    run("get", "a", "--consistency", "bounded", "--output", tmp_path / "a")
    run("get", "a")
    [search] = server.asked("Search")
    asked = [server.asked("ListImages")[0], server.asked("DownloadImage")[0], *server.asked("GetImage")]
    assert [request.consistency for request in (search.options, *asked)] == [
        image_pb2.CONSISTENCY_STRONG,
        image_pb2.CONSISTENCY_STRONG,
        image_pb2.CONSISTENCY_BOUNDED,
        image_pb2.CONSISTENCY_BOUNDED,
        image_pb2.CONSISTENCY_UNSPECIFIED,
    ]
    assert run("search", "a cat", "--consistency", "maybe").exit_code == 2


def test_a_file_that_cannot_be_written_is_refused_before_the_work(
    run: Any, server: SmallServer, tmp_path: Path
) -> None:
    server.store(b"the bytes", "id-1")
    for arguments in (["search", "a cat", "--html"], ["get", "id-1", "--output"]):
        result = run(*arguments, tmp_path / "nope" / "x")
        assert (result.exit_code, result.stdout) == (1, "")
        folder = tmp_path / "nope"
        assert result.stderr == f"clipseek: cannot write {folder / 'x'}: there is no folder {folder}\n"
        result = run(*arguments, tmp_path)
        assert result.stderr == f"clipseek: {tmp_path} is a folder; name a file in it\n"
    (tmp_path / "link").symlink_to("nope/x")
    result = run("get", "id-1", "--output", tmp_path / "link")
    assert result.stderr == f"clipseek: cannot write {folder / 'x'}: there is no folder {folder}\n"
    os.mkfifo(tmp_path / "pipe")
    result = run("get", "id-1", "--output", tmp_path / "pipe")
    assert result.exit_code == 1
    assert result.stderr == f"clipseek: {tmp_path / 'pipe'} is a device, a pipe or a socket; name a regular file\n"
    assert server.calls == []


def test_tls_and_tokens_that_cannot_be(run: Any, server: SmallServer, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("two words")
    for arguments, said in (
        (["--ca", tmp_path / "no.pem"], "No such file"),
        (["--certificate", tmp_path / "token"], "a client's certificate and its key go together"),
        (["--token-file", tmp_path / "token"], "a token is made of ASCII characters without spaces"),
    ):
        result = run(*arguments, "info")
        assert (result.exit_code, said in result.stderr) == (2, True), result.stderr
    assert server.calls == []


def test_bytes_that_are_not_utf_8(run: Any, server: SmallServer, folder: Path, tmp_path: Path) -> None:
    latin = os.fsdecode("café".encode("latin-1"))
    for arguments in (["search", latin], ["list", "--filter", latin], ["delete", "a", latin], ["-c", latin, "info"]):
        result = run(*arguments)
        assert result.exit_code == 2
        assert result.stderr == "clipseek: this argument is not UTF-8 text: caf\N{REPLACEMENT CHARACTER}\n"
    assert server.calls == []
    # Files may be named so.
    (folder / "a.png").rename(folder / f"{latin}.png")
    result = run("import", folder, "--json")
    assert result.exit_code == 0, result.output
    names = {image.metadata["file"] for image, _ in server.images.values()}
    assert names == {"caf\N{REPLACEMENT CHARACTER}.png", "deep/er/b.png"}
    page = tmp_path / "found.html"
    assert run("search", "--image", folder / f"{latin}.png", "--html", page).exit_code == 0
    assert "caf\N{REPLACEMENT CHARACTER}.png" in page.read_text(encoding="utf-8")
    result = run("import", tmp_path / latin)
    assert (result.exit_code, "no such file" in result.stderr) == (1, True)


def test_get_and_download(run: Any, server: SmallServer, tmp_path: Path) -> None:
    server.store(b"the bytes", "id-1", metadata={"album": "summer"})
    result = run("get", "id-1", "-o", tmp_path / "out.bin")
    assert result.exit_code == 0
    assert "metadata.album" in result.stdout
    assert (tmp_path / "out.bin").read_bytes() == b"the bytes"
    result = run("get", "nothing")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "clipseek: no picture nothing\n"


def test_list(run: Any, server: SmallServer) -> None:
    for name in "abcde":
        server.store(name.encode(), name)
    rows = run("list", "--json").stdout.splitlines()
    assert [json.loads(row)["image_id"] for row in rows] == list("abcde")
    table = run("list", "--limit", 2).stdout.splitlines()
    assert [line.split()[0] for line in table] == ["id", "a", "b"]


def test_list_prints_what_has_come(capsys: pytest.CaptureFixture[str]) -> None:
    def rows() -> Iterator[tuple[object, ...]]:
        for number in range(300):
            yield f"id-{number}", number, {"album": "a\x1b[31m\nb"}
        printed = capsys.readouterr().out.splitlines()
        assert len(printed) == 301
        assert printed[1] == "id-0        0  album=a\N{REPLACEMENT CHARACTER}[31m b"
        # Wider than the first hundred.
        assert printed[-1] == "id-299     299  album=a\N{REPLACEMENT CHARACTER}[31m b"
        yield "id-300", 10**6, {}

    Output(json=False).listing(("id", "number", "metadata"), rows(), right=frozenset({"number"}))
    assert capsys.readouterr().out.splitlines() == ["id-300  1000000"]


def test_list_breaks_no_line_however_long_it_is(run: Any, server: SmallServer) -> None:
    long = "word " * 200
    for name in "abc":
        server.store(name.encode(), name, metadata={"text": long})
    rows = run("list").stdout.splitlines()
    assert [row.split()[:5] for row in rows[1:]] == [[name, "8x6", "image/png", "1", "text=word"] for name in "abc"]
    assert all(row.endswith(f"text={long.rstrip()}") for row in rows[1:])


def test_a_question_may_be_interrupted(server: SmallServer) -> None:
    server.store(b"a", "a")
    terminal, its_end = pty.openpty()
    command = [sys.executable, "-m", "clipseek", "--server", server.address, "delete", "a"]
    with subprocess.Popen(command, stdin=its_end, stdout=its_end, stderr=its_end) as process:
        said = b""
        while b"[y/N]" not in said:
            said += os.read(terminal, 1000)
        process.send_signal(signal.SIGINT)
        # One that comes before the terminal is read from is seen only after that.
        os.write(terminal, b"\n")
        assert process.wait(30) == 130
    os.close(its_end)
    os.close(terminal)
    assert "a" in server.images


def test_delete_asks_first(run: Any, server: SmallServer) -> None:
    for name in "abc":
        server.store(name.encode(), name)
    assert run("delete", "a", input="n\n").exit_code == 1
    assert len(server.images) == 3
    assert run("delete", "a", input="y\n").exit_code == 0
    result = run("delete", "b", "z", "--yes", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"count": 1, "missing": ["z"]}
    assert list(server.images) == ["c"]


def test_drop_asks_first(run: Any, server: SmallServer) -> None:
    server.store(b"one", "a")
    refused = run("drop", "pets", input="n\n")
    assert (refused.exit_code, "pets and its 1 pictures" in refused.stderr) == (1, True)
    assert server.asked("DeleteCollection") == []
    assert "1 deleted" in run("drop", "pets", input="y\n").stderr
    assert json.loads(run("drop", "pets", "--yes", "--json").stdout) == {"name": "pets", "deleted_count": 1}
    assert [request.collection for request in server.asked("DeleteCollection")] == ["pets", "pets"]


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("DownloadImage", ("get", "id-1", "--output", "out.bin")),
        ("RebuildCollection", ("rebuild", "pets")),
        ("CheckCollection", ("check", "pets")),
    ],
)
def test_a_timeout_holds_for_what_may_take_hours_too(
    run: Any, server: SmallServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, method: str, arguments: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    server.store(b"the bytes", "id-1")
    server.gated = frozenset({method})
    try:
        assert run(*arguments, "--timeout", 0.5).exit_code == 3
    finally:
        server.gate.set()
    assert not (tmp_path / "out.bin").exists()


def test_collections_rebuild_check_and_info(run: Any, server: SmallServer) -> None:
    assert [line.split()[0] for line in run("collections").stdout.splitlines()] == ["name", "a", "b"]
    assert json.loads(run("collections", "--json").stdout)[0]["generations"][0]["live"]
    assert "done: 1 of 2" in run("rebuild", "pets").stderr
    assert "done: 1 of 2" in run("rebuild", "pets", "--model", "small").stderr
    assert [request.model for request in server.asked("RebuildCollection")] == ["", "small"]
    result = run("check", "pets")
    assert result.exit_code == 1
    assert result.stdout.split() == ["missing_bytes", "x", "gone"]
    assert result.stdout.count("\n") == 1
    info = run("info")
    assert "small, fp32, 2 dimensions" in info.stdout
    assert json.loads(run("info", "--json").stdout)["server"]["limits"]["max_batch_ids"] == 4


def test_errors_are_one_line_and_say_whether_a_later_try_helps(
    run: Any, server: SmallServer, unused_tcp_port: int
) -> None:
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(500)
    server.failing("Search", Failure(StatusCode.RESOURCE_EXHAUSTED, "too much waits", (retry,)))
    result = run("search", "a cat")
    assert (result.exit_code, result.stderr) == (3, "clipseek: too much waits; try again in 0.5 s\n")
    result = run("info", "--server", f"127.0.0.1:{unused_tcp_port}")
    assert result.exit_code == 3
    assert "clipseek-server serve" in result.stderr
    assert result.stderr.count("\n") == 1
    assert run("info", "--server", "http://x").exit_code == 2


def test_shared_options_stand_before_or_after_the_command(run: Any, server: SmallServer, unused_tcp_port: int) -> None:
    nowhere = f"127.0.0.1:{unused_tcp_port}"
    run("--collection", "one", "list")
    run("--collection", "one", "list", "--collection", "two")
    assert [request.collection for request in server.asked("ListImages")] == ["one", "two"]
    assert run("--server", nowhere, "info").exit_code == 3
    assert run("--server", nowhere, "info", "--server", server.address).exit_code == 0


def test_version(run: Any, server: SmallServer) -> None:
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, version("clipseek") + "\n")
    assert server.calls == []


def test_help_teaches_by_example() -> None:
    result = subprocess.run([sys.executable, "-m", "clipseek", "search", "--help"], capture_output=True, text=True)
    assert result.returncode == 0
    assert 'clipseek search "a cat asleep on a sofa"' in result.stdout
    assert "--server" in result.stdout


@pytest.mark.parametrize("width", [80, 120])
def test_help_keeps_examples_apart_and_breaks_lines_where_the_terminal_ends(
    run: Any, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    commands = [command.name or command.callback.__name__ for command in app.registered_commands]
    assert len(commands) == 12
    for command in commands:
        prose = run(command, "--help").stdout.partition("╭")[0].splitlines()
        examples = [line for line in prose if line.lstrip().startswith("clipseek")]
        assert examples
        # What stands around the help's text is one column; a long one goes on in the next line.
        assert all(re.match(r" {3}clipseek ", line) for line in examples), prose
        for paragraph in "\n".join(line[1:].rstrip() for line in prose).strip().split("\n\n"):
            for line, following in pairwise([] if paragraph.startswith(" ") else paragraph.splitlines()):
                # Broken because the next word had no place there, and for no other reason.
                assert len(line) + 1 + len(following.split()[0]) > width - 2, paragraph
    prose = run("--help").stdout.partition("╭")[0].splitlines()
    codes = [line.split()[0] for line in prose[prose.index(" Exit codes:".ljust(width)) :] if line.strip()]
    assert [code for code in codes if code.isdecimal()] == ["0", "1", "2", "3", "130"]
    assert sum("  clipseek " in line for line in prose) == 3


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_and_options(shell: str) -> None:
    def completions(line: str) -> str:
        environment = {
            **os.environ,
            "_CLIPSEEK_COMPLETE": f"complete_{shell}",
            "COMP_WORDS": line,
            "COMP_CWORD": str(line.count(" ")),
            "_TYPER_COMPLETE_ARGS": line,
            "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        }
        command = Path(sys.executable).with_name("clipseek")
        return subprocess.run([command], env=environment, capture_output=True, text=True, check=True).stdout

    assert {"search", "import", "bench"} <= set(re.findall(r"[a-z]+", completions("clipseek ")))
    assert "--image" in completions("clipseek search --im")
