"""Write the tables of the documentation from results, and plots: ``python -m benchmarks.report [--check]``."""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

from benchmarks.scaling import scaling_tables
from benchmarks.tables import ALL, Results, tables

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = tuple(
    ROOT / "benchmarks" / "results" / f"{name}.json"
    for name in (
        "cpu",
        "elsewhere",
        "retrieval",
        "resident",
        "runtimes",
        "milvus_index",
        "independent",
        "arenas",
        "settings",
    )
)
NOT_MEASURED = "Not measured in this run.\n"
PAGE = ROOT / "docs" / "performance.md"
PAGES = (PAGE, ROOT / "docs" / "load-testing.md", ROOT / "docs" / "scaling.md")


def read_results(paths: Iterable[Path]) -> Results:
    """What several runs wrote, as one; each brings sections of its own."""
    results: Results = {}
    for path in paths:
        results |= json.loads(path.read_text())
    return results


def with_tables(text: str, made: dict[str, str]) -> str:
    """A text with each table between its marks, ``<!-- table NAME -->`` and ``<!-- /table -->``."""
    for name, table in made.items():
        mark, end = f"<!-- table {name} -->\n", "<!-- /table -->\n"
        before, found, rest = text.partition(mark)
        if found:
            _, _, after = rest.partition(end)
            text = before + mark + table + end + after
    return text


def main() -> None:
    """Rewrite the pages, or say whether they are up to date."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("results", type=Path, nargs="*", default=PUBLISHED, help="what runs wrote")
    parser.add_argument("--output", type=Path, help="write docs/performance.md here instead of all pages in place")
    parser.add_argument("--plots", type=Path, help="draw plots into this folder")
    parser.add_argument("--check", action="store_true", help="change nothing; fail if the page is out of date")
    options = parser.parse_args()
    results = read_results(options.results)
    made = tables(results) | scaling_tables()
    for page in [PAGE] if options.output else PAGES:
        text = page.read_text(encoding="utf-8")
        # On a page of its own a run must not show what another one found.
        fresh = with_tables(text, dict.fromkeys(ALL, NOT_MEASURED) | made if options.output else made)
        if not options.check:
            (options.output or page).write_text(fresh, encoding="utf-8")
        elif fresh != text:
            raise SystemExit(f"docs/{page.name}: the tables are out of date; run python -m benchmarks.report")
    if options.check:
        return
    if options.plots:
        from benchmarks.plots import draw

        for path in draw(results, options.plots):
            print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
