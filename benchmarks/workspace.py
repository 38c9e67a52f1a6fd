"""Models, pictures and filled data folders: made once, kept between runs."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from benchmarks.pictures import make_pictures
from benchmarks.rows import fill
from clipseek_server.encoding.bundle import Precision


class Workspace:
    """A folder of what is needed to measure.

    Args:
        folder: Where it is; made if missing.
        small: Whether the model is a small one: to try the benchmarks, not to measure.
    """

    def __init__(self, folder: Path, *, small: bool = False) -> None:
        self.folder = folder.resolve()
        self.small = small
        self.name = "small" if small else "vit-b-32"
        # Each process has its own: another one may be measuring.
        self.scratch = self.folder / "scratch" / str(os.getpid())
        for left in self.scratch.parent.glob("*"):
            if not Path("/proc", left.name).exists():
                shutil.rmtree(left, ignore_errors=True)
        self.scratch.mkdir(parents=True)

    def checkpoint(self) -> Path:
        """The model in transformers' format."""
        from benchmarks.model import make_checkpoint

        return self._once(self.name, lambda folder: make_checkpoint(folder, small=self.small))

    def bundle(self, precision: Precision) -> Path:
        """The same as a bundle."""
        from benchmarks.model import make_bundle

        checkpoint = self.checkpoint()
        return self._once(f"{self.name}-{precision}", lambda folder: make_bundle(checkpoint, folder, precision))

    def towers(self) -> Path:
        """The same as clip-server wants it: ``visual.onnx`` and ``textual.onnx``."""
        from benchmarks.model import make_towers

        checkpoint = self.checkpoint()
        return self._once(f"{self.name}-towers", lambda folder: make_towers(checkpoint, folder))

    def starter(self, precision: Precision) -> Path:
        """The starter as a bundle."""
        from benchmarks.model import make_starter

        return self._once(f"starter-{precision}", lambda folder: make_starter(folder, precision))

    def pictures(self) -> tuple[str, ...]:
        """Paths of the JPEGs."""
        folder = self._once("pictures", make_pictures)
        return tuple(str(path) for path in sorted(folder.glob("*.jpg")))

    def data(self, rows: int) -> Path:
        """A data folder with so many rows, to do with as one likes; the bundles of all precisions serve it."""
        bundle = self.bundle("fp32")
        kept = self._once(f"{self.name}-{rows}-rows", lambda folder: fill(folder, bundle, rows))
        copy = self.scratch / kept.name
        shutil.rmtree(copy, ignore_errors=True)
        return Path(shutil.copytree(kept, copy))

    def _once(self, name: str, make: Callable[[Path], None]) -> Path:
        folder = self.folder / name
        if not folder.exists():
            print(f"  making {folder}", flush=True)
            unfinished = folder.with_name(f"{name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            make(unfinished)
            unfinished.rename(folder)
        return folder
