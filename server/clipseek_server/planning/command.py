"""``clipseek-server plan``: wishes from the command line, a plan as a table or as JSON."""

import argparse
import json
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from pydantic import ValidationError

from clipseek_server.planning.plan import Plan, Wishes, make_plan

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


class _Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter): ...


def main(arguments: Sequence[str]) -> None:
    """Print a plan; exits with 2 on wrong usage."""
    parser = argparse.ArgumentParser(
        prog="clipseek-server plan",
        usage="clipseek-server plan --pictures N [options]",
        description=_DESCRIPTION,
        formatter_class=_Help,
        allow_abbrev=False,
    )
    for name, wish in Wishes.model_fields.items():
        required = wish.is_required()
        default = argparse.SUPPRESS if required else wish.default
        parser.add_argument(_flag(name), required=required, default=default, metavar="…", help=wish.description)
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    options = vars(parser.parse_args(arguments))
    as_json = options.pop("json", False)
    try:
        wishes = Wishes(**options)
    except ValidationError as error:
        problem = error.errors()[0]
        words = problem["msg"].removeprefix("Value error, ")
        parser.error(f"argument {_flag(str(problem['loc'][0]))}: {problem['input']}: {words}")
    plan = make_plan(wishes)
    sys.stdout.write(_as_json(wishes, plan) if as_json else "\n".join(_as_text(wishes, plan)) + "\n")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _as_text(wishes: Wishes, plan: Plan) -> Iterator[str]:
    searched = "" if plan.index == "in memory" else f", its {plan.index} searched with effort {wishes.effort}"
    yield from textwrap.wrap(
        f"{wishes.pictures:,} pictures, {wishes.qps:g} searches/s by text, vectors of {wishes.dimension}, "
        f"{wishes.precision}: {_RUNS[plan.runs]}{searched}",
        _WIDTH,
    )
    for title, lines in plan.sections.items():
        yield from ("", title)
        for line in lines:
            number = f"  {line.what:<36} {line.shown:>18}  {line.kind:<10}  "
            yield from textwrap.wrap(line.why, _WIDTH, initial_indent=number, subsequent_indent=" " * len(number))
    yield from ("", "Notes")
    for note in plan.notes:
        yield from textwrap.wrap(note, _WIDTH, initial_indent="  - ", subsequent_indent="    ")


def _as_json(wishes: Wishes, plan: Plan) -> str:
    lines = [{"section": title, **asdict(line)} for title, lines in plan.sections.items() for line in lines]
    document = {"wishes": wishes.model_dump(), "runs": plan.runs, "index": plan.index, "lines": lines}
    return json.dumps({**document, "notes": plan.notes}, indent=1, ensure_ascii=False) + "\n"
