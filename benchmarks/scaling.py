"""The tables of docs/scaling.md, made by the calculator behind ``clipseek-server plan``."""

from collections.abc import Iterable, Sequence

from clipseek_server.planning import rates
from clipseek_server.planning.plan import Plan, Wishes, make_plan
from clipseek_server.planning.sizes import NOT_MADE, PLANNED, index_bytes, index_core_ms, quantity

STEPS = (10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000)
QPS = 20.0
EXAMPLE = Wishes(pictures=10_000_000, qps=QPS)
_RUNS = {"lite": "one process, Milvus Lite", "standalone": "standalone Milvus", "cluster": "Milvus cluster"}


def scaling_tables() -> dict[str, str]:
    """Each table as Markdown, by name."""
    made = {
        "scaling-rates": _rates(),
        "scaling-steps": _steps(),
        "scaling-example": _example(),
        "scaling-memory": _memory(),
        "scaling-searches": _searches(),
        "scaling-cost": _cost(),
    }
    return {name: "\n".join(lines) + "\n" for name, lines in made.items()}


def _rates() -> Iterable[str]:
    rows = (
        ("a core imports from disk: pictures", rates.IMPORTED),
        ("a core bears searches by new texts, 10,000 pictures in memory", rates.TEXT_SEARCHES),
        ("a core embeds pictures, as for a search by picture", rates.PICTURES_EMBEDDED),
    )
    yield from _head(["measured, a second", "fp32", "int8", "where"], right=[1, 2])
    for name, by_precision in rows:
        where = _shared([rate.path for rate in by_precision.values()])
        per_core = [_digits(by_precision[precision].value / rates.CORES) for precision in ("fp32", "int8")]
        yield _row([name, *per_core, f"`cpu.json`: `{where}` ÷ {rates.CORES}"])
    for pictures in (rates.SEARCHED_ROWS, max(rates.KNOWN_TEXTS["fp32"])):
        most = [rates.KNOWN_TEXTS[precision][pictures] for precision in ("fp32", "int8")]
        where = _shared([rate.path for rate in most])
        name = f"two cores answer searches by known texts, {pictures:,} pictures in memory"
        yield _row([name, *(_digits(rate.value) for rate in most), f"`cpu.json`: `{where}`"])
    for pictures, rate in rates.MILVUS_KNOWN_TEXTS.items():
        name = f"… {pictures:,} pictures in a Milvus on the same cores"
        yield _row([name, _digits(rate.value), "", f"`cpu.json`: `{rate.path}`"])
    rate = rates.MILVUS_NEW_TEXTS
    name = f"… by new texts, {rates.SEARCHED_ROWS:,} pictures in a Milvus on the same cores"
    yield _row([name, _digits(rate.value), "", f"`cpu.json`: `{rate.path}`"])


def _steps() -> Iterable[str]:
    titles = (
        "pictures",
        "run",
        "first import, core-h: fp32",
        "int8",
        "servers of 4 cores",
        "a server's memory, at most",
        "Milvus' memory",
        "its cores",
        "its machines",
        "image store",
    )
    yield from _head(titles, right=range(2, len(titles)))
    for pictures in STEPS:
        plan, int8 = (
            make_plan(Wishes(pictures=pictures, qps=QPS, precision=precision)) for precision in ("fp32", "int8")
        )
        yield _row(
            [
                f"{pictures:,}",
                _RUNS[plan.runs],
                *(_digits(each["import_core_hours"]) for each in (plan, int8)),
                f"{plan['servers']:,.0f}",
                quantity(plan["server_bytes"], "bytes"),
                *(_shown(plan, key) for key in ("node_bytes", "node_cores", "nodes", "image_store_bytes")),
            ]
        )


def _example() -> Iterable[str]:
    yield from _head(["", f"{EXAMPLE.pictures:,} pictures, {EXAMPLE.qps:g} searches/s", "", "how"], right=[1])
    for title, lines in make_plan(EXAMPLE).sections.items():
        yield _row([f"**{title}**", "", "", ""])
        for line in lines:
            yield _row([line.what, line.shown, line.kind, line.why])


def _memory() -> Iterable[str]:
    names = [name if name in PLANNED else f"{name} (not made by clipseek)" for name in (*PLANNED, *NOT_MADE)]
    yield from _head(["pictures", *names, "whole Milvus, IVF_FLAT", "in memory, whole process fp32"])
    for pictures in STEPS:
        sizes = [quantity(index_bytes(index, pictures, 512), "bytes") for index in (*PLANNED, *NOT_MADE)]
        measured = [
            quantity(by_rows[pictures].value * 1e6, "bytes") + ", measured" if pictures in by_rows else ""
            for by_rows in (rates.MILVUS_MB, rates.PROCESS_MB["fp32"])
        ]
        yield _row([f"{pictures:,}", *sizes, *measured])


def _searches() -> Iterable[str]:
    ways = [key for key in rates.INDEX_TIMES if key != ("FLAT", "fast")]
    titles = [f"{index} {rates.INDEX_TIMES[index, effort].search}".strip() for index, effort in ways]
    yield from _head(["one search, core time", *titles])
    for pictures in STEPS:
        times = [quantity(index_core_ms(index, effort, pictures, 512), "ms") for index, effort in ways]
        yield _row([f"{pictures:,}", *times])
    recalls = [rates.INDEX_TIMES[way].recall_texts for way in ways]
    found = [f"{recall[max(recall)]:.3f} of {max(recall):,}" for recall in recalls]
    yield _row(["a text's ten nearest found, measured", *found])


def _cost() -> Iterable[str]:
    prices = f"{EXAMPLE.core_hour:g} a core-hour, {EXAMPLE.gb_hour:g} a GB-hour, {EXAMPLE.gb_month:g} a GB-month"
    yield from _head([f"at {prices}", "first import, once", "servers, a month", "Milvus", "storage", "together"])
    for pictures in STEPS:
        plan = make_plan(Wishes(pictures=pictures, qps=QPS))
        keys = ("import", "servers", "milvus", "storage", "month")
        yield _row([f"{pictures:,}", *(_shown(plan, f"cost_{key}") for key in keys)])


def _shared(paths: Iterable[str]) -> str:
    """Paths as one, with a mark where they differ."""
    return "/".join(
        keys[0] if len(set(keys)) == 1 else "…" for keys in zip(*(path.split("/") for path in paths), strict=True)
    )


def _shown(plan: Plan, key: str) -> str:
    line = plan.lines.get(key)
    return line.shown.removesuffix(" cores") if line else ""


def _digits(value: float) -> str:
    return quantity(value, "")


def _head(titles: Sequence[str], right: Sequence[int] | None = None) -> Iterable[str]:
    """Numbers are in all columns but the first, unless told."""
    numbers = range(1, len(titles)) if right is None else right
    yield _row(titles)
    yield f"|{'|'.join('---:' if column in numbers else '---' for column in range(len(titles)))}|"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
