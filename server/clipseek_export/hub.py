"""From a hub id or a folder to a local folder with a checkpoint in transformers' format.

The hub is talked to by a child process (``python -m clipseek_export.hub``) which reports every step of progress. When
it is silent for too long it is ended: neither a name server that hangs nor a server that accepts and never answers can
hold up an export, whatever the library's own time limits and retries are.
"""

import errno
import json
import os
import re
import select
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Final, NoReturn

from clipseek_export.errors import ExportError, HubUnreachable

DEFAULT_MODEL: Final = "openai/clip-vit-base-patch32"

# The main branch has the weights only as a pickle; this commit is the hub's own conversion of it to safetensors.
_DEFAULT_REVISION: Final = "c237dc49a33fc61debc9276459120b7eac67e7ef"

_ANSWER: Final = 9.0
"""Seconds for the hub to answer at all, the child's start included."""

_TIMEOUT: Final = 3.0
"""Seconds for the library's one request. It tries twice, and then the cache is still to be looked at."""

_STALL: Final = 60.0
"""Seconds that a download may stand still. The library tells of every 10 MB, and lines are slow."""

_WANTED = (
    "config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "README.md",
)
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "model-?????-of-?????.safetensors")
_PICKLE = "pytorch_model"
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on this machine."""

    folder: Path
    id: str
    """Hub id, or the folder's name."""
    revision: str
    """Commit; empty for a folder."""
    license: str


def find_checkpoint(model: str = DEFAULT_MODEL, revision: str | None = None) -> Checkpoint:
    """Find a checkpoint, downloading it where needed. A hub that does not answer costs less than 10 s.

    Args:
        model: A folder, or a hub id such as ``openai/clip-vit-base-patch32``.
        revision: Branch, tag or commit on the hub; its main branch without one, except for the default model.

    Raises:
        HubUnreachable: The hub does not answer, and its local cache does not hold the model.
        ExportError: There is no such model, or it has no safetensors weights.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise ExportError(f"{model} is a folder: --revision is for models on the hub")
        _check_weights(model, [path.name for path in folder.iterdir()])
        return Checkpoint(folder, folder.resolve().name, "", _license(folder, folder.name))
    if model == DEFAULT_MODEL and revision is None:
        revision = _DEFAULT_REVISION
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model):
        raise ExportError(f"{model} is neither a folder nor a hub id such as openai/clip-vit-base-patch32")
    return _ask_child(model, revision)


def _ask_child(model: str, revision: str | None) -> Checkpoint:
    command = [sys.executable, "-m", "clipseek_export.hub", model, *([revision] if revision else [])]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)  # noqa: S603 (our own module)
    assert child.stdout is not None  # noqa: S101 (what PIPE means)
    said, patience = b"", _ANSWER
    try:
        while select.select([child.stdout], [], [], patience)[0]:
            read = os.read(child.stdout.fileno(), 65536)
            if not read:
                break
            said, patience = said + read, _STALL
        else:
            raise HubUnreachable(_unreachable(model, f"silent for {patience:.0f} s"))
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    try:
        answer = json.loads(said.strip(b".\n"))
    except ValueError:
        raise ExportError(f"the download of {model} broke off; see above") from None
    if "unreachable" in answer:
        raise HubUnreachable(_unreachable(model, answer["unreachable"]))
    if "error" in answer:
        raise ExportError(answer["error"])
    return Checkpoint(**{**answer, "folder": Path(answer["folder"])})


def _unreachable(model: str, why: str) -> str:
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    return (
        f"the model hub at {endpoint} is out of reach ({why}), and its cache on this machine does not hold {model}.\n"
        "What to do instead:\n"
        "  - export a local folder in transformers' format: --model FOLDER\n"
        "  - build the offline stand-in, which is not CLIP: --model starter\n"
        "  - name a mirror with HF_ENDPOINT=https://..., or a proxy with HTTPS_PROXY\n"
        "  - use a cache filled elsewhere: HF_HOME=FOLDER HF_HUB_OFFLINE=1"
    )


def _check_weights(model: str, names: list[str]) -> None:
    if _has_weights(names):
        return
    if any(name.startswith(_PICKLE) for name in names):
        raise ExportError(
            f"{model} has its weights only as a pickle ({_PICKLE}*.bin), which can run code when it is read. Take "
            "a revision with safetensors (on the hub often a pull request by SFconvertbot: --revision refs/pr/NUMBER), "
            "or convert it once where you trust it: CLIPModel.from_pretrained(...).save_pretrained(FOLDER)"
        )
    raise ExportError(f"{model} has no weights: model.safetensors is missing")


def _has_weights(names: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for name in names for pattern in _WEIGHTS)


def _license(folder: Path, model: str) -> str:
    """The license that the model card names; OpenAI's cards name none, their repository says MIT."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    front = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    named = re.search(r"^license:\s*(\S+)", front[1], re.MULTILINE) if front else None
    if named:
        return named[1]
    return "MIT" if model.startswith("openai/clip-") else "not stated; see the model's page"


