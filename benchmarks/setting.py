"""Compare values of one of the server's settings, turn about.

    python -m benchmarks.setting batch_seconds 0.05 0.1 0.2 0.4 --precision int8 --output setting.json

For each value a server is started, with the full-size model over 10,000 pictures: pictures a second of 16 callers, and
the times of text searches that come at a constant rate meanwhile.
"""

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.bench import PRECISIONS, PROFILES, Bench, medians, milliseconds
from benchmarks.machine import facts
from benchmarks.workspace import Workspace
from clipseek.bench import ClipseekTarget, ClosedLoop, OpenLoop
from clipseek_server.config import Settings
from clipseek_server.encoding.bundle import Precision

ROWS = 10_000
PICTURE_CALLERS = 16
TEXTS_A_SECOND = 20.0


def main() -> None:
    """Print a table, and write it as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.setting", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("setting", choices=Settings.model_fields, metavar="setting", help="its name")
    parser.add_argument("values", nargs="+", help="what to set it to")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of the model (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=3, help="medians are taken over so many (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of a measurement (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("build/bench"), help="for models and data")
    parser.add_argument("--output", type=Path, help="the JSON file; other settings in it are kept")
    options = parser.parse_args()

    bench = Bench(PROFILES["short"], Workspace(options.folder))
    turns: dict[str, list[dict[str, Any]]] = {value: [] for value in options.values}
    for _ in range(options.turns):
        for value, found in turns.items():
            environment = {f"CLIPSEEK_{options.setting.upper()}": value}
            found.append(_measure(bench, options.precision, environment, options.seconds))
    rows = {value: medians(found) for value, found in turns.items()}
    for value, row in rows.items():
        print(f"{options.setting}={value}: {row}")
    if options.output:
        kept = json.loads(options.output.read_text()) if options.output.exists() else {"settings": {}}
        kept["settings"][f"{options.setting}, {options.precision}"] = {"machine": facts(options.folder), "values": rows}
        options.output.write_text(json.dumps(kept, indent=1) + "\n")


def _measure(bench: Bench, precision: Precision, environment: dict[str, str], seconds: float) -> dict[str, Any]:
    with bench.server(precision, bench.workspace.data(ROWS), environment=environment) as server:
        target = ClipseekTarget(server.address, pictures=bench.workspace.pictures())
        alone = bench.load(target, "embed_image", ClosedLoop(PICTURE_CALLERS), seconds=seconds, warmup=2.0)
        with ThreadPoolExecutor(1) as beside:
            pictures = beside.submit(
                bench.load, target, "embed_image", ClosedLoop(PICTURE_CALLERS), seconds=seconds + 3.0, warmup=0.0
            )
            texts = bench.load(target, "search_text", OpenLoop(TEXTS_A_SECOND), seconds=seconds, warmup=2.0)
            pictures.result()
    return {"pictures_rate": alone.total.rate, "picture": milliseconds(alone), "text_beside": milliseconds(texts)}


if __name__ == "__main__":
    main()
