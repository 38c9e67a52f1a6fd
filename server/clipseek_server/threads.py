"""Threads: what they are called, and who goes first.

Threads for pictures take all cores for as long as pictures come. They give way to those that search by text, and to the
event loop: it hardly slows them, and a search during an import waits a fraction of the time
(``benchmarks/threads.py``).
"""

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

NICENESS = 10
"""A thread of this niceness gets a tenth of a core that one of niceness 0 wants too, and all of it otherwise."""

_LONGEST_NAME = 15


def thread_pool(name: str, threads: int = 1, *, giving_way: bool = False) -> ThreadPoolExecutor:
    """A pool of threads that ``top -H`` shows by name.

    What they begin takes name and priority after them, so ONNX Runtime's threads do. Only Linux knows either.

    Args:
        name: Of all its threads; the kernel keeps 15 bytes.
        threads: At most.
        giving_way: Whether this process's other threads go before them.
    """

    def begin() -> None:
        if sys.platform == "linux":
            thread = threading.get_native_id()
            if giving_way:
                os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICENESS)
            with suppress(OSError):  # /proc may be read-only
                Path(f"/proc/self/task/{thread}/comm").write_text(name[:_LONGEST_NAME])

    return ThreadPoolExecutor(threads, thread_name_prefix=name, initializer=begin)
