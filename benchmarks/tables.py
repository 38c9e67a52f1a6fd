"""The tables of docs/performance.md, from the results of a run."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.goals import RECALLS, Goal, goals

Results = dict[str, Any]

_TOWERS = {"vision": "picture tower", "text": "text tower"}
_PRECISIONS = {"fp32": "fp32", "int8": "int8", "int8 alone": "int8 one by one"}
_ENOUGH_WEIGHTS = 0.5
"""Of a tower's weights: where a precision touched fewer, what it cost says little of what it costs another tower."""

_ROWS_THAT_SHOW = 10_000

_WRITES = ("update", "insert", "remove")

_SIZE_TITLES = (
    "text tower alone, ms",
    "new text: p50 ms",
    "p95 ms",
    "p99 ms",
    "10% filter: p50 ms",
    "known text: p50 ms",
    "16 callers, /s",
)


def tables(results: Results) -> dict[str, str]:
    """Each table as Markdown, by name; those of sections that were not run, or found nothing to measure, are absent."""
    return {
        name: "\n".join(lines) + "\n"
        for name, (section, make) in _TABLES.items()
        if results.get(section) and (lines := list(make(results)))
    }


def _machine(results: Results) -> Iterable[str]:
    machine = results["machine"]
    features = f" ({', '.join(machine['cpu_features'])})" if machine["cpu_features"] else ""
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    yield f"{machine['cpu']}{features}, {machine['cores_used']} of {machine['cores_of_the_machine']} cores, "
    yield f"{machine['memory_gib']} GiB, {machine['gpu'] or 'no GPU'}; {machine['file_system']}; "
    yield f"{machine['system']}, Python {machine['python']}; {packages}."
    yield ""
    yield from _head(["section", "profile", "measured (UTC)", "took s", "CPU time that other machines took", "commit"])
    for name, run in results["runs"].items():
        stolen = f"{run['stolen']:.0%}" if "stolen" in run else ""
        yield _row([name, run["profile"], run["at"], _number(run["seconds"]), stolen, run.get("commit", "")])


def _limit(results: Results) -> Iterable[str]:
    limit = results["limit"]
    precisions = [name for name, found in limit.items() if isinstance(found, dict) and "pictures" in found]
    first = limit[precisions[0]]
    batches = list(first["pictures"])
    titles = [f"batch {batch}" for batch in batches]
    yield from _head(["pictures a second", *titles, "share of the largest product's rate"])
    for precision in precisions:
        peak = limit[precision].get("gemm_gflops")
        for key, name in (("pictures", ""), ("pictures_spinning", ", spinning threads")):
            if found := limit[precision].get(key):
                rates = {batch: each["rate"] for batch, each in found.items()}
                share = f"{max(rates.values()) * limit['picture_gflop'] / peak:.0%}" if peak else ""
                yield _row([f"{precision}{name}", *_by_batch(rates, batches), share])
    yield _row(["torch, fp32", *_by_batch(limit["torch"], batches), ""])
    yield ""
    yield from _head(["sentences a second", *titles])
    for precision in precisions:
        yield _row([precision, *_by_batch(limit[precision]["sentences_rate"], batches)])
    yield ""
    tokens = list(first["text_ms"])
    yield from _head(["one text, ms", *(f"{count} tokens" for count in tokens), "a sentence of the load"])
    for precision in precisions:
        text = limit[precision]
        yield _row([precision, *(_number(text["text_ms"][count]) for count in tokens), _number(text["sentence_ms"])])
    yield ""
    yield from _head(["", *precisions])
    for name, key in (
        ("largest product of matrices, 10⁹ operations/s", "gemm_gflops"),
        ("decoding a picture, core-ms", "decode_core_ms"),
        ("with its thumbnail, core-ms", "decode_and_thumbnail_core_ms"),
    ):
        values = (limit[precision].get(key) for precision in precisions)
        yield _row([name, *("" if value is None else _number(value) for value in values)])


def _by_batch(rates: dict[str, float], batches: Iterable[str]) -> list[str]:
    return [_number(rates[batch]) if batch in rates else "" for batch in batches]