def _fetch(model: str, revision: str | None) -> Checkpoint:
    """In the child: ask the hub what the model has, then download what an export needs."""
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    from huggingface_hub.utils.tqdm import tqdm

    class Reported(tqdm):
        """A progress bar that also tells the parent that bytes arrived."""

        def update(self, n: float | None = 1) -> None:
            print(".", end="", flush=True)  # noqa: T201 (the pipe to the parent)
            super().update(n)

    def cached() -> Checkpoint | None:
        try:
            folder = Path(snapshot_download(model, revision=revision, allow_patterns=wanted, local_files_only=True))
        except LocalEntryNotFoundError:
            return None
        names = {path.name for path in folder.iterdir()}
        whole = {"config.json", "preprocessor_config.json"} <= names and _has_weights(names)
        return Checkpoint(folder, model, folder.name, _license(folder, model)) if whole else None

    wanted = [*_WANTED, *_WEIGHTS]
    if constants.HF_HUB_OFFLINE or (revision and _COMMIT.fullmatch(revision)):
        # A commit never changes: what is here needs no asking.
        found = cached()
        if found:
            return found
        if constants.HF_HUB_OFFLINE:
            raise ExportError(f"HF_HUB_OFFLINE is set, and the cache on this machine does not hold {model}")
    try:
        info = HfApi().model_info(model, revision=revision, timeout=_TIMEOUT)
    except HfHubHTTPError as error:
        if error.response.status_code < 500:
            raise ExportError(_refusal(model, revision, error)) from error
        return cached() or _give_up(str(error))
    except Exception as error:  # whatever the transport of the day raises
        return cached() or _give_up(str(error) or type(error).__name__)
    _check_weights(model, [file.rfilename for file in info.siblings or []])
    print(".", end="", flush=True)  # noqa: T201 (the pipe to the parent)
    try:
        folder = Path(snapshot_download(model, revision=revision, allow_patterns=wanted, tqdm_class=Reported))
    except Exception as error:  # the transport's, or the disk's
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise ExportError(f"no space for {model} in the hub's cache: free some, or set HF_HOME") from error
        _give_up(f"the download failed: {error}")
    return Checkpoint(folder, model, folder.name, _license(folder, model))


def _give_up(why: str) -> NoReturn:
    raise HubUnreachable(why.strip().splitlines()[0])


def _refusal(model: str, revision: str | None, error: Exception) -> str:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    match error:
        case RevisionNotFoundError():
            return f"{model} has no revision {revision} on the hub"
        case GatedRepoError():
            return f"{model} is gated: accept its terms on its page, then set HF_TOKEN"
        case RepositoryNotFoundError():
            return f"there is no folder {model}, and no such model on the hub; if it is private, set HF_TOKEN"
    return f"the hub refuses {model}: {error}"


def main(model: str, revision: str | None) -> None:
    """The child's side of ``find_checkpoint``: dots while bytes arrive, then the checkpoint or an error as JSON."""
    from huggingface_hub.errors import HFValidationError

    try:
        answer = {**asdict(found := _fetch(model, revision)), "folder": str(found.folder)}
    except HubUnreachable as error:
        answer = {"unreachable": str(error)}
    except ExportError as error:
        answer = {"error": str(error)}
    except HFValidationError as error:
        answer = {"error": f"{model} is no folder, and cannot be on the hub: {error}"}
    print(f"\n{json.dumps(answer)}", flush=True)  # noqa: T201 (the pipe to the parent)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
