"""``clipseek insert``."""

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from clipseek import BulkResult, ClipseekError, InsertItem
from clipseek.cli.files import Found, find, readable
from clipseek.cli.output import Output
from clipseek.cli.session import FAILED, Session, command


@command
def insert(
    session: Session,
    paths: Annotated[list[Path], typer.Argument(help="Pictures, and folders to look through.", show_default=False)],
    on_exists: Annotated[
        Literal["keep", "replace", "fail"],
        typer.Option(
            help="When a picture is stored already: keep it as it is, replace its metadata by this path, or fail."
        ),
    ] = "keep",
) -> None:
    """Store pictures: files, and all that lie below folders but hidden ones.

    Each is stored under the SHA-256 of its bytes, with its path below the folder as metadata "file". Repeating it
    changes nothing. What is no picture is left out and listed. With --json, one line a picture. Exit code 1: some were
    not stored.

    Try:

      clipseek insert holiday/

      clipseek insert cat.jpg dog.png --collection pets
    """
    output = session.output
    found = list(find(paths))
    pictures = [file for file in found if file.picture]
    others = [file for file in found if not file.picture]
    counts = Counter[str]()
    try:
        with session.client() as client, _progress(output) as progress:
            task = progress.add_task("storing", total=len(pictures))
            items = (InsertItem(file.path, metadata={"file": file.name}) for file in pictures)
            for result in client.insert_many(items, collection=session.collection, on_exists=on_exists):
                progress.advance(task)
                counts["failed" if result.error else result.outcome] += 1
                _report(output, pictures[result.index], result)
    except (ClipseekError, KeyboardInterrupt):
        counts["without an answer"] = len(pictures) - counts.total()
        _summary(output, counts, others)
        output.note("running it again is safe, and stores what is missing")
        raise
    _summary(output, counts, others)
    if counts["failed"] or any(file.named for file in others):
        sys.exit(FAILED)


def _progress(output: Output) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(
        *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=output.err, disable=not output.err.is_terminal
    )


def _report(output: Output, file: Found, result: BulkResult) -> None:
    if result.error is not None:
        output.note(f"not stored: {file.path}: {result.error}")
    if not output.json:
        return
    row: dict[str, object] = {"path": readable(file.path)}
    if result.error is None:
        row |= {"image_id": result.image_id, "outcome": result.outcome}
    else:
        error = result.error
        row |= {"error": {"code": error.code.name, "reason": error.reason, "message": error.message}}
    output.value(row)


def _summary(output: Output, counts: Counter[str], others: list[Found]) -> None:
    for file in others:
        output.note(f"no picture: {file.path}")
    words = [f"{count} {outcome}" for outcome, count in sorted(counts.items()) if count]
    words += [f"{len(others)} no pictures"] * bool(others)
    output.note(", ".join(words) or "nothing to store")
