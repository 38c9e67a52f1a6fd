"""The files that browsers have sent: where they lie, and how long."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

KEPT_SECONDS = 24 * 60 * 60
"""How long a picture that somebody searches with is kept, and at least until the next one comes."""

_SEARCHED = "searched-"
_ADDED = "added-"


@dataclass(frozen=True)
class Sent:
    """A file that a browser says it has sent to the page; ``name`` is what it is called there."""

    path: str
    name: str

    @classmethod
    def of(cls, path: object, name: object) -> "Sent":
        """As it comes from outside; without a name it is called as it is here."""
        return cls(str(path), str(name or Path(str(path)).name))


class Uploads:
    """What browsers have sent.

    Gradio has one place for all who send the same file under the same name, so that one of them could remove it under
    the others' hands. Whoever uses a file uses a link of their own.

    Args:
        folder: Where Gradio puts the files; what lies elsewhere is not touched.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()

    def keep(self, sent: Sent) -> Path:
        """A link for ``KEPT_SECONDS``, whatever becomes of what was sent.

        Raises:
            FileNotFoundError: It is not, or no longer, among the files that were sent.
            OSError: There is no room for it.
        """
        for old in self._folder.glob(f"{_SEARCHED}*"):
            if old.stat().st_mtime < time.time() - KEPT_SECONDS:
                shutil.rmtree(old, ignore_errors=True)
        return _link(self._find(sent), self._folder, _SEARCHED)

    @contextmanager
    def batch(self) -> Iterator[Callable[[Sent], Path]]:
        """What makes links as ``keep`` does; at the end they are removed, and what was sent as well."""
        linked: list[tuple[Path, Path]] = []
        with tempfile.TemporaryDirectory(prefix=_ADDED, dir=self._folder, ignore_cleanup_errors=True) as folder:

            def link(sent: Sent) -> Path:
                file = self._find(sent)
                linked.append((file, _link(file, Path(folder))))
                return linked[-1][1]

            try:
                yield link
            finally:
                for file, ours in linked:
                    with suppress(FileNotFoundError):
                        # Another one lies there once somebody has sent the same again.
                        if file.samefile(ours):
                            file.unlink()

    def _find(self, sent: Sent) -> Path:
        file = Path(sent.path).resolve()
        if not file.is_relative_to(self._folder) or not file.is_file():
            raise FileNotFoundError(sent.path)
        return file


def _link(file: Path, folder: Path, prefix: str = "") -> Path:
    # In a folder of its own, because files of one name may be sent together.
    link = Path(tempfile.mkdtemp(prefix=prefix, dir=folder)) / file.name
    link.hardlink_to(file)
    return link