def _engine(results: Results) -> Iterable[str]:
    engine = results["engine"]
    yield from _head(["pictures", *engine])
    rows: Sequence[tuple[str, Callable[[Any], float]]] = (
        ("mean batch", lambda e: e["batch"]),
        ("ONNX Runtime alone at that batch, /s", lambda e: e["ort_rate"]),
        ("decoding, core-ms", lambda e: e["decode_core_ms"]),
        ("what the two allow, /s", lambda e: e["limit_rate"]),
        ("through the batcher, in process, /s", lambda e: e["in_process"]["rate"]),
        ("through gRPC, /s", lambda e: e["grpc"]["rate"]),
        ("… share of what is possible", lambda e: e["grpc"]["share_of_limit"]),
        ("… server's CPU a picture, core-ms", lambda e: e["grpc"]["server_cpu_ms"]),
        ("… beyond what ONNX Runtime and decoding take alone", lambda e: e["grpc"]["overhead_cpu_ms"]),
        ("… load generator's CPU a picture, core-ms", lambda e: e["grpc"]["generator_cpu_ms"]),
        ("bulk import from disk, /s", lambda e: e["import"]["rate"]),
        ("… share of what is possible", lambda e: e["import"]["share_of_limit"]),
        ("… server's CPU a picture, core-ms", lambda e: e["import"]["server_cpu_ms"]),
        ("… decoding with its thumbnail alone, core-ms", lambda e: e["import"]["decode_core_ms"]),
        ("… load generator's CPU a picture, core-ms", lambda e: e["import"]["generator_cpu_ms"]),
        ("start to SERVING, s", lambda e: e["start_seconds"]),
    )
    for name, take in rows:
        yield _row([name, *(_number(take(each)) for each in engine.values())])


def _threads(results: Results) -> Iterable[str]:
    engine = results["engine"]
    parts = {
        "grpc": "a picture through gRPC",
        "import": "a picture of a bulk import",
        "search": "a text search",
        "search_many": "a text search of 16 callers",
    }
    columns = [(part, precision) for part in parts for precision in engine]
    yield from _head(["CPU time by thread, ms", *(f"{parts[part]}, {precision}" for part, precision in columns)])
    found = [engine[precision][part]["threads_cpu_ms"] for part, precision in columns]
    for does in found[0]:
        yield _row([does, *(_number(each[does]) for each in found)])
    yield _row(["together", *(_number(sum(each.values())) for each in found)])


_PARTS_OF_A_SEARCH = {
    "text tower alone": "text_tower_alone_ms",
    "p50 of the client": "p50_ms",
    "p99 of the client": "p99_ms",
    "mean: waiting for the tower": "queue_ms",
    "mean: text tower": "inference_ms",
    "mean: index": "index_ms",
    "mean: the server's own code": "own_code_ms",
    "mean: wire and client": "wire_ms",
    "… these two together": "wire_and_own_code_ms",
    "mean: gRPC and client alone, of a server that answers at once": "answered_at_once_ms",
}


def _search(results: Results) -> Iterable[str]:
    return _parts({precision: found["search"] for precision, found in results["engine"].items()})


def _search_by_size(results: Results) -> Iterable[str]:
    return _parts(
        {
            f"{precision}, {int(rows):,}": {**size["fresh"], "text_tower_alone_ms": size["text_tower_alone_ms"]}
            for precision, sizes in results["scale"]["sizes"].items()
            for rows, size in sizes.items()
        }
    )


def _parts(searches: dict[str, Results]) -> Iterable[str]:
    """Where the time of one search goes, a column each."""
    yield from _head(["one text search, ms", *searches])
    for name, key in _PARTS_OF_A_SEARCH.items():
        if all(key in each for each in searches.values()):
            yield _row([name, *(_number(each[key]) for each in searches.values())])


