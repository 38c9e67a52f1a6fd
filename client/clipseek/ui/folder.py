"""The folder for what browsers send: private, and gone with the page."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "clipseek-ui-"
_SENT = "sent"


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder that nobody else can read. It is removed at the end, or when another page starts after ``kill -9``."""
    _remove_left()
    with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as folder, _locked(Path(folder)):
        sent = Path(folder, _SENT)
        sent.mkdir(0o700)
        yield sent


def _remove_left() -> None:
    """Remove the folders whose processes are gone: the system has taken the lock from those."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            # Without "sent" it is that of a page which is about to lock it.
            if folder.lstat().st_uid == os.getuid() and (folder / _SENT).is_dir():
                with _locked(folder):
                    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder.

    Raises:
        BlockingIOError: Another process holds it.
        OSError: It is a link, or cannot be read.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
