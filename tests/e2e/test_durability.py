"""Nothing that was acknowledged is lost: not by kill -9, not by SIGTERM, not by a full disk."""

import itertools
import os
import resource
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from grpc import StatusCode

from clipseek import Client, ClipseekError, NotFoundError, UnavailableError
from pictures import large_picture, picture
from servers import ServerProcess
from writers import Writers, holds, nothing

MIB = 1024 * 1024

ROUNDS = int(os.environ.get("CLIPSEEK_TEST_ROUNDS", "2"))


def test_kill_in_the_middle_of_writes_and_births(bundle, tmp_path):
    """Whatever the moment, acknowledged writes hold, and a collection is there whole or not at all."""
    states, births = nothing(24), Births({}, {})
    writers = None
    for round_number in range(ROUNDS):
        # Every other round Milvus Lite flushes and compacts all the time, so that it is killed in the middle of that.
        environment = {"MILVUS_LITE_MEMTABLE_MEMORY_LIMIT_BYTES": "30000"} if round_number % 2 else {}
        server = ServerProcess(tmp_path / "data", bundle, **environment)
        with server:
            if writers is not None:
                with Client(server.address) as client:
                    states = holds(client, "pets", writers.acknowledged, writers.attempted)
                    births.check(client)
            with Writers(server.address, "pets", states, seed=round_number) as writers:
                midwife = births.start(server.address, round_number)
                writers.wait_for(40 + 50 * round_number % 170)
                server.kill()
                midwife.join()
    # CANCELLED as below.
    met = {writer.error.code for writer in writers.writers if writer.error}
    assert met <= {StatusCode.UNAVAILABLE, StatusCode.CANCELLED}
    assert writers is not None
    with server, Client(server.address) as client:
        holds(client, "pets", writers.acknowledged, writers.attempted)
        births.check(client)
        assert client.insert(picture(1), image_id="one-more", collection="pets").outcome == "created"


@dataclass
class Births:
    """Collections that came into being with their first picture: name and picture, acknowledged or not."""

    acknowledged: dict[str, bytes]
    attempted: dict[str, bytes]

    def start(self, address: str, round_number: int) -> threading.Thread:
        """Make collections until a call fails."""
        thread = threading.Thread(target=self._run, args=(address, round_number))
        thread.start()
        return thread

    def _run(self, address: str, round_number: int) -> None:
        with Client(address) as client:
            for number in itertools.count():
                name = f"c_{round_number}_{number}"
                self.attempted[name] = picture(number)
                try:
                    client.insert(picture(number), image_id="first", collection=name)
                except ClipseekError:
                    return
                self.acknowledged[name] = self.attempted.pop(name)

    def check(self, client: Client) -> None:
        for name, data in self.acknowledged.items():
            assert client.download("first", collection=name) == data
            assert len(client.search_text("a", collection=name)) == 1
        for name, data in self.attempted.items():
            try:
                images = list(client.list(collection=name))
            except NotFoundError:
                images = []
            assert len(images) <= 1
            inserted = client.insert(data, image_id="first", collection=name)
            assert inserted.outcome == ("unchanged" if images else "created")
            assert client.download("first", collection=name) == data
        self.acknowledged |= self.attempted
        self.attempted.clear()
        assert {each.name for each in client.collections()} == {*self.acknowledged, "pets"}


def test_sigterm_finishes_what_was_begun_and_exits_with_0(bundle, tmp_path):
    # A drain that waited for its whole timeout would not end within the time that stop() waits.
    server = ServerProcess(tmp_path / "data", bundle, CLIPSEEK_DRAIN_TIMEOUT="600")
    with server, Writers(server.address, "pets", nothing(24), seed=0) as writers:
        writers.wait_for(60)
        assert server.stop() == 0
    # CANCELLED is gRPC's own answer to a call that arrives in the moment in which it stops.
    met = {writer.error.code for writer in writers.writers if writer.error}
    assert met <= {StatusCode.UNAVAILABLE, StatusCode.CANCELLED}
    with server, Client(server.address) as client:
        holds(client, "pets", writers.acknowledged, writers.attempted)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of 160 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path, *, leaving: int) -> Path:
    """A file that takes what is free."""
    filler = disk / f"filler-{leaving}"
    filler.write_bytes(bytes(shutil.disk_usage(disk).free - leaving))
    return filler