def _peers(task: str) -> Callable[[Results], Iterable[str]]:
    def make(results: Results) -> Iterable[str]:
        servers = results["peers"][task]
        base = servers["prototype"]
        yield from _head(
            ["", "16 callers, /s", "p50 ms", "p99 ms", "1 caller, p50 ms", "/s ÷ prototype", "p50 ÷ prototype"]
        )
        for name, server in servers.items():
            rates = _number(server["rate"]), _number(server["many"]["p50_ms"]), _number(server["many"]["p99_ms"])
            one = server["one"]["p50_ms"]
            ratios = _number(server["rate"] / base["rate"]), _number(one / base["one"]["p50_ms"])
            yield _row([name, *rates, _number(one), *ratios])
        for name in results["peers"]["missing"]:
            yield _row([f"{name} (does not install here)", *[""] * 6])

    return make


def _mixed(results: Results) -> Iterable[str]:
    sections = {name: value for name, value in results["mixed"].items() if isinstance(value, dict)}
    yield from _head(["text searches", *sections])
    rows: Sequence[tuple[str, Callable[[Any], float]]] = (
        ("capacity, 16 callers, /s", lambda m: m["capacity"]),
        ("offered, /s", lambda m: m["rate"]),
        ("searches", lambda m: m["searches"]),
        ("idle server: p50, ms", lambda m: m["idle"]["p50_ms"]),
        ("idle server: p99, ms", lambda m: m["idle"]["p99_ms"]),
        ("during the import: p50, ms", lambda m: m["busy"]["p50_ms"]),
        ("during the import: p99, ms", lambda m: m["busy"]["p99_ms"]),
        ("p99 ÷ p99", lambda m: m["p99_ratio"]),
        ("pictures imported meanwhile, /s", lambda m: m["import_rate"]),
        ("load generator's own lateness: p99, ms", lambda m: m["lateness_p99_ms"]),
    )
    for name, take in rows:
        yield _row([name, *(_number(take(each)) for each in sections.values())])


def _sizes(results: Results) -> Iterable[str]:
    yield from _head(["pictures stored", *_SIZE_TITLES, "memory at start, MB", "memory, MB", "start, s"])
    for precision, sizes in results["scale"]["sizes"].items():
        for rows, size in sizes.items():
            yield _row(
                [
                    f"{int(rows):,}, {precision}",
                    *_of_one_size(size),
                    f"{size['rss_mb_at_start']:.0f}",
                    f"{size['rss_mb']:.0f}",
                    _number(size["start_seconds"]),
                ]
            )


def _callers(results: Results) -> Iterable[str]:
    titles = "text searches/s", "p50 ms", "p95 ms", "p99 ms", "pictures/s", "p50 ms", "p95 ms", "p99 ms", "memory, MB"
    yield from _head(["callers", *titles])
    for precision, found in results["scale"]["callers"].items():
        for callers, search in found["search_text"].items():
            picture = found["embed_image"][callers]
            numbers = [
                _number(each[key]) for each in (search, picture) for key in ("rate", "p50_ms", "p95_ms", "p99_ms")
            ]
            yield _row([f"{callers}, {precision}", *numbers, f"{picture['rss_mb']:.0f}"])


def _milvus_scale(results: Results) -> Iterable[str]:
    sizes = results["milvus"]
    yield from _head(["pictures stored", *_SIZE_TITLES, "memory, MB", "Milvus' memory, MB", "start, s"])
    for rows, size in sizes.items():
        times = [*_of_one_size(size), f"{size['rss_mb']:.0f}", f"{size['milvus_rss_mb']:.0f}"]
        yield _row([f"{int(rows):,}", *times, _number(size["start_seconds"])])
    yield ""
    callers = list(next(iter(sizes.values()))["callers"])
    yield from _head(["new texts/s: p50, p95, p99 in ms; callers:", *callers])
    for rows, size in sizes.items():
        found = [size["callers"][count] for count in callers]
        cells = [", ".join(_number(each[f"{name}_ms"]) for name in ("p50", "p95", "p99")) for each in found]
        rates = [_number(each["rate"]) for each in found]
        yield _row([f"{int(rows):,}", *(f"{rate}: {cell}" for rate, cell in zip(rates, cells, strict=True))])


