"""The two clients are one: same methods, same parameters, and the synchronous one is what the other generates."""

import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import clipseek
from clipseek import AsyncClient, Client, errors, results

ROOT = Path(__file__).resolve().parents[3]


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "scripts/generate_sync_client.py", "--check", folder]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_synchronous_client_is_generated_from_the_asynchronous_one(tmp_path: Path) -> None:
    result = check(ROOT / "client")
    assert result.returncode == 0, result.stderr
    shutil.copytree(ROOT / "client/clipseek/_sync", tmp_path / "clipseek/_sync")
    edited = tmp_path / "clipseek/_sync/search.py"
    edited.write_text(edited.read_text().replace("top_k: int = 5", "top_k: int = 6"))
    (tmp_path / "clipseek/_sync/images.py").unlink()
    result = check(tmp_path)
    assert result.returncode != 0
    assert "images.py, search.py" in result.stderr


def test_both_clients_have_the_same_methods() -> None:
    def public(kind: type) -> dict[str, list[inspect.Parameter]]:
        return {
            name: [parameter.replace(annotation="") for parameter in inspect.signature(member).parameters.values()]
            for name, member in inspect.getmembers(kind, callable)
            if not name.startswith("_") or name == "__init__"
        }

    assert public(Client) == public(AsyncClient)
    wanted = {"insert", "insert_many", "insert_stream", "search_text", "search_image", "search", "list", "download"}
    assert wanted < public(Client).keys()
    for name, member in inspect.getmembers(Client, inspect.isfunction):
        assert not inspect.iscoroutinefunction(member) and not inspect.isasyncgenfunction(member), name


def test_importing_the_client_loads_nothing_heavy() -> None:
    heavy = {"PIL", "numpy", "typer", "rich", "clipseek_server", "google.rpc", "importlib.metadata", "pydantic"}
    code = f"import sys, clipseek; print(sorted({heavy!r} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_what_is_exported_is_there() -> None:
    assert all(getattr(clipseek, name) for name in clipseek.__all__)
    assert clipseek.__version__[0].isdigit()


def test_what_callers_meet_is_exported() -> None:
    kinds = [
        kind
        for module in (errors, results)
        for kind in vars(module).values()
        if isinstance(kind, type) and kind.__module__ == module.__name__
    ]
    # How gRPC loses a status is no concern of theirs.
    assert {kind.__name__ for kind in kinds} - set(clipseek.__all__) == {"StatusLostError"}
