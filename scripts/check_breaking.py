"""Refuse changes of proto/ that break clients: ``buf breaking`` against the newest release, or what comes nearest.

The baseline is the last release tag; without one, the commit where this branch left origin/main; on main itself, the
commit before. Where the baseline has no proto there is nothing to break, and this says so.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUF = Path(sys.executable).with_name("buf")


def git(*arguments: str) -> str:
    """Output of a git command, stripped; empty if it fails."""
    result = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return result.stdout.strip() if result.returncode == 0 else ""


def baseline() -> str:
    """The commit to compare with; empty if there is none."""
    if tag := git("describe", "--tags", "--abbrev=0", "--match=v[0-9]*"):
        return tag
    fork = git("merge-base", "HEAD", "origin/main")
    if fork and fork != git("rev-parse", "HEAD"):
        return fork
    return git("rev-parse", "--verify", "--quiet", "HEAD^1")


def main() -> None:
    """Compare, and exit as buf does."""
    commit = baseline()
    if not commit or not git("ls-tree", "-r", "--name-only", commit, "proto/"):
        print(f"buf breaking: SKIPPED, no proto to compare with in {commit or 'this clone'}")
        return
    print(f"buf breaking: against {commit}")
    sys.stdout.flush()
    raise SystemExit(subprocess.run([BUF, "breaking", "--against", f".git#ref={commit}"], cwd=ROOT).returncode)


if __name__ == "__main__":
    main()
