"""The memory that the containers are given is enough for the server at its worst, and the pages say so."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from clipseek_server.config import DECODED_PIXEL_BYTES, Settings, load_settings
from clipseek_server.planning import rates
from clipseek_server.planning.plan import Wishes, make_plan

ROOT = Path(__file__).resolve().parents[2]
COMPOSED = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["clipseek"]
MANIFESTS = ROOT / "deploy" / "kubernetes"
DEPLOYMENT = yaml.safe_load((MANIFESTS / "deployment.yaml").read_text())
[POD] = DEPLOYMENT["spec"]["template"]["spec"]["containers"]
CONTAINERS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "compose": (COMPOSED["environment"], COMPOSED["deploy"]["resources"]["limits"]),
    "kubernetes": (
        yaml.safe_load((MANIFESTS / "configmap.yaml").read_text())["data"],
        POD["resources"]["limits"],
    ),
}
AT_REST = rates.PROCESS_MB["fp32"][1000].value * 1e6
LOWER = 40_000_000
"""What the pages and the manifests offer as a lower ``max_image_pixels``."""


def gib(text: str) -> int:
    """Bytes of ``10Gi``, as Kubernetes has them, or ``10g``, as compose has them."""
    number = re.fullmatch(r"(\d+)(Gi|g)", text)
    assert number
    return int(number[1]) * 2**30


def without_decoding(settings: Settings) -> float:
    return AT_REST + 4 * settings.max_bytes_in_flight


def at_worst(settings: Settings, cores: int) -> float:
    return without_decoding(settings) + cores * settings.max_image_pixels * DECODED_PIXEL_BYTES


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_has_what_the_server_takes_at_worst(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment, limits = CONTAINERS[name]
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    settings = load_settings([], program="test")
    cores = int(limits.get("cpu") or limits["cpus"])
    assert at_worst(settings, cores) <= gib(limits["memory"])
    assert at_worst(settings.model_copy(update={"max_image_pixels": LOWER}), cores) <= gib("6Gi")
    assert make_plan(Wishes(pictures=10**6, server_cores=cores))["server_bytes"] == at_worst(Settings(), cores)


def test_a_pod_is_promised_what_it_takes_without_very_large_pictures() -> None:
    assert without_decoding(Settings()) <= gib(POD["resources"]["requests"]["memory"])


@pytest.mark.parametrize(
    ("page", "words"),
    [
        (
            "docs/operations.md",
            ["{rest} GB with ViT-B/32", "{messages} GB", "{picture} GB", "{worst} GB with four cores"],
        ),
        ("docs/operations.md", ["containers' limit is {limit} GiB", "`--max-image-pixels {lower}` makes it {less} GB"]),
        ("docs/kubernetes.md", ["limit, {limit} GiB", "{worst} GB", "request, {request} GiB", "pictures, {usual} GB"]),
        ("docs/kubernetes.md", ['`CLIPSEEK_MAX_IMAGE_PIXELS: "{lower}"` a limit of 6 GiB is enough: {less} GB']),
        ("docs/scaling.md", ["{picture} GB a core. That is {decoding} GB of the {worst} GB"]),
        ("docs/scaling.md", ["`--max-image-pixels {lower}` makes it {less} GB"]),
        ("docker-compose.yml", ["four threads takes {worst:.1f} GB", 'MAX_IMAGE_PIXELS: "{lower}" makes 6g enough']),
        (
            "deploy/kubernetes/deployment.yaml",
            ["take {usual:.1f} GB", "{decoding} GB more", '"{lower}" makes 6Gi enough'],
        ),
    ],
)
def test_the_pages_say_what_the_arithmetic_does(page: str, words: list[str]) -> None:
    settings = Settings()
    numbers: dict[str, Any] = {
        "rest": round(AT_REST / 1e9, 2),
        "messages": round(4 * settings.max_bytes_in_flight / 1e9, 2),
        "picture": settings.max_image_pixels * DECODED_PIXEL_BYTES / 1e9,
        "decoding": 4 * settings.max_image_pixels * DECODED_PIXEL_BYTES / 1e9,
        "usual": round(without_decoding(settings) / 1e9, 2),
        "worst": round(at_worst(settings, 4) / 1e9, 2),
        "less": round(at_worst(settings.model_copy(update={"max_image_pixels": LOWER}), 4) / 1e9, 2),
        "lower": LOWER,
        "limit": gib(POD["resources"]["limits"]["memory"]) // 2**30,
        "request": gib(POD["resources"]["requests"]["memory"]) // 2**30,
    }
    text = " ".join((ROOT / page).read_text().replace(" # ", " ").split())
    assert [each for each in words if each.format(**numbers) not in text] == []
