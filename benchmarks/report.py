"""Write the tables of docs/performance.md from results, and plots: ``python -m benchmarks.report [--check]``."""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

from benchmarks.tables import Results, tables

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = tuple(
    ROOT / "benchmarks" / "results" / f"{name}.json"
    for name in ("cpu", "elsewhere", "retrieval", "resident", "runtimes", "milvus_index")
)
PAGE = ROOT / "docs" / "performance.md"


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
    """Rewrite the page, or say whether it is up to date."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("results", type=Path, nargs="*", default=PUBLISHED, help="what runs wrote")
    parser.add_argument("--output", type=Path, default=PAGE, help="the page to write (default: docs/performance.md)")
    parser.add_argument("--plots", type=Path, help="draw plots into this folder")
    parser.add_argument("--check", action="store_true", help="change nothing; fail if the page is out of date")
    options = parser.parse_args()
    results = read_results(options.results)
    text = PAGE.read_text(encoding="utf-8")
    fresh = with_tables(text, tables(results))
    if options.check:
        if fresh != text:
            raise SystemExit("docs/performance.md: the tables are out of date; run python -m benchmarks.report")
        return
    options.output.write_text(fresh, encoding="utf-8")
    if options.plots:
        from benchmarks.plots import draw

        for path in draw(results, options.plots):
            print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
