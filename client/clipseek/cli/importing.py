"""``clipseek import``."""

import itertools
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated, Generic, Literal, NamedTuple, TypeVar

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from clipseek import BulkResult, Client, ClipseekError, Image, InsertItem, InvalidArgumentError, OverloadedError
from clipseek.cli.files import Found, check_writable, find, readable
from clipseek.cli.metadata import FILE, Attached, pairs, read_table
from clipseek.cli.output import Output, plain_json
from clipseek.cli.session import FAILED, TRY_AGAIN, Session, command
from clipseek.requests import OnExists
from clipseek.stored import changes_nothing, content_sha256

_ASKED_AT_A_TIME = 128
"""Pictures: one question for so many costs the server little more than for one."""

_LISTED_FAILURES = 20

_KEPT = "kept"
"""The outcome where another picture has the id."""

_LINKED = "a symbolic link to a folder; name it to store what is in it"

T = TypeVar("T")


@command
def import_pictures(
    session: Session,
    paths: Annotated[list[Path], typer.Argument(help="Pictures, and folders to look through.", show_default=False)],
    on_exists: Annotated[
        Literal["keep", "replace", "fail"],
        typer.Option(help="When a picture is stored already: keep it as it is, replace it and its metadata, or fail."),
    ] = "keep",
    metadata: Annotated[
        list[str] | None,
        typer.Option(
            "--metadata",
            "-m",
            help="KEY=VALUE for every picture; again for more. Numbers, true, false and other JSON are read as such.",
            show_default=False,
        ),
    ] = None,
    metadata_from: Annotated[
        Path | None,
        typer.Option(
            help="CSV or JSON Lines with a column 'file', the picture's path below the folder; a column 'image_id' is "
            "its id, the others are its metadata."
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(help="Streams at a time, at most what the server takes. One keeps a CPU busy.", min=1)
    ] = 1,
    patience: Annotated[
        float,
        typer.Option(
            help="Seconds to go on trying when the server goes away meanwhile, and to wait for a result, with the time "
            "for sending the pictures; 0 gives up at once.",
            min=0,
        ),
    ] = 60.0,
    failures: Annotated[
        Path | None, typer.Option(help="Write what was not stored, and why, to this file, as JSON Lines.")
    ] = None,
) -> None:
    """Store pictures: files, and all that lie below folders but hidden ones.

    Each is stored under the SHA-256 of its bytes, unless --metadata-from names an id, with its path below the folder as
    metadata "file". Repeating it changes nothing: what the server has is not sent again, so an import that was
    interrupted goes on where it was. What is no picture is left out and listed. So are symbolic links to folders: name
    one, and what is in it is stored. With --json, one line a picture. Exit code 1: some were not stored; 3: a later try
    may store them.

    Try:

      clipseek import holiday/

      clipseek import cat.jpg dog.png --collection pets --metadata year=2024

      clipseek import shop/ --metadata-from products.csv --failures failed.jsonl
    """
    output = session.output
    if failures is not None:
        check_writable(failures)
    try:
        attached = Attached(pairs(metadata or ()), read_table(metadata_from) if metadata_from else {})
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    found = list(find(paths))
    pictures = [file for file in found if file.picture]
    for name in attached.without_picture(file.name for file in pictures):
        output.note(f"{metadata_from} names {name}, and there is no such picture")
    report = _Report(output, [file for file in found if not file.picture])
    wanted = [_Wanted.of(file, attached) for file in pictures]
    _check_ids(wanted)
    # Whoever ends it is told what was done until then, as with Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with session.client() as client, _progress(output) as progress:
            task = progress.add_task("storing", total=len(pictures))
            # More than the server takes would wait for each other.
            streams = min(workers, client.info().limits.max_bulk_streams)
            for done in _store(client, wanted, session.collection, on_exists, streams, patience):
                progress.advance(task)
                report.add(done)
    except (ClipseekError, KeyboardInterrupt) as error:
        report.unanswered(pictures, error)
        report.end(failures)
        if not isinstance(error, ClipseekError) or error.may_pass:
            output.note("running it again is safe, and stores what is missing")
        raise
    report.end(failures)
    if report.final or any(file.named for file in report.others):
        sys.exit(FAILED)
    if report.failed:
        sys.exit(TRY_AGAIN)


@dataclass(frozen=True)
class _Wanted:
    """A file to store."""

    file: Found
    item: InsertItem

    @classmethod
    def of(cls, file: Found, attached: Attached) -> "_Wanted":
        image_id, metadata = attached.of(file.name)
        return cls(file, InsertItem(file.path, image_id, metadata))

    def is_described_by(self, stored: Image) -> bool:
        """Whether what is stored has the metadata asked for. Of a picture with two names either is right."""
        asked = self.item.metadata or {}
        return all(key == FILE or (key in stored.metadata and stored.metadata[key] == asked[key]) for key in asked)


def _check_ids(wanted: Iterable[_Wanted]) -> None:
    """Of two pictures with one id only one would be stored."""
    files: dict[str, Path] = {}
    for each in wanted:
        image_id, path = each.item.image_id, each.file.path
        if image_id is not None and (other := files.setdefault(image_id, path)) != path:
            raise typer.BadParameter(f"--metadata-from gives both {other} and {path} the id {image_id}")


class _Done(NamedTuple):
    """What became of a file; ``keeps_other_metadata`` where it stays stored with other than asked for."""

    file: Found
    result: BulkResult
    keeps_other_metadata: bool = False


class _Shared(Generic[T]):
    """What several threads take from, and give back to."""

    def __init__(self, items: Iterable[T]) -> None:
        self._items = deque(items)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._items)

    def take(self, most: int) -> list[T]:
        with self._lock:
            return [self._items.popleft() for _ in range(min(most, len(self._items)))]

    def give_back(self, items: Iterable[T]) -> None:
        with self._lock:
            self._items.extend(items)


