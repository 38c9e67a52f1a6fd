"""A bundle's folder appears whole or not at all."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipseek_export.errors import ExportError
from clipseek_server.encoding.bundle import MANIFEST_FILE


@contextmanager
def whole_folder(output: Path) -> Iterator[Path]:
    """Give a hidden folder beside ``output`` to write into; it becomes ``output`` when the block ends without an error.

    What was at ``output`` is replaced whole. An error leaves nothing behind; so does a killed export, once the next one
    for the same place has begun.

    Raises:
        ExportError: The place holds something else than a bundle, or another export writes there.
    """
    output = output.resolve()
    check_replaceable(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.partial")
    replaced = output.with_name(f".{output.name}.replaced")
    with _locked(partial):
        try:
            if replaced.exists():
                # An export was killed between its two renames.
                shutil.rmtree(replaced) if output.exists() else replaced.rename(output)
            for left in partial.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            yield partial
            if output.exists():
                output.rename(replaced)
            partial.rename(output)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        shutil.rmtree(replaced, ignore_errors=True)


def check_replaceable(output: Path) -> None:
    """Raise ``ExportError`` if there is something else than a bundle or an empty folder."""
    if output.exists() and not (output.is_dir() and _is_replaceable(output)):
        raise ExportError(f"{output} exists and is no bundle; choose another --output, it is not overwritten")


def _is_replaceable(folder: Path) -> bool:
    names = {path.name for path in folder.iterdir()}
    return not names or MANIFEST_FILE in names


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Make a folder and hold it. The kernel lets go when the process dies, however it does."""
    folder.mkdir(exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another export may have finished, and renamed the folder, since it was opened.
            mine = os.path.samestat(os.fstat(handle), folder.stat())
        except OSError:
            mine = False
        if not mine:
            raise ExportError(f"another export writes to {folder.with_name(folder.name[1 : -len('.partial')])}")
        yield
    finally:
        os.close(handle)
