"""Other languages: the example for Node, with stubs from its template, run against a real server."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clipseek import Client
from pictures import picture

ROOT = Path(__file__).resolve().parents[2]


def test_the_example_for_node(server, tmp_path):
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("there is no npm here")
    clone = tmp_path / "clipseek"
    for part in ("proto", "client/other-languages"):
        shutil.copytree(ROOT / part, clone / part, ignore=shutil.ignore_patterns("node_modules", "generated"))
    shutil.copy(ROOT / "buf.yaml", clone)
    example = clone / "client/other-languages/typescript"
    (example / "cat.png").write_bytes(picture(77))
    # Of what it needs, npm must bring all.
    own = str(Path(sys.executable).parent)
    path = os.pathsep.join(each for each in os.environ["PATH"].split(os.pathsep) if each != own)
    environment = {**os.environ, "PATH": path}

    def run(*command: str) -> str:
        done = subprocess.run(
            [npm, *command], cwd=example, env=environment, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("install", "--no-audit", "--no-fund", "--no-package-lock")
    run("run", "generate")
    printed = run("--silent", "start", "--", server.address, "cat.png", "a cat")
    stored = re.search(r"^stored as ([0-9a-f]{64})$", printed, re.MULTILINE)
    assert stored, printed
    assert len(re.findall(r"^-?\d\.\d{3} [0-9a-f]", printed, re.MULTILINE)) >= 1
    with Client(server.address) as client:
        assert client.get(stored[1]).metadata == {"file": "cat.png"}
