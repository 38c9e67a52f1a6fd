"""Plots of a run's results, as PNGs."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DPI = 80


def draw(results: dict[str, Any], folder: Path) -> list[Path]:
    """Draw what the results have, and return the files."""
    # Loaded when it is needed: it takes a second, and a machine that only measures can do without.
    import matplotlib as mpl

    mpl.use("Agg")
    plots: dict[str, tuple[str, Callable[[dict[str, Any], Axes], None]]] = {
        "peers": ("peers", _peers),
        "callers": ("scale", _callers),
        "memory": ("memory", _memory),
        "arenas": ("arenas", _arenas),
    }
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name, (section, plot) in plots.items():
        if section in results:
            made.append(folder / f"{name}.png")
            _save(plot, results, made[-1])
    return made


def _save(plot: Callable[[dict[str, Any], "Axes"], None], results: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    plot(results, figure.add_subplot())
    # Without the release of matplotlib in it, the same results give the same file.
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})


def _peers(results: dict[str, Any], axes: "Axes") -> None:
    servers = results["peers"]["embed_image"]
    names = list(servers)[::-1]
    bars = axes.barh(names, [servers[name]["rate"] for name in names])
    axes.bar_label(bars, fmt="%.0f", padding=3)
    axes.set_xlabel("pictures a second, 16 callers, JPEGs of 500 KB")
    axes.spines[["top", "right"]].set_visible(False)


def _callers(results: dict[str, Any], axes: "Axes") -> None:
    for precision, found in results["scale"]["callers"].items():
        searches = found["search_text"]
        rates = [each["rate"] for each in searches.values()]
        for percentile in ("p50", "p99"):
            latencies = [each[f"{percentile}_ms"] for each in searches.values()]
            axes.plot(rates, latencies, marker="o", label=f"{precision}, {percentile}")
        for callers, rate in zip(searches, rates, strict=True):
            axes.annotate(callers, (rate, searches[callers]["p50_ms"]), xytext=(0, -12), textcoords="offset points")
    axes.set_xlabel("text searches a second (at each point: callers)")
    axes.set_ylabel("ms")
    axes.set_ylim(bottom=0)
    axes.legend()


def _arenas(results: dict[str, Any], axes: "Axes") -> None:
    for name, found in results["arenas"]["options"].items():
        axes.plot(found["rss_mb"], label=name)
    axes.set_xlabel("tens of runs, each of another shape")
    axes.set_ylabel("memory of the process, MB")
    axes.set_ylim(bottom=0)
    axes.legend()


def _memory(results: dict[str, Any], axes: "Axes") -> None:
    axes.plot(results["memory"]["rss_mb"])
    axes.set_xlabel("seconds under 64 callers")
    axes.set_ylabel("memory of the server, MB")
    axes.set_ylim(bottom=0)
