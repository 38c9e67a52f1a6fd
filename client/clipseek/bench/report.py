"""What is kept of a run: a JSON file to compare with, and one HTML page with plots that needs nothing else."""

import html
import io
import json
import string
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipseek.bench.results import LoadResult
from clipseek.bench.scrape import Scraper, Series, rates
from clipseek.bench.step_search import Found, generator_limited

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMAT = 1

_METRICS = (
    # Title, beginning of the names, whether they are counters.
    ("items waiting", "clipseek_queue_length", False),
    ("batches a second", "clipseek_batch_items_count", True),
    ("items run a second", "clipseek_batch_items_sum", True),
    ("memory of the server, bytes", "process_resident_memory_bytes", False),
    ("cores that the server uses", "process_cpu_seconds_total", True),
)
"""What is drawn of a server's own metrics."""


def to_json(
    about: Mapping[str, Any],
    results: Mapping[str, LoadResult],
    found: Found | None = None,
    scraper: Scraper | None = None,
) -> str:
    """A run as JSON.

    Args:
        about: What was called and how: address, mix, …
        results: By what the load was; of a search that of the rate that it found, or the last one.
        found: What a search for the highest rate came to.
        scraper: What read the server's metrics, if they were read. Each result says where it lies in their time.
    """
    epoch = scraper.begin if scraper else 0.0
    document: dict[str, Any] = {
        "format": FORMAT,
        "measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **about,
        "results": [
            {"load": load, **result.to_json(), "begin": round(result.begin - epoch, 3)}
            for load, result in results.items()
        ],
    }
    if found is not None:
        document["search"] = {
            "rate": found.rate,
            "failed_rate": found.failed_rate,
            "generator_limit": found.generator_limit,
            "few_calls": found.few_calls,
            "steps": [
                {
                    "rate": step.rate,
                    "met": step.met,
                    "why_not": step.why_not,
                    "few_calls": step.few_calls,
                    "operations": {name: asdict(each) for name, each in step.result.operations.items()},
                    "total": asdict(step.result.total),
                    "is_generator_busy": step.result.is_generator_busy,
                    **step.result.notes,
                }
                for step in found.steps
            ],
        }
    if scraper:
        document["metrics"] = scraper.series
    return json.dumps(document, indent=1) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """A run that was kept.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not of a run.
    """
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] == FORMAT and all(result["total"] and result["load"] for result in document["results"]):
            return document
    except (ValueError, TypeError, KeyError):
        pass
    raise ValueError(f"{path} is no result of clipseek bench")


def to_html(document: Mapping[str, Any]) -> str:
    """The page of a run, from what ``to_json`` keeps of it."""
    template = string.Template(resources.files("clipseek.bench").joinpath("report.html").read_text(encoding="utf-8"))
    results: list[Mapping[str, Any]] = document["results"]
    totals = [result["total"] for result in results]
    totals += [step["total"] for step in document.get("search", {}).get("steps", [])]
    plots: list[tuple[str, Callable[[Axes], None]]] = [
        (f"Latency over time, {result['load']}", partial(_over_time, result=result)) for result in results
    ]
    plots.append(("Percentiles", lambda axes: _curve(axes, results)))
    if len(totals) > 1:
        plots.append(("Throughput and latency", lambda axes: _throughput(axes, totals)))
    plots += _of_metrics(document.get("metrics", {}), results)
    about = {name: value for name, value in document.items() if name not in {"results", "metrics", "search", "format"}}
    return template.substitute(
        title=html.escape(f"clipseek bench, {document['measured']}"),
        about="".join(f"<dt>{_cell(name)}</dt><dd>{_cell(value)}</dd>" for name, value in about.items()),
        search=_search(document.get("search")),
        tables="".join(_table(result) for result in results),
        plots="".join(_figure(title, draw) for title, draw in plots),
    )


def _figure(title: str, draw: "Callable[[Axes], None]") -> str:
    return f"<figure><figcaption>{html.escape(title)}</figcaption>{_svg(draw)}</figure>"


