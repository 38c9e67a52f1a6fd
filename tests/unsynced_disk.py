"""A folder as a power cut may leave it: what was not synced is forgotten."""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest


class _Entry(NamedTuple):
    inode: int
    is_folder: bool


class UnsyncedDisk:
    """Remembers what of a folder was synced.

    A file has the bytes that it had when it was last synced, none before that. Its name may be there as soon as it was
    given, and be gone as soon as it was taken away, or only once its folder was synced.

    Args:
        root: The folder. What it holds already is not on the disk.
        before_sync: Called before each sync: the moments at which most is at stake.
    """

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, before_sync: Callable[[], None]) -> None:
        self._root = root
        self._before_sync = before_sync
        self._bytes: dict[int, bytes] = {}
        self._names: dict[int, dict[str, _Entry]] = {}
        self._held: list[int] = []
        self._fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self._sync)

    def cut(self, copy: Path, *, names_synced: bool) -> None:
        """Copy the folder as a cut would leave it now; its names as they are, or as they were synced."""
        self._copy(_Entry(self._root.stat().st_ino, True), self._root, copy, names_synced)

    def close(self) -> None:
        """Forget everything."""
        for descriptor in self._held:
            os.close(descriptor)

    def _sync(self, descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_relative_to(self._root):
            self._before_sync()
            status = os.fstat(descriptor)
            # Held open, so that no other file gets its inode.
            self._held.append(os.dup(descriptor))
            if stat.S_ISDIR(status.st_mode):
                self._names[status.st_ino] = _entries(path)
            else:
                self._bytes[status.st_ino] = path.read_bytes()
        self._fsync(descriptor)

    def _copy(self, entry: _Entry, path: Path, copy: Path, names_synced: bool) -> None:
        if not entry.is_folder:
            copy.write_bytes(self._bytes.get(entry.inode, b""))
            return
        copy.mkdir()
        for name, below in (self._names.get(entry.inode, {}) if names_synced else _entries(path)).items():
            self._copy(below, path / name, copy / name, names_synced)


def _entries(folder: Path) -> dict[str, _Entry]:
    with os.scandir(folder) as entries:
        return {entry.name: _Entry(entry.inode(), entry.is_dir()) for entry in entries}
