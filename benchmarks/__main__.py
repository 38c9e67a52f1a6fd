"""Measure: ``python -m benchmarks [smoke|short|full]``.

Run it from the repository's root, on a machine with nothing else to do.
"""

import argparse
import importlib
import json
import time
from pathlib import Path
from typing import Any, get_args

SECTIONS = ("limit", "engine", "peers", "mixed", "scale", "loading", "milvus", "memory")


def main() -> None:
    """Run the sections, each writing its part of the results as soon as it has it."""
    # Here, so that the load generator's processes, which import this module too, stay light.
    from benchmarks.bench import PRECISIONS, PROFILES, Bench, Profile
    from benchmarks.machine import Theft, commit, facts
    from benchmarks.workspace import Workspace
    from clipseek_server.encoding.bundle import Precision

    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("profile", choices=PROFILES, nargs="?", default="short", help="how much (default: short)")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS, help="only these")
    parser.add_argument("--folder", type=Path, default=Path("build/bench"), help="for models, data and results")
    parser.add_argument("--results", type=Path, help="the JSON file (default: FOLDER/PROFILE.json); updated by section")
    parser.add_argument(
        "--precisions",
        nargs="+",
        choices=get_args(Precision),
        default=PRECISIONS,
        help="of the sections limit and engine; fp16 for a GPU (default: fp32 int8)",
    )
    options = parser.parse_args()

    profile: Profile = PROFILES[options.profile]
    bench = Bench(profile, Workspace(options.folder, small=profile.small), options.precisions)
    path: Path = options.results or options.folder / f"{options.profile}.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    machine = facts(options.folder)
    if results.get("machine", machine)["cpu"] != machine["cpu"]:
        print(f"{path} is of another machine and begun anew")
        results = {}
    results["machine"] = machine
    for name in options.sections:
        begin = time.monotonic()
        print(f"{name} ...", flush=True)
        section = importlib.import_module(f"benchmarks.sections.{name}")
        with Theft() as theft:
            results[name] = section.measure(bench)
        seconds = round(time.monotonic() - begin, 1)
        at = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
        run = {
            "profile": options.profile,
            "at": at,
            "seconds": seconds,
            "stolen": theft.share,
            "commit": commit(),
        }
        results.setdefault("runs", {})[name] = run
        path.write_text(json.dumps(results, indent=1) + "\n")
        print(f"{name}: {seconds} s, of the cores {theft.share:.0%} stolen", flush=True)
    print(f"{path} is ready; python -m benchmarks.report {path} makes tables and plots of it")


if __name__ == "__main__":
    main()