def _search(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    rows = "".join(
        f"<tr><td>{step['rate']:.1f}</td><td>{_MET[step['met']]}</td><td>{step['total']['calls']:,}</td>"
        f"<td>{_cell(step['why_not'])}</td></tr>"
        for step in found["steps"]
    )
    said = f"{found['rate']:.1f} calls a second met the objective" if found["rate"] else "No rate met the objective"
    limit = found["generator_limit"]
    unknown = f"<p>{_cell(generator_limited(limit))}</p>" if limit is not None else ""
    few = "".join(f"<p>{_cell(each)}</p>" for each in found["few_calls"])
    head = "<tr><th>rate, /s</th><th></th><th>calls</th><th></th></tr>"
    return f"<h2>{said}.</h2>{unknown}{few}<table>{head}{rows}</table>"


def _table(result: Mapping[str, Any]) -> str:
    rows = []
    for name, found in {**result["operations"], "all": result["total"]}.items():
        latency = found["latency"] or {}
        times = "".join(f"<td>{latency[key] * 1000:.2f}</td>" if latency else "<td></td>" for key in _COLUMNS)
        errors = ", ".join(f"{count} {status}" for status, count in found["errors"].items()) or "none"
        rows.append(
            f"<tr><td>{_cell(name)}</td><td>{found['calls']:,}</td><td>{found['rate']:.1f}</td>{times}"
            f"<td>{_cell(errors)}</td></tr>"
        )
    head = "".join(f"<th>{title} ms</th>" for title in _COLUMNS.values())
    titles = f"<tr><th></th><th>calls</th><th>/s</th>{head}<th>errors</th></tr>"
    table = f"<h2>{_cell(result['load'])}</h2><table>{titles}{''.join(rows)}</table>"
    notes = (result[name] for name in ("about_latencies", "about_generator", "about_percentiles"))
    return table + "".join(f"<p>{_cell(note)}</p>" for note in notes if note)


_MET = {True: "met", False: "not met", None: "unknown"}
_COLUMNS = {"mean": "mean", "p50": "p50", "p90": "p90", "p95": "p95", "p99": "p99", "p999": "p99.9", "max": "max"}


def _cell(value: object) -> str:
    return html.escape(value if isinstance(value, str) else json.dumps(value))


def _over_time(axes: "Axes", result: Mapping[str, Any]) -> None:
    windows = [(begin, found) for begin, found in result["windows"] if found["latency"]]
    for key in ("p50", "p99", "max"):
        axes.plot([begin for begin, _ in windows], [found["latency"][key] * 1000 for _, found in windows], label=key)
    axes.set_xlabel("seconds")
    axes.set_ylabel("ms")
    axes.set_ylim(bottom=0)
    axes.legend()


def _curve(axes: "Axes", results: Sequence[Mapping[str, Any]]) -> None:
    for result in results:
        points = [(100 / (100 - percent), seconds * 1000) for percent, seconds in result["curve"] if percent < 100]
        axes.plot(*zip(*points, strict=True), label=result["load"]) if points else None
    ticks = (50, 90, 99, 99.9, 99.99)
    axes.set_xscale("log")
    axes.set_xticks([100 / (100 - tick) for tick in ticks], [f"{tick:g} %" for tick in ticks])
    axes.set_xlabel("of all calls")
    axes.set_ylabel("ms at most")
    axes.set_ylim(bottom=0)
    if len(results) > 1:
        axes.legend()


def _throughput(axes: "Axes", totals: Sequence[Mapping[str, Any]]) -> None:
    answered = [total for total in totals if total["latency"]]
    answered.sort(key=lambda each: each["rate"])
    for key in ("p50", "p99"):
        axes.plot(
            [each["rate"] for each in answered], [each["latency"][key] * 1000 for each in answered], "o-", label=key
        )
    axes.set_xlabel("answered, /s")
    axes.set_ylabel("ms")
    axes.set_ylim(bottom=0)
    axes.legend()


def _of_metrics(metrics: Series, results: Sequence[Mapping[str, Any]]) -> list[tuple[str, Callable[["Axes"], None]]]:
    measured = [(result["begin"], result["begin"] + result["seconds"]) for result in results]
    found: list[tuple[str, Callable[[Axes], None]]] = []
    for title, beginning, is_counter in _METRICS:
        chosen = {name: points for name, points in metrics.items() if name.partition("{")[0] == beginning}
        if chosen:
            found.append((title, _lines(chosen, measured, is_counter=is_counter)))
    return found


def _lines(series: Series, measured: Sequence[tuple[float, float]], *, is_counter: bool) -> "Callable[[Axes], None]":
    def draw(axes: "Axes") -> None:
        for span in measured:
            axes.axvspan(*span, color="#888", alpha=0.15, linewidth=0)
        for name, points in series.items():
            shown = rates([(moment, value) for moment, value in points]) if is_counter else points
            labels = name.partition("{")[2].rstrip("}")
            axes.plot([moment for moment, _ in shown], [value for _, value in shown], label=labels or None)
        axes.set_xlabel("seconds; shaded: measured")
        axes.set_ylim(bottom=0)
        if any("{" in name for name in series):
            axes.legend()

    return draw


def _svg(draw: "Callable[[Axes], None]") -> str:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.add_subplot()
    draw(axes)
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
