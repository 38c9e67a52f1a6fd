"""``pip install clipseek`` in a fresh environment: small, no server inside, and it says what the command needs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
CLIENT_LIMIT, CLIENT_LIMIT_COMPILED, CLI_LIMIT_COMPILED = 25_000_000, 27_000_000, 45_000_000
"""Bytes, as docs/client.md says them. What Python compiles, as pip lets it do at once, counts in the latter two."""


def installed_bytes(packages: Path) -> tuple[int, int]:
    """Without the installers: the files alone, and with what was compiled of them."""
    tools = ("pip", "setuptools", "pkg_resources", "_distutils_hack")
    files = [path for path in packages.rglob("*") if path.is_file()]
    files = [path for path in files if not path.relative_to(packages).parts[0].startswith(tools)]
    compiled = sum(path.stat().st_size for path in files if path.suffix == ".pyc")
    assert compiled
    everything = sum(path.stat().st_size for path in files)
    return everything - compiled, everything


def test_the_client_installs_alone(tmp_path: Path) -> None:
    # A copy: building leaves files beside the sources, and old ones of them would end up in the wheel.
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source)
    for name in ("client", "server"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    # What the caller imports from elsewhere is not installed, and pip must not take it for that.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        path = venv / "bin" / command
        return subprocess.run([path, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True)

    pip = ("python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    done = run(*pip, str(source))
    assert done.returncode == 0, done.stderr

    [packages] = venv.glob("lib/python*/site-packages")
    names = {path.name.split("-")[0] for path in packages.glob("*.dist-info")} - {"pip", "setuptools"}
    assert names == {"clipseek", "grpcio", "protobuf", "googleapis_common_protos", "typing_extensions"}
    files, everything = installed_bytes(packages)
    assert files <= CLIENT_LIMIT
    assert everything <= CLIENT_LIMIT_COMPILED

    # Parts that others need, and what takes long to import.
    others = {"clipseek.cli", "clipseek.bench", "clipseek.gallery", "urllib.request", "google.protobuf.json_format"}
    code = f"import sys, clipseek; print(sorted({others} & {{*sys.modules}}))"
    imported = run("python", "-c", code)
    assert (imported.returncode, imported.stdout) == (0, "[]\n"), imported.stderr

    code = "import clipseek, clipseek.gallery; clipseek.gallery.gallery_html([]); print(clipseek.__version__)"
    imported = run("python", "-c", code)
    assert imported.returncode == 0, imported.stderr
    command = run("clipseek", "info")
    assert command.returncode == 2
    assert "pip install '.[cli]'" in command.stderr

    done = run(*pip, f"{source}[cli]")
    assert done.returncode == 0, done.stderr
    _, everything = installed_bytes(packages)
    assert everything <= CLI_LIMIT_COMPILED
    command = run("clipseek", "--help")
    assert (command.returncode, "bench" in command.stdout) == (0, True)
    for extra in ("bench", "ui"):
        command = run("clipseek", extra)
        assert command.returncode == 2
        assert f"'.[{extra}]'" in command.stderr
