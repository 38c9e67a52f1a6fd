"""What the numbers were measured on."""

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

from clipseek_server.config import Settings

_PACKAGES = (
    "clipseek",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "torch",
    "transformers",
    "pymilvus",
    "milvus-lite",
    "grpcio",
)
_IDLE, _IOWAIT, _STEAL = 3, 4, 7
"""Columns of /proc/stat's first line."""
_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")


def cores() -> int:
    """Cores that the server takes for its own."""
    return Settings.model_construct().cores


def commit() -> str:
    """Of the working tree, with a plus where something in it has changed since; empty outside of a clone."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return found.stdout.strip()


class Theft:
    """How much of what was asked of the cores in a ``with`` block a virtual machine did not get.

    Attributes:
        share: Of the time in which something was to be run; 0 where the kernel does not say.
    """

    share = 0.0

    def __enter__(self) -> Self:
        self._before = _cpu_times()
        return self

    def __exit__(self, *_: object) -> None:
        spent = [after - before for before, after in zip(self._before, _cpu_times(), strict=True)]
        if len(spent) > _STEAL:
            busy = sum(spent[: _STEAL + 1]) - spent[_IDLE] - spent[_IOWAIT]
            self.share = round(spent[_STEAL] / busy, 3) if busy else 0.0


def _cpu_times() -> list[int]:
    stat = Path("/proc/stat")
    return [int(field) for field in stat.read_text().splitlines()[0].split()[1:]] if stat.exists() else []


def facts(folder: Path) -> dict[str, Any]:
    """Processor, memory, file system of ``folder``, and versions."""
    info = _fields(Path("/proc/cpuinfo"))
    flags = info.get("flags", "").split()
    return {
        "cpu": info.get("model name", platform.processor()),
        "cpu_features": [name for name in _FEATURES if name in flags],
        "cores_of_the_machine": os.cpu_count(),
        "cores_used": cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": sys.version.split()[0],
        "file_system": _file_system(folder),
        "gpu": _gpu(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
    }


def _fields(path: Path) -> dict[str, str]:
    """The first value of each name."""
    found: dict[str, str] = {}
    if path.exists():
        for line in path.read_text().splitlines():
            name, colon, value = line.partition(":")
            if colon:
                found.setdefault(name.strip(), value.strip())
    return found


def _file_system(folder: Path) -> str:
    """Type of the file system, by the longest mount point above the folder; empty where that cannot be read."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return ""
    place = folder.resolve()
    above = [entry for line in mounts.read_text().splitlines() if place.is_relative_to((entry := line.split())[1])]
    return max(above, key=lambda entry: len(entry[1]))[2] if above else ""


def _gpu() -> str:
    try:
        asked = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return asked.stdout.strip()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