def _of_one_size(size: Results) -> list[str]:
    return [
        _number(size["text_tower_alone_ms"]),
        *(_number(size["fresh"][f"{name}_ms"]) for name in ("p50", "p95", "p99")),
        _number(size["filtered"]["p50_ms"]),
        _number(size["cached"]["p50_ms"]),
        _number(size["cached_rate"]),
    ]


def _loading(results: Results) -> Iterable[str]:
    yield from _head(["known text, one caller", "calls", "p50 ms", "longest ms"])
    for rows, found in results["loading"].items():
        for name, key in (
            (f"from Milvus Lite, while they are read: for {_number(found['load_seconds'])} s", "from_milvus"),
            (f"in memory, while codes are made: for {_number(found['codes_seconds'])} s", "without_codes"),
            ("in memory", "in_memory"),
            ("from Milvus Lite, with nothing in memory", "milvus_alone"),
        ):
            each = found[key]
            times = f"{each['calls']:,}", _number(each["p50_ms"]), _number(each["max_ms"])
            yield _row([f"{int(rows):,}, {name}", *times])


def _settings(results: Results) -> Iterable[str]:
    titles = "pictures/s of 16 callers", "p50 ms", "p99 ms", "20 text searches/s beside them: p50 ms", "p99 ms"
    yield from _head(["", *titles])
    for name, found in results["settings"].items():
        for value, row in found["values"].items():
            times = [_number(row[what][key]) for what in ("picture", "text_beside") for key in ("p50_ms", "p99_ms")]
            yield _row([f"{name}: {value}", _number(row["pictures_rate"]), *times])


def _arenas(results: Results) -> Iterable[str]:
    found = results["arenas"]
    yield from _head([f"{found['runs']} runs", "took s", "memory half way, MB", "at the end", "at most"])
    for name, each in found["options"].items():
        memory = (f"{each[key]:.0f}" for key in ("half_way_mb", "end_mb", "peak_mb"))
        yield _row([name, _number(each["seconds"]), *memory])


def _memory(results: Results) -> Iterable[str]:
    memory = results["memory"]
    mix = ", ".join(f"{weight:g} {name}" for name, weight in memory["mix"].items())
    yield f"{memory['callers']} callers for {memory['seconds']:.0f} s ({mix}): {memory['calls']:,} calls, "
    yield f"{sum(memory['errors'].values())} refused. Mean of the second quarter of the time "
    yield f"{memory['second_quarter_mb']:.0f} MB, of the last {memory['last_quarter_mb']:.0f} MB; "
    yield f"at most {memory['peak_mb']:.0f} MB."


def _retrieval(results: Results) -> Iterable[str]:
    retrieval = results["retrieval"]
    starter = retrieval["starter"]
    machine = retrieval["machine"]
    yield f"{retrieval['pictures']} pictures, {retrieval['different_captions']} different captions; {machine['cpu']} "
    yield f"({', '.join(machine['cpu_features'])}), onnxruntime {machine['packages']['onnxruntime']}."
    yield ""
    depths = ("1", "5", "10")
    overlaps = {
        "pictures by caption": {"vision", "text"},
        "pictures by picture": {"vision"},
        "captions by caption": {"text"},
    }
    titles = *(f"text→picture R@{depth}" for depth in depths), *(f"{name}: overlap@10" for name in overlaps)
    yield from _head(["starter", *titles, "does not speak for"])
    for hits in starter["hits"]:
        converted = {tower for tower in _TOWERS if hits[tower] != "fp32"}
        recall = [f"{hits['recall'][depth]:.3f}" for depth in depths]
        kept = [f"{hits[name]:.1%}" if towers & converted else "" for name, towers in overlaps.items()]
        silent = [_TOWERS[tower] for tower in _TOWERS if tower in converted and _too_little(starter["towers"][tower])]
        precisions = ", ".join(f"{_TOWERS[tower]} {_PRECISIONS[hits[tower]]}" for tower in _TOWERS)
        yield _row([precisions, *recall, *kept, ", ".join(silent)])


