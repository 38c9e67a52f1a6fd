import asyncio
import contextlib
import errno
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clipseek_server.errors import ImageStoreUnavailable, StartupError
from clipseek_server.images.blobs import drop_mark_key, new_blob_key, thumbnail_key
from clipseek_server.images.folder import STALE_SECONDS, FolderStore

SHA256 = hashlib.sha256(b"").hexdigest()
IMAGE_IDS = st.from_regex(r"[A-Za-z0-9._:-]{1,128}", fullmatch=True)


@pytest.fixture
async def store(tmp_path):
    store = FolderStore(tmp_path / "blobs")
    yield store
    await store.close()


async def keys(store, prefix=""):
    return {blob.key async for blob in store.list(prefix)}


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


async def test_chunks_go_on_when_the_blob_is_deleted_meanwhile(store):
    await store.put("u1/a/b", b"12345678")
    chunks = store.chunks("u1/a/b", 4)
    assert await anext(chunks) == b"1234"
    await store.delete(["u1/a/b"])
    assert await anext(chunks) == b"5678"


async def test_the_age_is_that_of_the_file(store):
    await store.put("u1/a/1", b"1")
    (path,) = files(store._root)
    os.utime(path, (time.time() - 500, time.time() - 500))
    (blob,) = [blob async for blob in store.list()]
    assert 500 <= blob.age < 510


async def test_what_is_not_ours_is_not_listed(store):
    await store.put("u1/a/1", b"1")
    (path,) = files(store._root)
    for stranger in ("notes.txt", "u1/notes.txt", f"u1/{path.parent.name}/notes.txt", ".DS_Store", "a=b/00/x"):
        (store._root / stranger).parent.mkdir(parents=True, exist_ok=True)
        (store._root / stranger).write_bytes(b"?")
    with contextlib.suppress(OSError):
        (path.parent / os.fsdecode(b"\xff\xfe")).write_bytes(b"?")
    assert await keys(store) == {"u1/a/1"}


async def test_a_write_that_is_refused_leaves_no_file(store):
    await store.put("u1/a/b", b"first")
    with pytest.raises(FileExistsError):
        await store.put("u1/a/b", b"second")
    assert len(files(store._root)) == 1


async def test_delete_removes_bytes_and_empty_folders(store):
    for key in ("u1/a/1", "u1/b/2", "u2/a/3"):
        await store.put(key, b"x")
    await store.delete(["u1/a/1", "u1/never/was", "u3/never/was"])
    assert await keys(store) == {"u1/b/2", "u2/a/3"}
    await store.delete(["u1/b/2"])
    assert sorted(path.name for path in store._root.iterdir()) == [".incoming", "u2"]
    await store.delete([])
    await store.put("u1/a/again", b"y")
    assert await store.get("u1/a/again") == b"y"


async def test_writes_survive_deletes_that_empty_their_folder(store):
    async def write_and_delete(n):
        key = f"u1/{n}/x"
        await store.put(key, b"x")
        assert await store.get(key) == b"x"
        await store.delete([key])

    await asyncio.gather(*(write_and_delete(n) for n in range(300)))
    assert files(store._root) == []


async def test_a_folder_that_was_taken_away_is_made_again(store):
    await store.put("u1/a/1", b"x")
    (path,) = files(store._root)
    path.unlink()
    path.parent.rmdir()
    await store.put("u1/a/1", b"x")
    assert await store.get("u1/a/1") == b"x"


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return FolderStore(tmp_path_factory.mktemp("paths"))


@given(image_id=IMAGE_IDS)
@example(image_id="..")
@example(image_id=":" * 128)
def test_every_image_id_has_a_file_of_its_own(paths, image_id):
    key = thumbnail_key(new_blob_key("9f8e7d", image_id, SHA256))
    path = paths._path(key)
    assert len(path.name.encode()) <= 255
    assert paths._key(path) == key


@given(key=st.text(max_size=60) | st.from_regex(r"[./:=,%a~\\\0-]{1,12}/[./:=,%a~\\\0-]{1,12}", fullmatch=True))
@example(key="../../etc/passwd")
@example(key="/etc/passwd")
@example(key=".incoming/x")
@example(key="u/../../x")
@example(key="a=b/c")
@example(key="u/%2E")
def test_no_key_leads_out_of_the_folder(paths, key):
    try:
        path = paths._path(key)
    except ValueError:
        return
    inside = path.relative_to(paths._root)
    assert len(inside.parts) == 3
    assert not any(part.startswith(".") or "/" in part or "\0" in part for part in inside.parts)
    assert paths._key(path) == key


async def test_a_key_too_long_for_a_file_name_is_refused(store):
    with pytest.raises(ValueError, match="too long"):
        await store.put(f"u/{'é' * 100}", b"x")


async def test_old_remains_are_removed_at_the_start(tmp_path):
    store = FolderStore(tmp_path)
    await store.close()
    old, young = tmp_path / ".incoming" / "old", tmp_path / ".incoming" / "young"
    for path in (old, young):
        path.write_bytes(b"half a pict")
    long_ago = time.time() - STALE_SECONDS - 10
    os.utime(old, (long_ago, long_ago))
    store = FolderStore(tmp_path)
    assert (old.exists(), young.exists()) == (False, True)
    assert await keys(store) == set()
    await store.close()


