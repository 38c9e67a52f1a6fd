"""Milvus Lite inside this process, behind a socket that only this user can open.

Opened by path, pymilvus would have it listen on a TCP port without a password. It is a sound store as long as one
process opens a folder and one writer writes to a collection, with what ``durable_lite`` and ``consistent_lite`` change.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipseek_server.errors import IndexUnavailable, StartupError

if TYPE_CHECKING:
    from clipseek_server.index.consistent_lite import ConsistentCollection

MEMTABLE_BYTES = 8 * 1024 * 1024
"""Rows that are not flushed yet are searched in Python: few of them keep Lite fast."""

RESERVED_BYTES = 64 * 1024 * 1024
"""Free space below which nothing is written: room for a flush, which must not fail half-way."""

_LONGEST_SOCKET_FOLDER = 90
"""A unix socket's path ends at 108 bytes."""

_STOP_SECONDS = 10.0


class Lite:
    """One Milvus Lite over a folder.

    Args:
        folder: Where its files are; made when missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._socket_folder: Path | None = None
        self._server: Any = None
        self._database: Any = None

    @property
    def uri(self) -> str:
        """What a Milvus client connects to while it runs."""
        return f"unix:{self._socket_folder}/lite:0"

    def start(self) -> None:
        """Open the folder and answer on the socket; blocks for about a second the first time.

        Raises:
            StartupError: Another process has the folder open, or it cannot be written.
        """
        # Read by milvus_lite when it is first imported, and never again.
        os.environ.setdefault("MILVUS_LITE_MEMTABLE_MEMORY_LIMIT_BYTES", str(MEMTABLE_BYTES))
        from milvus_lite.adapter.grpc.server import start_server_in_thread
        from milvus_lite.exceptions import DataDirLockedError

        from clipseek_server.index import consistent_lite, durable_lite

        durable_lite.install()
        consistent_lite.install()
        self._socket_folder = _new_socket_folder()
        try:
            self._server, self._database, _ = start_server_in_thread(
                str(self._folder), host=f"unix:{self._socket_folder}/lite", port=0
            )
        except DataDirLockedError as error:
            shutil.rmtree(self._socket_folder, ignore_errors=True)
            raise StartupError(
                f"another server uses the data folder {self._folder.parent}; stop it, or choose another data_dir"
            ) from error
        except OSError as error:
            shutil.rmtree(self._socket_folder, ignore_errors=True)
            raise StartupError(f"cannot open Milvus Lite's folder {self._folder}: {error}") from error

    def stop(self) -> None:
        """Finish calls in progress, flush, and let go of the folder. Blocks."""
        if self._server is not None:
            self._server.stop(grace=_STOP_SECONDS).wait()
            # close() leaves a collection's background thread behind when its last flush fails; it must not compact
            # beside a successor.
            for collection in list(self._database._collections.values()):
                collection._wait_for_bg()
            self._database.close()
            self._server = self._database = None
        if self._socket_folder is not None:
            shutil.rmtree(self._socket_folder, ignore_errors=True)

    def collection(self, name: str) -> "ConsistentCollection":
        """One of its collections, past the socket; raises what Milvus Lite does where there is none."""
        collection: ConsistentCollection = self._database.get_collection(name)
        return collection

    def check_space(self) -> None:
        """Raise ``IndexUnavailable`` when the disk is too full to write safely."""
        if shutil.disk_usage(self._folder).free < RESERVED_BYTES:
            raise IndexUnavailable("the index's disk is full; free some space, then retry")


def _new_socket_folder() -> Path:
    """A new folder that only this user can enter, with a short path."""
    parent = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="clipseek-", dir=parent if len(parent) < _LONGEST_SOCKET_FOLDER else "/tmp"))  # noqa: S108
