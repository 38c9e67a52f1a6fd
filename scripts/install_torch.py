"""Install the CPU build of torch with pip: ``python scripts/install_torch.py torch==2.13.0``.

PyPI's own torch for Linux brings about 3 GB of CUDA packages. So PyTorch's CPU index is asked first. Where it does not
answer, pip takes what it finds elsewhere (PyPI for macOS, a wheel on the disk, a mirror), unless that needs CUDA
packages: then this stops and says what can be done. Torch's own dependencies come from the lock.
"""

import argparse
import json
import subprocess
import sys
from urllib.request import urlopen

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
CUDA_PREFIXES = ("nvidia-", "cuda-", "triton")
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


def cpu_index_answers(timeout: float = 5.0) -> bool:
    """Whether PyTorch's CPU index answers within ``timeout`` seconds."""
    try:
        with urlopen(f"{CPU_INDEX}/torch/", timeout=timeout):
            return True
    except OSError:
        return False


def cuda_packages(requirement: str) -> list[str]:
    """Names of the CUDA packages that pip would install with ``requirement`` from where it looks by default."""
    command = [*PIP, "install", "--dry-run", "--quiet", "--report", "-", requirement]
    report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    names = [item["metadata"]["name"] for item in report["install"]]
    return sorted(name for name in names if name.startswith(CUDA_PREFIXES))


def main() -> None:
    """Install the requirement given on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("requirement", help="for example torch==2.13.0")
    parser.add_argument("--allow-cuda", action="store_true", help="take the CUDA build if there is no other")
    arguments = parser.parse_args()

    install = [*PIP, "install", arguments.requirement]
    if cpu_index_answers():
        install += ["--no-deps", "--index-url", CPU_INDEX]
    elif cuda := cuda_packages(arguments.requirement):
        if not arguments.allow_cuda:
            raise SystemExit(
                f"{CPU_INDEX} is out of reach, and the torch that pip finds elsewhere brings {len(cuda)} CUDA packages "
                f"({', '.join(cuda[:3])}, ...), about 3 GB.\n"
                f"Either install a CPU wheel of {arguments.requirement} into this environment by hand, or accept them "
                "with `make install TORCH_FLAGS=--allow-cuda`."
            )
    else:
        install += ["--no-deps"]
    raise SystemExit(subprocess.run(install).returncode)


if __name__ == "__main__":
    main()