class _Taken:
    """What one stream takes of what is wanted, until its results are there or it gives it back."""

    def __init__(self, shared: _Shared[_Wanted], not_stored: Callable[[list[_Wanted]], list[_Wanted]]) -> None:
        self._shared = shared
        self._not_stored = not_stored
        self._numbers = itertools.count()
        self._unanswered: dict[int, _Wanted] = {}
        self._taking = threading.Lock()
        self._ended = False

    def items(self) -> Iterator[InsertItem]:
        """What is to be sent, which a thread of the client's reads."""
        while some := self._some():
            for each in some:
                yield each.item

    def _some(self) -> list[_Wanted]:
        with self._taking:
            while not self._ended and (some := self._shared.take(_ASKED_AT_A_TIME)):
                if missing := self._not_stored(some):
                    self._unanswered |= {number: each for each, number in zip(missing, self._numbers, strict=False)}
                    return missing
            return []

    def answered(self, index: int) -> Found:
        """The file whose result is there."""
        return self._unanswered.pop(index).file

    def give_back(self) -> None:
        """Leave what has no result to others, and take no more."""
        with self._taking:
            self._ended = True
            self._shared.give_back(self._unanswered.values())


def _store(
    client: Client, wanted: list[_Wanted], collection: str, on_exists: OnExists, workers: int, patience: float
) -> Iterator[_Done]:
    """What became of each, in any order; raises what ended a worker before its time.

    A worker for whose stream the server has no room leaves what it took to the others.
    """
    results: SimpleQueue[_Done | Exception | None] = SimpleQueue()
    shared = _Shared(wanted)

    def work() -> None:
        taken = _Taken(shared, lambda some: _not_stored(client, some, collection, on_exists, results.put))
        try:
            for result in client.insert_stream(
                taken.items(), collection=collection, on_exists=on_exists, patience=patience
            ):
                results.put(_Done(taken.answered(result.index), result))
        except Exception as error:
            if isinstance(error, OverloadedError):
                taken.give_back()
            results.put(error)
        else:
            results.put(None)

    def begin() -> None:
        threading.Thread(target=work, daemon=True).start()

    working, resting = workers, 0
    refusal: OverloadedError | None = None
    for _ in range(working):
        begin()
    while working:
        result = results.get()
        if isinstance(result, _Done):
            yield result
            continue
        working -= 1
        if result is None:
            resting += 1
        elif isinstance(result, OverloadedError):
            refusal = result
        else:
            raise result
        # One that had found nothing left had room.
        if resting and shared:
            resting, working = resting - 1, working + 1
            begin()
    if refusal is not None and shared:
        raise refusal