def _retrieval_towers(results: Results) -> Iterable[str]:
    retrieval = results["retrieval"]
    cosines = "cosine min", "mean", "one by one: min", "mean"
    yield from _head(["int8 against fp32", *cosines, "weights touched", "… of those multiplied", "says"])
    for model, name, says in (
        ("starter", "starter", ""),
        ("random", "CLIP ViT-B/32, random weights", "vectors only: there is nothing to find"),
    ):
        for tower, found in retrieval[model]["towers"].items():
            near = [f"{found[key][how]:.5f}" for how in ("int8", "int8 alone") for key in ("cosine_min", "cosine_mean")]
            shares = [f"{found[key]:.0%}" for key in ("weight_share", "multiplied_share")]
            short = "under half: **does not speak for this tower**" if _too_little(found) else says
            yield _row([f"{name}: {_TOWERS[tower]}", *near, *shares, short])


def _too_little(tower: Results) -> bool:
    return bool(tower["weight_share"] < _ENOUGH_WEIGHTS)


def _goals(results: Results) -> Iterable[str]:
    return _goal_rows(goals(results))


def _goal_rows(some: Iterable[Goal]) -> Iterable[str]:
    yield from _head(["", "goal", "measured", ""])
    for goal in some:
        # Of a recall near one the third digit counts.
        number = f"{goal.measured:.3f}" if goal.measured and "recall" in goal.what else _number(goal.measured or 0.0)
        measured = "" if goal.measured is None else f"{number}{goal.unit}"
        yield _row([goal.what, goal.aim, measured, {True: "met", False: "**missed**", None: ""}[goal.met]])


def _elsewhere(results: Results) -> Iterable[str]:
    found = results["elsewhere"]
    yield from _machine(found)
    yield ""
    yield from _goal_rows([goal for goal in goals(found) if goal.measured is not None])
    yield ""
    yield from _search(found)


def _runtimes(results: Results) -> Iterable[str]:
    ways = results["runtimes"]["ways"]
    columns = list(dict.fromkeys(column for way in ways.values() for column in way))
    yield from _head(["", *columns])
    for name, way in ways.items():
        # Fewer digits of a cosine say nothing.
        numbers = (f"{value:.5f}" if column == "cosine" else _number(value) for column, value in way.items())
        yield _row([name, *numbers, *[""] * (len(columns) - len(way))])


def _resident(results: Results) -> Iterable[str]:
    titles = "fast", "default", "thorough", "exact", "filter, 10% left", "filter on texts, 11% left"
    yield from _head(
        [
            "pictures",
            *(f"{title}: p50 ms" for title in titles),
            *(f"recall@10, {title}: pictures, texts" for title in titles[:3]),
            "KB a picture",
            "codes made in s",
            *(f"one {write}, µs" for write in _WRITES),
        ]
    )
    searches = {
        (each["kind"], each["rows"], each["queries"], each["search"]): each for each in results["resident"]["searches"]
    }
    for copy in results["resident"]["copies"]:
        kind, rows = copy["kind"], copy["rows"]
        times = [_number(searches[kind, rows, "texts", title]["p50"]) for title in titles]
        recalls = [
            ", ".join(f"{searches[kind, rows, queries, title]['recall']:.3f}" for queries in ("pictures", "texts"))
            for title in titles[:3]
        ]
        # Of few rows less than the process itself takes now and then.
        memory = _number(copy["bytes_per_row"] / 1000) if rows >= _ROWS_THAT_SHOW else ""
        sizes = memory, _number(copy["quantise_s"])
        writes = (_number(copy[f"{write}_us"]) for write in _WRITES)
        yield _row([f"{rows:,} {kind}", *times, *recalls, *sizes, *writes])


