"""Generate the Python stubs of proto/: ``python scripts/generate_stubs.py [--check] client``.

protoc from grpcio-tools and mypy-protobuf for the types, both pinned in the lock, so that everyone gets the same files.
"""

import argparse
import filecmp
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

PROTO_ROOT = Path(__file__).resolve().parent.parent / "proto"


def generate(out: Path) -> None:
    """Write ``*_pb2.py``, ``*_pb2_grpc.py`` and their ``.pyi`` for every proto below ``PROTO_ROOT`` into ``out``."""
    plugins = Path(sys.executable).parent
    sources = sorted(str(path) for path in PROTO_ROOT.rglob("*.proto"))
    status = protoc.main(
        [
            "protoc",
            f"--proto_path={PROTO_ROOT}",
            f"--proto_path={files('grpc_tools') / '_proto'}",
            f"--plugin=protoc-gen-mypy={plugins / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={plugins / 'protoc-gen-mypy_grpc'}",
            f"--python_out={out}",
            f"--grpc_python_out={out}",
            f"--mypy_out=quiet:{out}",
            f"--mypy_grpc_out=quiet:{out}",
            *sources,
        ]
    )
    if status != 0:
        raise SystemExit(f"protoc failed with status {status}")


def stale(out: Path) -> list[str]:
    """Stubs below ``out`` that differ from the protos, are missing, or belong to no proto."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        generate(fresh)
        wanted = {str(path.relative_to(fresh)) for path in fresh.rglob("*_pb2*.py*")}
        found = {str(path.relative_to(out)) for path in out.rglob("*_pb2*.py*") if "__pycache__" not in path.parts}
        _, differing, unreadable = filecmp.cmpfiles(fresh, out, wanted & found, shallow=False)
        return sorted({*(wanted ^ found), *differing, *unreadable})


def main() -> None:
    """Write the stubs, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the stubs; clipseek/v1/ is below it")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a stub differs from its proto")
    arguments = parser.parse_args()

    if not arguments.check:
        generate(arguments.out)
    elif names := stale(arguments.out):
        raise SystemExit(f"stubs differ from proto/: run `make proto` and commit {', '.join(names)}")


if __name__ == "__main__":
    main()
