"""The paths of a command line: finding pictures below them, and what is asked of them before they are used."""

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from clipseek.pictures import sniff


@dataclass(frozen=True)
class Found:
    """A file that was found, or a folder that was not looked through.

    Attributes:
        path: Where it is.
        name: Its path relative to the folder that was named, with ``/``.
        named: Whether the file itself was named, and not a folder above it.
        picture: Whether it begins as a picture does. What cannot be read counts, so that the insert can say why.
        linked_folder: Whether it is a symbolic link to a folder, which is looked through only where it is named.
    """

    path: Path
    name: str
    named: bool
    picture: bool
    linked_folder: bool = False


def find(paths: Iterable[Path]) -> Iterator[Found]:
    """All files below the paths, folders in the order of their names; hidden ones are left out unless they are named.

    Folders that cannot be looked through, and symbolic links to folders, come after the files.

    Raises:
        FileNotFoundError: A path is not there.
    """
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"no such file or folder: {path}")
        if path.is_dir():
            unreadable: list[OSError] = []
            linked: list[Path] = []
            for file in _below(path, linked.append, unreadable.append):
                yield Found(file, readable(file.relative_to(path)), named=False, picture=_is_picture(file))
            for folder in (Path(error.filename) for error in unreadable):
                yield Found(folder, readable(folder.relative_to(path)), named=folder == path, picture=True)
            for link in linked:
                yield Found(link, readable(link.relative_to(path)), named=False, picture=False, linked_folder=True)
        else:
            yield Found(path, readable(Path(path.name)), named=True, picture=_is_picture(path))


def readable(path: Path) -> str:
    """A path as text, with ``/``. Bytes of a name that are not UTF-8 become replacement characters."""
    return os.fsencode(path.as_posix()).decode("utf-8", errors="replace")


def check_writable(path: Path) -> None:
    """See whether a file can be written, before the work for it begins.

    Raises:
        OSError: It cannot; the message says why.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file in it")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: there is no folder {path.parent}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise PermissionError(f"cannot write {path}: no permission")


def _below(folder: Path, on_link: Callable[[Path], None], on_error: Callable[[OSError], None]) -> Iterator[Path]:
    for root, folders, files in os.walk(folder, onerror=on_error):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for subfolder in (Path(root, name) for name in folders):
            if os.path.islink(subfolder):  # noqa: PTH114 -- Path.is_symlink raises where a path is too long
                on_link(subfolder)
        yield from (Path(root, name) for name in sorted(files) if not name.startswith("."))


def _is_picture(path: Path) -> bool:
    """By its first bytes, not by its name."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            return sniff(file.read(32)) is not None
    except FileNotFoundError:
        return False  # a link that leads nowhere
    except OSError:
        return True
