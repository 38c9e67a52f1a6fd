import os
import sys
import threading
from concurrent.futures import Future
from pathlib import Path

import pytest

from clipseek_server.threads import NICENESS, thread_pool

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux knows threads by name and priority")


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def name() -> str:
    return Path(f"/proc/self/task/{threading.get_native_id()}/comm").read_text().strip()


def of_a_thread_begun(look):
    found = Future()
    thread = threading.Thread(target=lambda: found.set_result(look()))
    thread.start()
    thread.join()
    return found.result()


def test_a_pool_that_gives_way_does_so_with_what_it_begins_and_no_others():
    ours = niceness()
    with thread_pool("nice", giving_way=True) as nice, thread_pool("other") as other:
        assert nice.submit(niceness).result() == min(19, ours + NICENESS)
        assert nice.submit(of_a_thread_begun, niceness).result() == min(19, ours + NICENESS)
        assert other.submit(niceness).result() == niceness() == ours


def test_threads_have_the_pools_name_and_so_has_what_they_begin():
    ours = name()
    with thread_pool("picture tower") as pool, thread_pool("a name that is too long") as other:
        assert pool.submit(name).result() == "picture tower"
        assert pool.submit(of_a_thread_begun, name).result() == "picture tower"
        assert other.submit(name).result() == "a name that is "[:15].strip()
    assert name() == ours


def test_so_many_threads_at_most():
    with thread_pool("few", 2) as pool:
        barrier = threading.Barrier(2, timeout=30)
        names = {thread.result() for thread in [pool.submit(lambda: (barrier.wait(), name())[1]) for _ in range(2)]}
    assert names == {"few"}
