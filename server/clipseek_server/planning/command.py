"""``clipseek-server plan``: wishes from the command line, a plan as a table or as JSON."""

import argparse
import json
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, asdict, fields

from clipseek_server.planning.plan import Plan, Wishes, make_plan
from clipseek_server.planning.sizes import PLANNED, parse_count, setting

_DESCRIPTION = """\
Calculate what a number of pictures and searches takes: what to run, memory, cores, machines, storage, cost. Every
number says whether it was measured (and where) or calculated (and how); docs/scaling.md explains them.

  clipseek-server plan --pictures 50M --qps 200
  clipseek-server plan --pictures 300k --qps 20 --picture-qps 5 --inserts-per-second 2 --precision int8
  clipseek-server plan --pictures 10M --qps 100 --index HNSW --import-hours 72 --node-cores 32 --node-gb 256
  clipseek-server plan --pictures 1B --qps 500 --core-hour 0.031 --gb-hour 0.0042 --gb-month 0.023 --json"""

_WIDTH = 120
_RUNS = {
    "lite": "one clipseek-server with Milvus Lite, searched in memory",
    "standalone": "clipseek servers over one standalone Milvus",
    "cluster": "clipseek servers over a Milvus cluster",
}


def main(arguments: Sequence[str]) -> None:
    """Print a plan; exits with 2 on wrong usage."""
    options = vars(_parser().parse_args(arguments))
    as_json = options.pop("json")
    wishes = Wishes(**options)
    plan = make_plan(wishes)
    sys.stdout.write(_as_json(wishes, plan) if as_json else "\n".join(_as_text(wishes, plan)) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="clipseek-server plan",
        usage="clipseek-server plan --pictures N [options]",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    resident = setting("resident_max_rows")
    default = {field.name: field.default for field in fields(Wishes) if field.default is not MISSING}

    def add(flag: str, name: str, kind: Callable[[str], object], what: str) -> None:
        parser.add_argument(flag, dest=name, type=kind, default=default[name], help=f"{what} (default: %(default)s)")

    parser.add_argument("--pictures", type=_count, required=True, metavar="N", help="pictures to store: 10k, 50M, 1B")
    add("--qps", "qps", _rate, "searches by new texts a second, at the peak")
    add("--picture-qps", "picture_qps", _rate, "searches by new pictures a second, at the peak")
    add("--inserts-per-second", "inserts", _rate, "pictures inserted a second, at the same time")
    add("--import-hours", "import_hours", _positive, "hours in which all pictures are to be imported first")
    add("--dimension", "dimension", _whole, "numbers of a vector")
    parser.add_argument(
        "--precision", choices=["fp32", "int8"], default=default["precision"], help="the model's (default: %(default)s)"
    )
    parser.add_argument(
        "--index",
        choices=PLANNED,
        help=f"of a Milvus server (default: up to {resident:,} pictures none, but Milvus Lite and a copy in memory, if "
        "one machine bears the peak; else IVF_FLAT)",
    )
    parser.add_argument(
        "--effort", choices=["default", "fast"], default=default["effort"], help="of searches (default: %(default)s)"
    )
    add("--metadata-bytes", "metadata_bytes", _nothing_or_more, "bytes of a picture's metadata as JSON, mean")
    add("--picture-kb", "picture_kb", _positive, "KB of a picture's file, mean")
    add("--thumbnail-kb", "thumbnail_kb", _positive, "KB of a thumbnail, mean")
    add("--replicas", "replicas", _whole, "copies of the vectors in Milvus' query nodes")
    add("--server-cores", "server_cores", _whole, "cores of a machine for one clipseek server")
    add("--node-cores", "node_cores", _whole, "cores of a machine for a Milvus query node")
    add("--node-gb", "node_gb", _positive, "GB of its memory")
    add("--busy", "busy", _share, "share of the cores that the peak may take")
    add("--full", "full", _share, "share of a query node's memory to fill; Milvus itself stops at 0.9")
    add("--core-hour", "core_hour", _rate, "your price of a core for an hour; the default is a round number, no quote")
    add("--gb-hour", "gb_hour", _rate, "your price of a GB of memory for an hour; likewise")
    add("--gb-month", "gb_month", _rate, "your price of a GB of storage for a month; likewise")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _as_text(wishes: Wishes, plan: Plan) -> Iterator[str]:
    yield (
        f"{wishes.pictures:,} pictures, {wishes.qps:g} searches/s by text, vectors of {wishes.dimension}, "
        f"{wishes.precision}: {_RUNS[plan.runs]}"
    )
    searched = "in memory" if plan.index == "in memory" else f"by Milvus' {plan.index}, effort {wishes.effort}"
    yield f"Searched {searched}."
    for title, lines in plan.sections.items():
        yield ""
        yield title
        for line in lines:
            number = f"  {line.what:<36} {line.shown:>18}  {line.kind:<10}  "
            yield from textwrap.wrap(line.why, _WIDTH, initial_indent=number, subsequent_indent=" " * len(number))
    yield ""
    yield "Assumed"
    yield from _wrapped(
        f"{wishes.busy:.0%} of the cores busy at the peak, {wishes.full:.0%} of a query node's memory full, "
        f"{wishes.picture_kb:g} KB a picture, {wishes.thumbnail_kb:g} KB a thumbnail, "
        f"{wishes.metadata_bytes} B of metadata; the flags of the same names change them."
    )
    for note in plan.notes:
        yield from _wrapped(note)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="  - ", subsequent_indent="    ")


def _as_json(wishes: Wishes, plan: Plan) -> str:
    document = {
        "wishes": asdict(wishes),
        "runs": plan.runs,
        "index": plan.index,
        "lines": [{"section": title, **asdict(line)} for title, lines in plan.sections.items() for line in lines],
        "notes": plan.notes,
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _count(text: str) -> int:
    try:
        return parse_count(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _rate(text: str) -> float:
    return _number(text, 0.0, 1e9)


def _positive(text: str) -> float:
    return _number(text, 1e-3, 1e9)


def _share(text: str) -> float:
    return _number(text, 0.01, 1.0)


def _whole(text: str) -> int:
    return int(_number(text, 1, 65_536, whole=True))


def _nothing_or_more(text: str) -> int:
    return int(_number(text, 0, 65_536, whole=True))


def _number(text: str, least: float, most: float, *, whole: bool = False) -> float:
    try:
        number = float(int(text)) if whole else float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no {'whole ' if whole else ''}number") from error
    if not least <= number <= most:  # refuses what is not a number, too
        raise argparse.ArgumentTypeError(f"{text} is out of range: {least:g} to {most:g}")
    return number
