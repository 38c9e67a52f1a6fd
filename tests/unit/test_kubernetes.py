"""The manifests for Kubernetes are valid, and agree with the code, the image and each other."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from clipseek_server.config import Settings, load_settings
from clipseek_server.rpc.server import SERVICES

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
FOLDER = ROOT / "deploy" / "kubernetes"
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
MANIFESTS = {name: yaml.safe_load((FOLDER / name).read_text()) for name in KUSTOMIZATION["resources"]}
SETTINGS = MANIFESTS["configmap.yaml"]["data"]
DEPLOYMENT = MANIFESTS["deployment.yaml"]["spec"]
POD = DEPLOYMENT["template"]["spec"]
[CONTAINER] = POD["containers"]
[INIT] = POD["initContainers"]


def validate(path: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([BIN / "kubernetes-validate", "--strict", path], capture_output=True, text=True)


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_fit_their_schemas(name: str) -> None:
    result = validate(FOLDER / name)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_check_can_fail(tmp_path: Path) -> None:
    broken = tmp_path / "deployment.yaml"
    broken.write_text((FOLDER / "deployment.yaml").read_text().replace("readinessProbe:", "readynessProbe:"))
    assert validate(broken).returncode != 0


def test_every_manifest_is_applied() -> None:
    assert {path.name for path in FOLDER.glob("*.yaml")} == {"kustomization.yaml", *MANIFESTS}


def test_the_settings_are_settings_and_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    named = set(re.findall(r"CLIPSEEK_([A-Z0-9_]+)", "".join(path.read_text() for path in FOLDER.iterdir())))
    assert {"MILVUS_PASSWORD", "TOKENS", "IMAGE_STORE"} <= named
    assert {name.lower() for name in named} <= set(Settings.model_fields)
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    settings = load_settings([], program="test")
    # Nothing is kept in the pod.
    assert settings.milvus_uri
    assert settings.image_store
    assert settings.drain_timeout < POD["terminationGracePeriodSeconds"]


def test_ports_agree() -> None:
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    listens = {name: int(SETTINGS[f"CLIPSEEK_{name}LISTEN"].rpartition(":")[2]) for name in ("", "HEALTH_", "METRICS_")}
    assert ports == {"grpc": listens[""], "health": listens["HEALTH_"], "metrics": listens["METRICS_"]}
    for port in MANIFESTS["service.yaml"]["spec"]["ports"]:
        assert ports[port["targetPort"]] == port["port"]
    for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
        probe = CONTAINER[kind]["grpc"]
        assert probe["port"] == ports["health"]
        assert probe.get("service", "") in {"", *(service.full_name for service in SERVICES.values())}


def test_labels_agree() -> None:
    labels = DEPLOYMENT["template"]["metadata"]["labels"]
    selectors: list[Any] = [
        DEPLOYMENT["selector"]["matchLabels"],
        MANIFESTS["service.yaml"]["spec"]["selector"],
        MANIFESTS["poddisruptionbudget.yaml"]["spec"]["selector"]["matchLabels"],
        *(each["labelSelector"]["matchLabels"] for each in POD["topologySpreadConstraints"]),
    ]
    assert selectors == [labels] * 4
    assert DEPLOYMENT["replicas"] >= 2


def test_images_are_those_of_this_version_and_named_once() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert CONTAINER["image"] == f"clipseek:{version}"
    images = {container["image"].partition(":")[0] for container in (CONTAINER, INIT)}
    assert images == {image["name"] for image in KUSTOMIZATION["images"]}


@pytest.mark.parametrize("container", [CONTAINER, INIT], ids=["clipseek", "bundle"])
def test_no_container_has_privileges_or_writes_to_its_image(container: dict[str, Any]) -> None:
    assert POD["securityContext"]["runAsNonRoot"]
    assert f"USER {POD['securityContext']['runAsUser']}:" in (ROOT / "Dockerfile").read_text()
    security = container["securityContext"]
    assert security["readOnlyRootFilesystem"]
    assert not security["allowPrivilegeEscalation"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert set(container["resources"]["limits"]) == {"cpu", "memory"}


def test_the_bundle_is_where_the_server_looks() -> None:
    assert INIT["command"][-1] == SETTINGS["CLIPSEEK_BUNDLES"] == INIT["volumeMounts"][0]["mountPath"]
    [mount] = [mount for mount in CONTAINER["volumeMounts"] if mount["name"] == "bundle"]
    assert (mount["mountPath"], mount["readOnly"]) == (SETTINGS["CLIPSEEK_BUNDLES"], True)
    assert f"COPY . {INIT['command'][2].removesuffix('/.')}" in (FOLDER / "bundle.Dockerfile").read_text()


def test_the_bundles_dockerfile_passes_the_linter() -> None:
    result = subprocess.run(
        [BIN / "hadolint", "--no-color", FOLDER / "bundle.Dockerfile"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout
