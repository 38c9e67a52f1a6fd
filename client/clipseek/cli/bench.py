"""``clipseek bench``."""

import itertools
import json
import math
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from clipseek.cli.files import check_writable, find
from clipseek.cli.output import Output
from clipseek.cli.session import FAILED, INTERRUPTED, TRY_AGAIN, Session, command

if TYPE_CHECKING:
    from clipseek.bench import ClipseekTarget, ClosedLoop, Load, LoadResult, OpenLoop
    from clipseek.bench.objective import Objective
    from clipseek.bench.step_search import Found

Arrivals: TypeAlias = Literal["constant", "poisson"]


@command
def bench(
    session: Session,
    mix: Annotated[
        str,
        typer.Option(
            help="Operations and weights: search_text, search_image, embed_text, embed_image, insert, bulk_import (64 "
            "pictures a call)."
        ),
    ] = "search_text",
    callers: Annotated[
        str,
        typer.Option(
            help="Closed loop: so many callers, each calling again as soon as it has its answer; several numbers, "
            "separated by commas, are measured one after the other. (default: 1, without --rate and --slo)"
        ),
    ] = "",
    rate: Annotated[
        str,
        typer.Option(
            help="Open loop: so many calls a second, whether or not the answers keep up; latency counts from when a "
            "call was due. Several as for --callers."
        ),
    ] = "",
    arrivals: Annotated[
        Arrivals,
        typer.Option(help="Open loop: calls at a constant distance, or by chance, as many users make them."),
    ] = "constant",
    seconds: Annotated[float, typer.Option(help="How long each is measured.", min=0.1)] = 30.0,
    warmup: Annotated[float, typer.Option(help="Seconds before that; they do not count.", min=0)] = 3.0,
    processes: Annotated[int, typer.Option(help="Processes that make the calls.", min=1)] = 1,
    slo: Annotated[
        str,
        typer.Option(
            help='Search for the highest rate that meets this, e.g. "p99<50ms,errors<0.1%"; it begins at --rate, or 10.'
        ),
    ] = "",
    max_rate: Annotated[float, typer.Option(help="Of that search: no rate above it is tried.")] = 100_000.0,
    pictures: Annotated[
        Path | None, typer.Option(help="Folder of pictures to send. (default: 16 made-up photographs)")
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option(help="File of sentences to search for, one a line. (default: made-up ones, all different)"),
    ] = None,
    filter: Annotated[str, typer.Option("--filter", "-f", help="Of the searches.")] = "",
    top_k: Annotated[int, typer.Option("--top-k", "-k", help="Hits of each search.", min=1)] = 5,
    metrics: Annotated[
        str, typer.Option(help="Of a server with --metrics-listen, e.g. http://127.0.0.1:9464/metrics: what it says.")
    ] = "",
    output_file: Annotated[Path | None, typer.Option("--output", "-o", help="Keep the numbers as JSON.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with plots.")] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="Measure nothing; show two results of --output side by side.", show_default=False),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            help="Of the choice among the operations and of Poisson's arrivals; each further measurement adds 1."
        ),
    ] = 0,
) -> None:
    """Put a load on a server and say how it bore it.

    A closed loop finds the most that a server can do; an open loop finds what its users see at a given rate. With
    --json the numbers are printed as JSON. Exit code 1: calls failed, or no rate met the --slo.

    Try:

      clipseek bench --callers 1,4,16

      clipseek bench --rate 50 --arrivals poisson --seconds 120 --html report.html

      clipseek bench --slo "p99<100ms,errors<0.1%" --mix search_text=9,search_image=1

      clipseek bench --collection scratch --mix search_text=20,insert=1 --rate 20 --output before.json

      clipseek bench --compare before.json after.json
    """
    try:
        from clipseek.bench import ClipseekTarget, ClosedLoop, GeneratorError, Load, OpenLoop
        from clipseek.bench.objective import Objective
        from clipseek.bench.operations import OPERATIONS, WITH_PICTURES, WRITING
        from clipseek.bench.report import read_json, to_html, to_json
    except ModuleNotFoundError as error:
        raise typer.BadParameter(
            f"bench needs {error.name}; in a clone of clipseek, run: pip install '.[bench]'"
        ) from error

    output = session.output
    if compare is not None:
        _compare(output, read_json(compare[0]), read_json(compare[1]))
        return
    for file in (output_file, html):
        if file is not None:
            check_writable(file)
    weights = _weights(mix)
    if unknown := weights.keys() - set(OPERATIONS):
        raise typer.BadParameter(f"no such operation: {', '.join(sorted(unknown))}; there are {', '.join(OPERATIONS)}")
    if weights.keys() & WRITING and not session.collection:
        raise typer.BadParameter("inserts would leave test pictures in default: name another with --collection")
    if callers and (rate or slo):
        raise typer.BadParameter("--callers is a closed loop, --rate and --slo are open ones: give one of them")
    try:
        objective = Objective.parse(slo) if slo else None
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if not max_rate > 0:
        raise typer.BadParameter(f"--max-rate is above 0, not {max_rate:g}")
    rates, counts = _numbers(rate, "--rate"), _numbers(callers, "--callers")
    if not all(count.is_integer() for count in counts):
        raise typer.BadParameter(f"--callers takes whole numbers, not {callers!r}")
    if objective is not None and len(rates) > 1:
        raise typer.BadParameter("a search begins at one --rate")
    try:
        shapes: list[ClosedLoop | OpenLoop] = [OpenLoop(each, arrivals) for each in rates]
        shapes = shapes or [ClosedLoop(int(each)) for each in counts or [1.0]]
        load = Load(shape=shapes[0], mix=weights, seconds=seconds, warmup=warmup, seed=seed)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if objective is not None and (others := objective.operations - weights.keys()):
        raise typer.BadParameter(f"--slo names {', '.join(sorted(others))}, which is not in the --mix")

    with ExitStack() as stack:
        files: tuple[str, ...] = ()
        if weights.keys() & WITH_PICTURES:
            files = _pictures(pictures, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        target = ClipseekTarget(
            session.server,
            collection=session.collection,
            texts=_lines(texts),
            pictures=files,
            filter=filter,
            top_k=top_k,
            id_prefix=f"bench-{time.time_ns():x}",
            timeout=session.call_timeout,
            token=session.token,
            tls=session.tls,
        )
        run = _Run(output, target, load, processes)
        scraper = stack.enter_context(_scraping(output, metrics)) if metrics else None
        ended_by, code = "", 0
        try:
            if objective is not None:
                run.search(objective, rates[0] if rates else 10.0, max_rate, arrivals)
            else:
                for shape in shapes:
                    run.measure(shape)
        except GeneratorError as error:
            ended_by, code = str(error), TRY_AGAIN if error.may_pass else FAILED
            output.note(f"clipseek: {error}")
        except KeyboardInterrupt:
            if not run.results:
                raise
            ended_by, code = "interruption", INTERRUPTED
            output.note("interrupted; what was measured until then is kept")
        if not run.results:
            sys.exit(code)
    about = {
        "server": session.server,
        "mix": weights,
        "seconds": seconds,
        "warmup": warmup,
        "processes": processes,
        "collection": session.collection,
        "filter": filter,
        "top_k": top_k,
        "pictures": str(pictures or ""),
        "texts": str(texts or ""),
        "slo": slo,
        "seed": seed,
        "ended_by": ended_by,
    }
    given = {name: value for name, value in about.items() if value or name == "seed"}
    with _undisturbed():
        document = to_json(given, run.results, run.found, scraper)
        if output_file is not None:
            output_file.write_text(document, encoding="utf-8")
            output.note(f"wrote {output_file}")
        if html is not None:
            html.write_text(to_html(json.loads(document)), encoding="utf-8")
            output.note(f"wrote {html}")
        if output.json:
            output.value(json.loads(document))
    if code:
        sys.exit(code)
    if run.found is None:
        failed = any(result.total.errors or not result.total.calls for result in run.results.values())
    else:
        failed = not run.found.rate
    if failed:
        sys.exit(FAILED)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let Ctrl-C wait for nothing and break nothing off: what was measured for minutes is written in a moment."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Run:
    """Measures one shape after the other, and prints what it finds.

    Attributes:
        results: What was measured whole, by its name; of a search what ``to_json`` keeps.
        found: What a search came to until now; ``None`` before its first step, and without a search.
    """

    def __init__(self, output: Output, target: "ClipseekTarget", load: "Load", processes: int) -> None:
        self.results: dict[str, LoadResult] = {}
        self.found: Found | None = None
        self._output = output
        self._target = target
        self._load = load
        self._processes = processes
        # Sentences are made of a call's number: those of the run before must not come again, or a cache answers them.
        self._next_call = random.randrange(_MANY_CALLS)  # noqa: S311 -- no secret
        self._seeds = itertools.count(load.seed)

    def measure(self, shape: "ClosedLoop | OpenLoop") -> "LoadResult":
        """Put that load on the server."""
        result = self.results[_named(shape)] = self._measure(shape)
        self._print(_named(shape), result)
        return result

    def search(self, objective: "Objective", begin: float, most: float, arrivals: "Arrivals") -> None:
        """Search for the highest rate that meets the objective."""
        from clipseek.bench import OpenLoop
        from clipseek.bench.step_search import generator_limited, search

        def said(found: "Found") -> None:
            self.found = found
            step = found.steps[-1]
            met = [each for each in found.steps if each.met and each.rate == found.rate]
            if met:
                title = f"{found.rate:.1f} calls a second, the highest rate that met {objective}"
                self.results = {title: met[-1].result}
            else:
                self.results = {f"{step.rate:.1f} calls a second": step.result}
            latency = step.result.total.latency
            p99 = f", p99 {latency.p99 * 1000:.1f} ms of {latency.count:,}" if latency else ""
            outcome = {True: "met", False: f"not met: {step.why_not}", None: step.why_not}[step.met]
            self._output.note(f"{step.rate:8.1f}/s: {outcome}{p99}")

        found = search(
            lambda rate: self._measure(OpenLoop(rate, arrivals)), objective, begin=begin, most=most, on_step=said
        )
        if found.rate:
            for title, result in self.results.items():
                self._print(title, result)
        else:
            self._output.note(f"no rate met {objective}")
        if found.generator_limit is not None:
            self._output.note(generator_limited(found.generator_limit))
        for each in found.few_calls:
            self._output.note(each)

    def _measure(self, shape: "ClosedLoop | OpenLoop") -> "LoadResult":
        from clipseek.bench import ClosedLoop, generate

        most = shape.callers if isinstance(shape, ClosedLoop) else self._processes
        load = replace(
            self._load,
            shape=shape,
            processes=min(self._processes, most),
            first=self._next_call,
            # Two measurements of the same arrivals would not be independent of each other.
            seed=next(self._seeds),
        )
        with _progress(self._output, _named(shape), load.warmup + load.seconds):
            result = generate(self._target, load)
        # No sentence comes twice, or the server's cache would answer it.
        made = sum(each.calls + sum(each.errors.values()) for each in result.operations.values())
        self._next_call += made + _CALLS_OF_A_WARMUP
        return result

    def _print(self, title: str, result: "LoadResult") -> None:
        output = self._output
        if not output.json:
            output.note(title)
            names = ("", "calls", "/s", "mean ms", "p50", "p90", "p95", "p99", "p99.9", "max", "errors")
            operations = {**result.operations, "all": result.total} if len(result.operations) > 1 else result.operations
            output.table(names, (_row(name, found) for name, found in operations.items()), right=frozenset(names[1:-1]))
        for note in filter(None, result.notes.values()):
            output.note(note)


_MANY_CALLS = 1_000_000_000
_CALLS_OF_A_WARMUP = 100_000
"""More than any makes."""


def _row(name: str, found: Any) -> tuple[object, ...]:
    latency = found.latency
    keys = ("mean", "p50", "p90", "p95", "p99", "p999", "max")
    times = [f"{getattr(latency, key) * 1000:.2f}" if latency else "" for key in keys]
    errors = ", ".join(f"{count:,} {status}" for status, count in found.errors.items())
    return name, f"{found.calls:,}", f"{found.rate:.1f}", *times, errors


def _named(shape: "ClosedLoop | OpenLoop") -> str:
    from clipseek.bench import ClosedLoop

    if isinstance(shape, ClosedLoop):
        return f"{shape.callers} caller{'s' * (shape.callers > 1)}"
    return f"{shape.rate:g} calls a second, {shape.arrivals}"


def _compare(output: Output, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    from clipseek.bench.compare import busy_loads, compare, different_settings
    from clipseek.bench.step_search import generator_limited

    differences = list(compare(before, after))
    for name in different_settings(before, after):
        output.note(f"not set alike: {name}")
    for which, document in (("before", before), ("after", after)):
        if (limit := document.get("search", {}).get("generator_limit")) is not None:
            output.note(f"{which}, {generator_limited(limit)}")
        for load in busy_loads(document):
            output.note(f"{which}, {load}: the generator itself could not keep up; these numbers are its own")
    if output.json:
        for each in differences:
            output.value({**vars(each), "ratio": each.ratio})
        return
    words = {True: "clear", False: "within what each varies by", None: ""}
    output.table(
        ("", "before", "after", "ratio", ""),
        (
            (
                each.what,
                f"{each.before:,.2f}",
                f"{each.after:,.2f}",
                "" if each.ratio is None else f"{each.ratio:.2f}",
                words[each.is_clear],
            )
            for each in differences
        ),
        right=frozenset({"before", "after", "ratio"}),
    )


def _weights(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, weight = part.strip().partition("=")
        if name in found:
            raise typer.BadParameter(f"--mix names {name} twice")
        try:
            found[name] = float(weight) if equals else 1.0
        except ValueError:
            raise typer.BadParameter(f"a mix is e.g. search_text=9,insert=1; {part!r} is no part of one") from None
    return found


def _numbers(text: str, option: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")] if text else []
        if all(map(math.isfinite, numbers)) and len({*numbers}) == len(numbers):
            return numbers
        raise ValueError
    except ValueError:
        raise typer.BadParameter(f"{option} takes different numbers separated by commas, not {text!r}") from None


def _pictures(folder: Path | None, scratch: Path) -> tuple[str, ...]:
    if folder is None:
        from clipseek.bench.sample_pictures import make_pictures

        return make_pictures(scratch)
    # What cannot be looked at counts as a picture too, so that an import can name it; no call could send it.
    found = (str(file.path) for file in find([folder]) if file.picture)
    files = tuple(path for path in found if os.path.isfile(path))  # noqa: PTH113 -- Path.is_file raises without permission
    if not files:
        raise FileNotFoundError(f"there is no picture in {folder}")
    return files


def _lines(file: Path | None) -> tuple[str, ...]:
    if file is None:
        return ()
    lines = tuple(line for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    if not lines:
        raise ValueError(f"there is no sentence in {file}")
    return lines


@contextmanager
def _scraping(output: Output, url: str) -> Iterator[Any]:
    from clipseek.bench.scrape import Scraper

    with Scraper(url) as scraper:
        yield scraper
    if scraper.failed:
        output.note(f"{url} could not be read {scraper.failed} times")


@contextmanager
def _progress(output: Output, title: str, seconds: float) -> Iterator[None]:
    """A bar that follows the clock: the generator's processes have better to do than to say how far they are."""
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    done = threading.Event()
    with Progress(*columns, console=output.err, transient=True, disable=not output.err.is_terminal) as progress:
        task = progress.add_task(title, total=seconds)
        begin = time.monotonic()

        def follow() -> None:
            while not done.wait(0.2):
                progress.update(task, completed=min(seconds, time.monotonic() - begin))

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