def _milvus_index(results: Results) -> Iterable[str]:
    titles = ["vectors", "index", "search", "p50 ms", "p99 ms"]
    yield from _head([*titles, "recall@10: pictures", "texts", "texts, filter, 1% left", "p50 ms"])
    searches = results["milvus_index"]["searches"]
    most = max(each["rows"] for each in searches)
    for each in searches:
        if each["kind"] == "spread" or (each["kind"], each["rows"]) == ("real", most):
            recalls = [f"{each[f'recall_{of}']:.3f}" for of in ("pictures", "texts", "filtered")]
            times = _number(each["p50"]), _number(each["p99"])
            filtered = _number(each["p50_filtered"])
            vectors = f"{each['rows']:,} {each['kind']}"
            yield _row([vectors, each["index"], each["search"], *times, *recalls, filtered])


def _milvus_index_best(results: Results) -> Iterable[str]:
    """Of each index the fastest search that finds enough of both kinds of queries."""
    yield from _head(["vectors", "index", "build s", *(f"recall@10 ≥ {goal}: search, p50 ms" for goal in RECALLS)])
    searches = results["milvus_index"]["searches"]
    indexes = dict.fromkeys((each["kind"], each["rows"], each["index"], each["build_s"]) for each in searches)
    for kind, rows, index, seconds in sorted(indexes, key=lambda key: (key[1], key[0])):
        cells = []
        for goal in RECALLS:
            enough = [
                each
                for each in searches
                if (each["kind"], each["rows"], each["index"]) == (kind, rows, index)
                and min(each["recall_pictures"], each["recall_texts"]) >= goal
            ]
            best = min(enough, key=lambda each: each["p50"], default=None)
            cells.append(f"{best['search']} {_number(best['p50'])}".strip() if best else "none tried")
        yield _row([f"{rows:,} {kind}", index, _number(seconds), *cells])


def _independent(results: Results) -> Iterable[str]:
    loads = results["independent"]["loads"]
    yield from _head(
        ["", "calls", "p50 ms", "p99 ms", "p50 ÷ k6's", "p99 ÷ k6's", "mean ms", "the server's own mean ms"]
    )
    for name, load in loads.items():
        base = load["k6"]
        for tool in ("clipseek bench", "k6"):
            found = load[tool]
            ratios = [_number(found[key] / base[key]) for key in ("p50_ms", "p99_ms")]
            times = _number(found["p50_ms"]), _number(found["p99_ms"])
            means = _number(found["mean_ms"]), _number(found["server_ms"])
            yield _row([f"{name}, {load['rate']}/s: {tool}", f"{found['count']:,}", *times, *ratios, *means])


_TABLES: dict[str, tuple[str, Callable[[Results], Iterable[str]]]] = {
    "machine": ("machine", _machine),
    "goals": ("machine", _goals),
    "elsewhere": ("elsewhere", _elsewhere),
    "limit": ("limit", _limit),
    "engine": ("engine", _engine),
    "threads": ("engine", _threads),
    "search": ("engine", _search),
    "peers-pictures": ("peers", _peers("embed_image")),
    "peers-sentences": ("peers", _peers("embed_text")),
    "peers-searches": ("peers", _peers("search_text")),
    "mixed": ("mixed", _mixed),
    "sizes": ("scale", _sizes),
    "search-by-size": ("scale", _search_by_size),
    "callers": ("scale", _callers),
    "loading": ("loading", _loading),
    "settings": ("settings", _settings),
    "arenas": ("arenas", _arenas),
    "milvus-scale": ("milvus", _milvus_scale),
    "memory": ("memory", _memory),
    "retrieval": ("retrieval", _retrieval),
    "retrieval-towers": ("retrieval", _retrieval_towers),
    "runtimes": ("runtimes", _runtimes),
    "resident": ("resident", _resident),
    "milvus-index-best": ("milvus_index", _milvus_index_best),
    "milvus-index": ("milvus_index", _milvus_index),
    "independent": ("independent", _independent),
}


def _head(titles: Sequence[str]) -> Iterable[str]:
    yield _row(titles)
    yield "|---" + "|---:" * (len(titles) - 1) + "|"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float) -> str:
    """To three digits."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


ALL = tuple(_TABLES)
"""The names of all tables."""
