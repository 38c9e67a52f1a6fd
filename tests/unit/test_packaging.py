"""What is outside of the packages: lock files, Dockerfile and compose files agree with the code and with each other."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from clipseek_server.config import Settings

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DEV, SERVER = "requirements.lock", "requirements-server.lock"
SERVER_GPU, SERVER_OPENVINO = "requirements-server-gpu.lock", "requirements-server-openvino.lock"
PRODUCTION = {SERVER: ["server"], SERVER_GPU: ["server-gpu"], SERVER_OPENVINO: ["server-openvino"]}
LOCKS = {DEV: ["cli", "server", "starter"], **PRODUCTION}
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]


def entries(lock: str) -> list[str]:
    """The requirements of a lock, each with its hashes on one line."""
    text = (ROOT / lock).read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]


def installed(lock: str, **environment: str) -> dict[str, str]:
    """Names and versions that a lock installs on an ordinary Linux machine; ``environment`` overrides its markers."""
    marks = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", **environment}
    pins = {}
    for entry in entries(lock):
        requirement = Requirement(entry.split(" --hash", 1)[0])
        if requirement.marker is None or requirement.marker.evaluate(marks):
            pins[canonicalize_name(requirement.name)] = str(requirement.specifier).removeprefix("==")
    return pins


def wanted(extra: str) -> list[Requirement]:
    """What an extra asks for, the extras of this project that it names included."""
    requirements = []
    for text in PROJECT["project"]["optional-dependencies"][extra]:
        requirement = Requirement(text)
        if requirement.name == "clipseek":
            requirements += [inner for name in sorted(requirement.extras) for inner in wanted(name)]
        else:
            requirements.append(requirement)
    return requirements


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_are_pinned_hashed_and_name_no_registry(lock: str) -> None:
    assert len(entries(lock)) > 40
    for entry in entries(lock):
        assert re.match(r"[a-z0-9.-]+==\S+ ", entry), entry
        assert "--hash=sha256:" in entry, entry
    assert "://" not in (ROOT / lock).read_text()


@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "arm64"])
@pytest.mark.parametrize("lock", [DEV, SERVER, SERVER_OPENVINO])
def test_no_lock_but_the_gpu_ones_brings_torch_or_cuda(lock: str, machine: str) -> None:
    system = {"sys_platform": "darwin", "platform_system": "Darwin"} if machine == "arm64" else {}
    names = installed(lock, platform_machine=machine, **system)
    assert [name for name in names if name.startswith(("torch", "nvidia", "cuda", "triton"))] == []
    assert "sentence-transformers" not in names
    assert "onnxruntime-gpu" not in names


def test_the_runtimes_exclude_each_other() -> None:
    runtimes = [[name for name in installed(lock) if name.startswith("onnxruntime")] for lock in PRODUCTION]
    assert runtimes == [["onnxruntime"], ["onnxruntime-gpu"], ["onnxruntime-openvino"]]
    assert "nvidia-cudnn-cu13" in installed(SERVER_GPU)


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_satisfy_what_the_project_asks_for(lock: str) -> None:
    pins = installed(lock)
    needed = [Requirement(text) for text in PROJECT["project"]["dependencies"]]
    needed += [requirement for extra in LOCKS[lock] for requirement in wanted(extra) if requirement.name != "torch"]
    if lock == DEV:
        needed += [Requirement(text) for text in PROJECT["dependency-groups"]["dev"]]
    for requirement in needed:
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), str(requirement)


@pytest.mark.parametrize("lock", PRODUCTION)
def test_production_gets_the_versions_that_the_tests_ran_on(lock: str) -> None:
    tested = installed(DEV)
    assert {name: version for name, version in installed(lock).items() if tested.get(name, version) != version} == {}


def test_makefile_installs_a_torch_that_the_exporter_accepts() -> None:
    [torch] = re.findall(r"^TORCH := torch==(\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    [requirement] = [requirement for requirement in wanted("export") if requirement.name == "torch"]
    assert requirement.specifier.contains(torch)


def test_dockerfile_passes_the_linter() -> None:
    result = subprocess.run([BIN / "hadolint", "--no-color", ROOT / "Dockerfile"], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("file", ["docker-compose.yml", "docker-compose.gpu.yml"])
def test_compose_files_fit_the_compose_specification(file: str) -> None:
    command = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", ROOT / file]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_the_compose_check_can_fail(tmp_path: Path) -> None:
    broken = tmp_path / "docker-compose.yml"
    broken.write_text((ROOT / "docker-compose.yml").read_text().replace("stop_grace_period:", "stop_grace:"))
    command = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", broken]
    assert subprocess.run(command, capture_output=True).returncode != 0


def test_settings_named_outside_of_the_code_exist() -> None:
    files = ["Dockerfile", "docker-compose.yml", "docker-compose.gpu.yml"]
    named = {name for file in files for name in re.findall(r"CLIPSEEK_([A-Z_]+)", (ROOT / file).read_text())}
    assert {"LISTEN", "DATA_DIR", "BUNDLES", "MILVUS_URI", "MILVUS_PASSWORD", "PROVIDERS"} <= named
    assert {name.lower() for name in named} <= set(Settings.model_fields)


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_pinned_bounded_and_without_privileges(name: str) -> None:
    service = SERVICES[name]
    assert re.search(r":(v?\d+\.\d+\.\d+|RELEASE\.\S+)$", service["image"])
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["cap_drop"] == ["ALL"]
    if name == "volumes":  # the one that gives the others their folders, and ends
        assert service["restart"] == "no"
    else:
        assert service["user"] == "10001:10001"
        assert name == "clipseek" or "healthcheck" in service


def test_every_volume_is_owned_by_who_writes_to_it() -> None:
    volumes = {mount.split(":")[0] for mount in SERVICES["volumes"]["volumes"]}
    assert volumes | {"pictures"} == set(COMPOSE["volumes"])
    assert {mount.split(":")[1] for mount in SERVICES["volumes"]["volumes"]} == set(SERVICES["volumes"]["command"][2:])


def test_one_version_everywhere() -> None:
    version = PROJECT["project"]["version"]
    assert SERVICES["clipseek"]["image"] == f"clipseek:{version}"
    gpu = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text())
    assert gpu["services"]["clipseek"]["image"] == f"clipseek:{version}-gpu"


def test_image_is_built_from_what_it_copies() -> None:
    admitted = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = set()
    for [extra] in PRODUCTION.values():
        for line in re.findall(r"^COPY (?!--from)(.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE):
            copied |= set(line.replace("${EXTRA}", extra).split()[:-1])
    assert copied == admitted
    assert all((ROOT / name).exists() for name in admitted)


def test_wheel_holds_the_packages_their_data_and_the_licence(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("client", "server"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [BIN / "uv", "build", "--wheel", "--no-build-isolation", f"--python={sys.executable}", "--offline"]
    result = subprocess.run([*build, "--out-dir", tmp_path, source], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    [wheel] = tmp_path.glob("*.whl")
    shutil.unpack_archive(wheel, tmp_path / "wheel", "zip")
    for package in ("client/clipseek", "server/clipseek_server", "server/clipseek_export"):
        top = (ROOT / package).parent
        expected = {
            path.relative_to(top)
            for path in (ROOT / package).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        missing = [path for path in sorted(expected) if not (tmp_path / "wheel" / path).is_file()]
        assert missing == []
    assert list((tmp_path / "wheel").glob("*.dist-info/licenses/LICENSE"))
