"""What every image store does alike: a folder, and a bucket of a real S3-compatible server."""

import asyncio
import hashlib
import time
import uuid

import pytest

import object_store_server
from clipseek_server.errors import ImageStoreUnavailable
from clipseek_server.images.blobs import drop_mark_key, new_blob_key, split_blob_key, thumbnail_key
from clipseek_server.images.folder import FolderStore
from clipseek_server.images.objects import ObjectStore

SHA256 = hashlib.sha256(b"").hexdigest()
ODD_IDS = [
    ".",
    "..",
    "...",
    ":",
    ":" * 128,
    "." * 128,
    "-",
    "a:b.c-d_e",
    ".hidden",
    "x" * 128,
    "thumbnail",
    ".thumbnail",
]


@pytest.fixture(scope="module")
def bucket():
    with object_store_server.running() as server:
        yield server


@pytest.fixture(params=["folder", "bucket"])
async def store(request, tmp_path, monkeypatch):
    if request.param == "folder":
        store = FolderStore(tmp_path / "blobs")
    else:
        for name, value in object_store_server.CREDENTIALS.items():
            monkeypatch.setenv(name, value)
        endpoint = request.getfixturevalue("bucket").endpoint
        store = ObjectStore(f"s3://{object_store_server.BUCKET}/{uuid.uuid4().hex}/images", endpoint=endpoint)
    yield store
    await store.close()


async def keys(store, prefix=""):
    return {blob.key async for blob in store.list(prefix)}


async def test_bytes_come_back(store):
    key = new_blob_key("u1", "cat", SHA256)
    assert await store.get(key) is None
    assert await store.size(key) is None
    await store.put(key, b"some bytes")
    assert await store.get(key) == b"some bytes"
    assert await store.size(key) is not None
    assert [chunk async for chunk in store.chunks(key, 4)] == [b"some", b" byt", b"es"]


async def test_empty_bytes_are_bytes(store):
    await store.put("u1/a/empty", b"")
    assert await store.get("u1/a/empty") == b""
    assert await store.size("u1/a/empty") == 0
    assert [chunk async for chunk in store.chunks("u1/a/empty", 4)] == []


async def test_chunks_of_nothing_are_unavailable(store):
    with pytest.raises(ImageStoreUnavailable, match="lacks the bytes"):
        await anext(store.chunks("u1/a/b", 4))


async def test_a_key_is_written_once(store):
    await store.put("u1/a/b", b"first")
    for data in (b"second", b"first"):
        with pytest.raises(FileExistsError):
            await store.put("u1/a/b", data)
    assert await store.get("u1/a/b") == b"first"
    assert await keys(store) == {"u1/a/b"}


async def test_racing_writes_of_one_key_leave_one_of_them(store):
    outcomes = await asyncio.gather(*(store.put("u1/a/b", bytes([n]) * 1000) for n in range(8)), return_exceptions=True)
    (winner,) = (n for n, outcome in enumerate(outcomes) if outcome is None)
    assert await store.get("u1/a/b") == bytes([winner]) * 1000


async def test_listing(store):
    before = time.time()
    await store.put("u1/a/1", b"1")
    await store.put("u1/b/22", b"22")
    await store.put("u10/a/333", b"333")
    blobs = {blob.key: blob async for blob in store.list()}
    assert {key: blob.size for key, blob in blobs.items()} == {"u1/a/1": 1, "u1/b/22": 2, "u10/a/333": 3}
    assert all(0 <= blob.age <= time.time() - before + 1 for blob in blobs.values())
    assert await keys(store, "u1/") == {"u1/a/1", "u1/b/22"}
    assert await keys(store, "u1/a") == {"u1/a/1"}
    assert await keys(store, "u1") == {"u1/a/1", "u1/b/22", "u10/a/333"}
    assert await keys(store, "u2/") == set()


@pytest.mark.parametrize("image_id", ODD_IDS)
async def test_odd_image_ids(store, image_id):
    key = new_blob_key("u1", image_id, SHA256)
    await store.put(key, b"picture")
    await store.put(thumbnail_key(key), b"small")
    assert await store.get(key) == b"picture"
    assert await keys(store, f"u1/{image_id}/") == {key, thumbnail_key(key)}
    assert split_blob_key(thumbnail_key(key)) == ("u1", image_id, key)
    await store.delete([key, thumbnail_key(key)])
    assert await keys(store) == set()


async def test_a_drop_mark_is_of_no_image(store):
    mark, key = drop_mark_key("u1"), new_blob_key("u1", "dropped", SHA256)
    for each in (mark, key):
        await store.put(each, b"")
    assert await store.size(mark) is not None
    assert await keys(store, "u1/") == {mark, key}
    assert split_blob_key(mark) == ("u1", "", mark)
    assert split_blob_key(key) == ("u1", "dropped", key)
    await store.delete([mark])
    assert await keys(store) == {key}


@pytest.mark.parametrize("key", ["", "u", "u/", "/x"])
async def test_what_is_no_key_is_refused(store, key):
    with pytest.raises(ValueError, match="key"):
        await store.put(key, b"x")


async def test_large_pictures_come_in_pieces(store):
    data = bytes(range(256)) * 4096 * 3 + b"end"
    await store.put("u1/a/b", data)
    pieces = [chunk async for chunk in store.chunks("u1/a/b", 1024 * 1024)]
    assert [len(piece) for piece in pieces] == [1024 * 1024] * 3 + [3]
    assert b"".join(pieces) == data
    assert await store.size("u1/a/b") == len(data)


async def test_delete(store):
    for key in ("u1/a/1", "u1/b/2", "u2/a/3"):
        await store.put(key, b"x")
    await store.delete(["u1/a/1", "u1/never/was", "u3/never/was"])
    assert await keys(store) == {"u1/b/2", "u2/a/3"}
    await store.delete(["u1/b/2"])
    await store.delete([])
    await store.put("u1/a/1", b"y")
    assert await store.get("u1/a/1") == b"y"


async def test_many_are_listed_and_deleted(store):
    written = {f"u1/{number}/x" for number in range(1100)}
    await asyncio.gather(*(store.put(key, b"x") for key in written))
    assert await keys(store) == written
    await store.delete(sorted(written))
    assert await keys(store) == set()