def test_a_folder_that_cannot_be_made_stops_the_start(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StartupError, match="cannot be used for pictures"):
        FolderStore(tmp_path / "file")


async def test_what_is_synced_in_which_order(store, monkeypatch):
    """A power cut must find the bytes before the name, and every new folder's name too."""
    events = []
    fsync, rename = os.fsync, type(store._root).rename

    def spy_fsync(descriptor):
        events.append(("sync", str(Path(f"/proc/self/fd/{descriptor}").readlink())))
        fsync(descriptor)

    def spy_rename(source, target):
        events.append(("rename", str(target)))
        return rename(source, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(type(store._root), "rename", spy_rename)
    await store.put("u1/a/1", b"x")
    (path,) = files(store._root)
    kinds = [(kind, "incoming" if ".incoming" in where else where) for kind, where in events]
    assert kinds == [
        ("sync", "incoming"),
        ("sync", str(store._root)),
        ("sync", str(store._root / "u1")),
        ("rename", str(path)),
        ("sync", str(path.parent)),
    ]


KILLED = """
import asyncio, sys, threading
from pathlib import Path
from clipseek_server.images.folder import FolderStore

async def main():
    store = FolderStore(Path(sys.argv[1]))
    async def write(worker):
        n = 0
        while True:
            key = f"u{worker % 2}/{worker}-{n}/x"
            await store.put(key, f"{key};".encode() * 20_000)
            print(key, flush=True)
            n += 1
    await asyncio.gather(*(write(worker) for worker in range(6)))

asyncio.run(main())
"""


def write_until_killed(folder):
    """The keys that a server acknowledged before it was killed in the middle of six writes."""
    with subprocess.Popen([sys.executable, "-c", KILLED, str(folder)], stdout=subprocess.PIPE, text=True) as process:
        acknowledged = [process.stdout.readline().strip() for _ in range(40)]
        process.send_signal(signal.SIGKILL)
        # The last line may be cut off.
        acknowledged += process.stdout.read().split("\n")[:-1]
    return set(acknowledged)


@pytest.mark.parametrize("attempt", range(3))
async def test_kill_9_leaves_whole_blobs_and_all_that_were_acknowledged(tmp_path, attempt):
    acknowledged = write_until_killed(tmp_path)
    store = FolderStore(tmp_path)
    found = await keys(store)
    assert acknowledged <= found
    for key in found:
        assert await store.get(key) == f"{key};".encode() * 20_000
    await store.close()


def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def tiny_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if mount.returncode:
        pytest.skip(f"no file system can be mounted here: {mount.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


async def test_a_full_disk_is_said_and_leaves_nothing_half_written(tiny_disk):
    store = FolderStore(tiny_disk / "blobs", reserved_bytes=0)
    written = []
    with pytest.raises(ImageStoreUnavailable, match="is full; free space") as caught:
        for n in range(100):
            await store.put(f"u1/{n}/x", bytes([n]) * 30_000)
            written.append(f"u1/{n}/x")
    assert str(tiny_disk) not in caught.value.message
    assert written
    assert await keys(store) == set(written)
    assert files(store._incoming) == []
    for key in written:
        assert len(await store.get(key)) == 30_000
    await store.delete(written[:1])
    await store.put("u1/again/x", b"x" * 20_000)
    await store.close()


async def test_some_room_is_left_to_others(tiny_disk):
    store = FolderStore(tiny_disk / "blobs", reserved_bytes=100_000)
    await store.put("u1/a/1", b"x" * 30_000)
    with pytest.raises(ImageStoreUnavailable, match="is full"):
        await store.put("u1/a/2", b"x" * 150_000)
    await store.put("u1/a/3", b"x" * 30_000)
    await store.close()


async def test_a_drop_is_marked_on_a_full_disk(tiny_disk):
    """Dropping a collection makes room."""
    store = FolderStore(tiny_disk / "blobs", reserved_bytes=10**6)
    with pytest.raises(ImageStoreUnavailable, match="is full"):
        await store.put("u1/a/1", b"x")
    await store.put(drop_mark_key("u1"), b"")
    assert await keys(store, "u1/") == {drop_mark_key("u1")}
    await store.close()


async def test_a_read_only_disk_is_said(tiny_disk):
    store = FolderStore(tiny_disk / "blobs", reserved_bytes=0)
    await store.put("u1/a/1", b"x")
    mount("-o", "remount,ro", str(tiny_disk))
    with pytest.raises(ImageStoreUnavailable, match="check its permissions"):
        await store.put("u1/a/2", b"x")
    assert await store.get("u1/a/1") == b"x"
    await store.close()


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EMFILE])
async def test_every_other_failure_of_the_disk_is_unavailable_without_paths(store, monkeypatch, code):
    def fail(_):
        raise OSError(code, os.strerror(code), "/a/secret/path")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ImageStoreUnavailable) as caught:
        await store.put("u1/a/1", b"x")
    assert os.strerror(code) in caught.value.message
    assert "secret" not in caught.value.message
    assert await keys(store) == set()