def test_a_full_disk_refuses_writes_and_loses_nothing(bundle, small_disk):
    data = [large_picture(MIB) + bytes([number]) for number in range(100)]
    server = ServerProcess(small_disk / "data", bundle)  # its log is on that disk too
    with server, Client(server.address) as client:
        client.insert(picture(1), image_id="small", metadata={"n": 1}, collection="pets")
        client.insert(picture(2), image_id="gone", collection="pets")
        stored = 0
        with pytest.raises(UnavailableError, match="full") as caught:
            for stored, each in enumerate(data):
                client.insert(each, image_id=f"p{stored}", collection="pets")
        assert (caught.value.reason, bool(caught.value.retry_after)) == ("IMAGE_STORE_UNAVAILABLE", True)
        assert stored > 0
        # No room for pictures, but room to delete some; and trying again does not eat it up.
        free = shutil.disk_usage(small_disk).free
        for _ in range(20):
            with pytest.raises(UnavailableError, match="full"):
                client.insert(data[stored], image_id="p", collection="pets")
        assert shutil.disk_usage(small_disk).free > free - MIB
        assert client.update("small", {"n": 2}, collection="pets").metadata == {"n": 2}
        assert client.delete("gone", collection="pets").count == 1

        def check(client: Client) -> None:
            assert client.get("small", collection="pets").metadata == {"n": 2}
            assert client.download("small", collection="pets") == picture(1)
            for number in range(stored):
                assert client.download(f"p{number}", collection="pets") == data[number]
            assert client.get_collection("pets").image_count == stored + 1

        fillers = [fill(small_disk, leaving=32 * MIB)]
        with pytest.raises(UnavailableError, match="full") as caught:
            client.update("small", {"n": 3}, collection="pets")
        assert caught.value.reason == "INDEX_UNAVAILABLE"
        with pytest.raises(UnavailableError, match="full"):
            client.delete("small", collection="pets")
        with pytest.raises(UnavailableError, match="full"):
            client.create_collection("new")
        with pytest.raises(UnavailableError, match="full"):
            list(client.rebuild("pets"))
        fillers.append(fill(small_disk, leaving=0))
        with pytest.raises(UnavailableError, match="full"):
            client.update("small", {"n": 3}, collection="pets")
        check(client)
        server.kill()
    fillers[1].unlink()
    with server, Client(server.address) as client:
        check(client)
        fillers[0].unlink()
        client.delete("p0", collection="pets")
        subprocess.run(["mount", "-o", "remount,size=320m", small_disk], check=True)
        for image_id in ("p0", "room"):
            assert client.insert(data[0], image_id=image_id, collection="pets").outcome == "created"
        client.delete("room", collection="pets")
        assert server.stop() == 0
    with server, Client(server.address) as client:
        check(client)


def test_a_disk_that_fails_under_milvus_lite(bundle, tmp_path):
    """Files cannot grow any more: its log ends in half a write, its flushes fail."""
    limits = {
        "MAX_METADATA_BYTES": "32768",
        "MAX_TOP_K": "100",
        "MAX_TOP_K_WITH_MASK": "50",
        "MAX_PAGE_SIZE": "100",
        "MAX_BATCH_IDS": "100",
    }
    environment = {f"CLIPSEEK_{name}": value for name, value in limits.items()}
    server = ServerProcess(tmp_path / "data", bundle, **environment)
    with server, Client(server.address) as client:
        for name in ("pets", "other"):
            client.insert(picture(1), image_id="a", metadata={"number": -1}, collection=name)
        server.limit_files(MIB)
        last, failures = -1, 0
        for number in range(800):
            try:
                client.update("a", {"number": number, "padding": "x" * 32_000}, collection="pets")
                last = number
            except UnavailableError as error:
                assert error.reason == "INDEX_UNAVAILABLE"
                assert error.retry_after
                failures += 1
            # An update that failed may still have been written, whole.
            found = client.get("a", collection="pets").metadata["number"]
            assert found in (last, number)
            last = found
            assert client.search_text("a", collection="pets")[0].image.metadata["number"] == found
            if failures == 5:
                break
        assert failures
        assert client.get("a", collection="other").metadata == {"number": -1}
        server.limit_files(resource.RLIM_INFINITY)
        assert client.update("a", {"number": 1000}, collection="pets").metadata == {"number": 1000}
        server.kill()
    with server, Client(server.address) as client:
        assert client.get("a", collection="pets").metadata == {"number": 1000}
        assert client.get("a", collection="other").metadata == {"number": -1}
        assert client.download("a", collection="pets") == picture(1)
