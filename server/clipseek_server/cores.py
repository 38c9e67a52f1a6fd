"""Cores: how many this process may really use."""

import math
import os
from pathlib import Path, PurePosixPath


def available_cores(root: Path = Path("/")) -> int:
    """Cores by CPU set and by the quotas of all control groups that this process is in; at least 1.

    Args:
        root: Where ``proc`` and ``sys`` are.

    Sources: the kernel's ``Documentation/admin-guide/cgroup-v2.rst`` (``cpu.max``) and
    ``Documentation/scheduler/sched-bwc.rst`` (``cpu.cfs_quota_us``).
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min([allowed, *_quotas(root)])))


def _quotas(root: Path) -> list[float]:
    """Cores' worth of time that each control group above this process allows it."""
    quotas = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            mount, read = root / "sys/fs/cgroup", _quota_v2
        elif "cpu" in controllers.split(","):
            mount, read = root / "sys/fs/cgroup/cpu", _quota_v1
        else:
            continue
        # In a container the path may be the host's, and only the mount itself be there.
        inside = PurePosixPath(path.lstrip("/"))
        quotas += [quota for each in {mount / inside, *(mount / up for up in inside.parents)} if (quota := read(each))]
    return quotas


def _quota_v2(group: Path) -> float | None:
    return _quota(*_read(group / "cpu.max").split())


def _quota_v1(group: Path) -> float | None:
    return _quota(*(_read(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")))


def _quota(quota: str = "max", period: str = "") -> float | None:
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() and int(period) else None


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