def _not_stored(
    client: Client,
    wanted: list[_Wanted],
    collection: str,
    on_exists: OnExists,
    settle: Callable[[_Done], None],
) -> list[_Wanted]:
    """Those that must be sent; of the others the result is handed in."""
    if on_exists == "fail":
        return wanted
    hashes = [content_sha256(each.item) for each in wanted]
    ids = [each.item.image_id or sha256 for each, sha256 in zip(wanted, hashes, strict=True)]
    try:
        batch = client.get_many([image_id for image_id in ids if image_id], collection=collection)
    except InvalidArgumentError:
        # One of the ids is none.
        if len(wanted) == 1:
            return wanted
        middle = len(wanted) // 2
        halves = wanted[:middle], wanted[middle:]
        return [each for half in halves for each in _not_stored(client, half, collection, on_exists, settle)]
    except ClipseekError:
        return wanted  # no such collection yet, nobody there: sending them will say
    stored = {image.image_id: image for image in batch}
    missing = []
    for each, image_id, sha256 in zip(wanted, ids, hashes, strict=True):
        image = stored.get(image_id)
        # What cannot be read has no hash, and sending it says why.
        if image is None or not sha256 or not changes_nothing(each.item, sha256, image, on_exists):
            missing.append(each)
        else:
            outcome = "unchanged" if image.content_sha256 == sha256 else _KEPT
            result = BulkResult(-1, each.item, image_id=image_id, outcome=outcome)
            settle(_Done(each.file, result, outcome != _KEPT and not each.is_described_by(image)))
    return missing


class _Report:
    """What is said of an import, on the way and at its end."""

    def __init__(self, output: Output, others: list[Found]) -> None:
        self.counts = Counter[str]()
        self.others = others
        self.failed: list[dict[str, object]] = []
        self.final = False  # whether any of them would fail again
        self._keep_other_metadata = 0
        self._answered = set[Path]()
        self._without_answer: list[dict[str, object]] = []
        self._lines: list[str] = []
        self._output = output

    def add(self, done: _Done) -> None:
        file, result, keeps_other_metadata = done
        self._keep_other_metadata += keeps_other_metadata
        row: dict[str, object] = {"path": readable(file.path)}
        self._answered.add(file.path)
        if result.error is None:
            self.counts[result.outcome] += 1
            row |= {"image_id": result.image_id, "outcome": result.outcome}
        else:
            self.counts["failed"] += 1
            row |= {"error": _in_json(result.error)}
            self.failed.append(row)
            self.final |= not result.error.may_pass
            self._lines.append(f"not stored: {file.path}: {result.error}")
        if self._output.json:
            self._output.value(row)

    def unanswered(self, pictures: list[Found], error: BaseException) -> None:
        """Take in what ended before these had an answer."""
        left = [file for file in pictures if file.path not in self._answered]
        self.counts["without an answer"] = len(left)
        why = _in_json(error) if isinstance(error, ClipseekError) else {"message": "interrupted"}
        self._without_answer = [{"path": readable(file.path), "error": why} for file in left]

    def end(self, failures: Path | None) -> None:
        for line in self._lines[:_LISTED_FAILURES]:
            self._output.note(line)
        if len(self.failed) > _LISTED_FAILURES:
            where = f"all are in {failures}" if failures else "--failures FILE keeps all of them"
            self._output.note(f"not stored: {len(self.failed) - _LISTED_FAILURES} more; {where}")
        no_pictures = [file for file in self.others if not file.linked_folder]
        linked = [file for file in self.others if file.linked_folder]
        for file in no_pictures:
            self._output.note(f"no picture: {file.path}")
        for file in linked:
            self._output.note(f"not looked through: {file.path}: {_LINKED}")
        if self.counts[_KEPT]:
            self._output.note(f"{_KEPT}: other pictures have these ids; --on-exists replace replaces them")
        if self._keep_other_metadata:
            self._output.note(f"{self._keep_other_metadata} keep other metadata; --on-exists replace replaces it")
        if failures is not None:
            left_out = [(file, "no picture") for file in no_pictures if file.named]
            left_out += [(file, _LINKED) for file in linked]
            others = [{"path": readable(file.path), "error": {"message": why}} for file, why in left_out]
            lines = (f"{plain_json(row)}\n" for row in [*self.failed, *others, *self._without_answer])
            failures.write_text("".join(lines), encoding="utf-8")
        words = [f"{count} {outcome}" for outcome, count in sorted(self.counts.items()) if count]
        words += [f"{len(no_pictures)} no pictures"] * bool(no_pictures)
        words += [f"{len(linked)} linked folders not looked through"] * bool(linked)
        self._output.note(", ".join(words) or "nothing to store")


def _in_json(error: ClipseekError) -> dict[str, str]:
    return {"code": error.code.name, "reason": error.reason, "message": error.message}


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:.1f}/s", style="progress.data.speed")


def _progress(output: Output) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate())
    return Progress(
        *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=output.err, disable=not output.err.is_terminal
    )
