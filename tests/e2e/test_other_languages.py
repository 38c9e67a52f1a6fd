"""Other languages: the example for Node, with stubs from its template, run against a real server."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from certificates import Certificates
from clipseek import Client
from clipseek_server.config import Settings
from pictures import picture
from servers import ServerThread

ROOT = Path(__file__).resolve().parents[2]


def test_the_example_for_node(bundle, server, tmp_path):
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

    def run(*command: str, **variables: str) -> str:
        done = subprocess.run(
            [npm, *command],
            cwd=example,
            env=environment | variables,
            capture_output=True,
            text=True,
            timeout=240,
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

    certificates = Certificates(tmp_path / "tls", trustme.CA(), "127.0.0.1")
    settings = Settings(
        listen="127.0.0.1:0",
        bundles=[bundle],
        data_dir=tmp_path / "data",
        tls_certificate=certificates.certificate,
        tls_key=certificates.key,
        tokens=["secret"],
    )
    with ServerThread(settings) as secure:
        arguments = ("--silent", "start", "--", f"grpcs://{secure.address}", "cat.png", "a cat")
        printed = run(*arguments, CLIPSEEK_CA=str(certificates.ca), CLIPSEEK_TOKEN="secret")
    assert stored[0] in printed
