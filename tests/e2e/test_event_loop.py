"""Nothing blocks the event loop: no file is touched on it, and no step of it computes for long."""

import asyncio
import gc
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from clipseek import Client, InsertItem
from clipseek_server.config import Settings
from pictures import large_picture, picture
from servers import ServerThread

BLOCKING = ("open", "os.", "shutil.", "time.sleep", "subprocess.", "socket.connect", "socket.getaddrinfo", "fcntl.")
"""Audit events of what may wait for something: see Python's table of audit events."""

MOST_CPU_SECONDS = 0.1
"""Of one step. In CPU time of its thread: what else the machine does is no matter."""


class Probe:
    """Watches one thread."""

    def __init__(self) -> None:
        self.thread: int | None = None
        self.blocked: Counter[str] = Counter()
        self.longest = (0.0, "")

    def audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if threading.get_ident() == self.thread and event.startswith(BLOCKING):
            self.blocked[f"{event} {arguments[:1]}"] += 1


@pytest.fixture(scope="module")
def probe() -> Iterator[Probe]:
    probe = Probe()
    sys.addaudithook(probe.audit)  # for ever: Python knows no way to remove one
    run = asyncio.events.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        if threading.get_ident() != probe.thread:
            return run(handle)
        begin = time.thread_time()
        run(handle)
        probe.longest = max(probe.longest, (time.thread_time() - begin, repr(handle)))
        return None

    # A whole collection takes longer in this process, with torch in it, than in a server's.
    gc.collect()
    gc.freeze()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio.events.Handle, "_run", timed)
        yield probe
    probe.thread = None
    gc.unfreeze()


def test_nothing_blocks_the_event_loop(probe, bundle, tmp_path):
    settings = Settings(listen="127.0.0.1:0", bundles=[bundle], data_dir=tmp_path)
    with ServerThread(settings) as server, Client(server.address) as client:
        client.insert(picture(0), image_id="first", collection="pets")  # the collection is made, modules are imported
        client.search_text("a", collection="pets")

        async def watch() -> None:
            probe.thread = threading.get_ident()

        server.run(watch())
        items = [InsertItem(picture(number), f"p{number:04}", {"n": number}) for number in range(300)]
        assert not [result.error for result in client.insert_stream(items, collection="pets") if result.error]
        large = client.insert(large_picture(5_000_000), collection="pets").image_id
        assert client.insert(large_picture(5_000_000), collection="pets").outcome == "unchanged"
        for condition in ("", "metadata.n < 500 and not metadata.n in [3, 4]"):
            client.search_text("a cat " * 500, collection="pets", top_k=300, filter=condition)
            client.search_image(large_picture(5_000_000), collection="pets", filter=condition)
            assert len(list(client.list(collection="pets", filter=condition, page_size=300))) in (298, 302)
        client.embed_texts(["a word " * number for number in range(128)])
        client.get_many([item.image_id for item in items if item.image_id], collection="pets")
        client.search_text("a", collection="pets", top_k=75, with_thumbnails=True, with_embeddings=True)
        assert len(client.download(large, collection="pets")) == len(large_picture(5_000_000))
        client.update("p0001", {"n": -1}, collection="pets")
        assert list(client.check("pets", verify_bytes=True))[-1].images_checked == 302
        assert [progress.phase for progress in client.rebuild("pets")][-1] == "done"
        client.delete([f"p{number:04}" for number in range(150)], collection="pets")
        client.delete_collection("pets")
        probe.thread = None
    assert probe.blocked == {}
    assert probe.longest[0] < MOST_CPU_SECONDS, probe.longest
