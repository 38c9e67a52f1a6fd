"""Write the lock files from pyproject.toml, or check that they are fresh: ``python scripts/lock.py [--check]``.

Versions that a lock already has are kept as long as pyproject.toml allows them, so a lock goes stale only when
pyproject.toml changes, never because something was released; ``--upgrade`` takes the newest.
"""

import argparse
import difflib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UV = Path(sys.executable).with_name("uv")

# What each file holds, in the order of making: what is served in production has the versions that the tests ran on.
# Locks travel: hashes, markers for every platform, no address of a registry.
LOCKS = {
    "requirements.lock": [
        "--extra=cli",
        "--extra=bench",
        "--extra=ui",
        "--extra=server",
        "--extra=starter",
        "--group=dev",
    ],
    "requirements-server.lock": ["--extra=server", "--constraints=requirements.lock"],
    "requirements-server-gpu.lock": ["--extra=server-gpu", "--constraints=requirements.lock"],
    "requirements-server-openvino.lock": ["--extra=server-openvino", "--constraints=requirements.lock"],
}
OPTIONS = [
    "--universal",
    "--python-version=3.11",
    "--generate-hashes",
    "--no-emit-index-url",
    "--system-certs",
    "--custom-compile-command=make lock",
    "--quiet",
]


def compile_lock(selection: list[str], out: Path, *options: str) -> None:
    """Resolve ``selection`` of pyproject.toml into ``out``; versions already in ``out`` are preferred."""
    subprocess.run(
        [UV, "pip", "compile", "pyproject.toml", *selection, *OPTIONS, *options, f"--output-file={out}"],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
    )


def stale(name: str) -> str:
    """What compiling the lock again would change, as a diff; empty if nothing."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder, name)
        if Path(ROOT, name).exists():
            shutil.copy(ROOT / name, fresh)
        compile_lock(LOCKS[name], fresh)
        before = Path(ROOT, name).read_text().splitlines() if Path(ROOT, name).exists() else []
        return "\n".join(difflib.unified_diff(before, fresh.read_text().splitlines(), name, "fresh", lineterm="", n=0))


def main() -> None:
    """Write or check all lock files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a lock is stale")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions")
    arguments = parser.parse_args()

    if not arguments.check:
        for name, selection in LOCKS.items():
            compile_lock(selection, ROOT / name, *(["--upgrade"] if arguments.upgrade else []))
        return
    if differences := [difference for name in LOCKS if (difference := stale(name))]:
        print(*differences, sep="\n")
        raise SystemExit("lock files are stale: run `make lock` and commit them")


if __name__ == "__main__":
    main()
