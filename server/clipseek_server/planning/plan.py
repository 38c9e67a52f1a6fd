"""From wishes to a plan: what to run, and each number of it with where it comes from."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from clipseek_server.planning import rates, sizes
from clipseek_server.planning.rates import Effort, PlannedIndex, Precision

HOURS_OF_A_MONTH = 730
_LIST_PAGE = 1000
"""Keys that an object store gives at a time."""
_LOADED_SHARE = 0.9
"""Of the query nodes' memory: Milvus loads no more (its documentation of loading collections)."""

Kind = Literal["measured", "calculated"]
Runs = Literal["lite", "standalone", "cluster"]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is asked for, and what is assumed.

    Attributes:
        pictures: To be stored.
        qps: Searches by new texts a second, at the peak.
        picture_qps: Searches by new pictures a second, at the peak.
        inserts: Pictures inserted a second, at the same time.
        import_hours: In which all pictures are to be imported first.
        dimension: Numbers of a vector.
        precision: Of the model.
        index: Of a Milvus server; ``None`` for what clipseek recommends, which may be no Milvus server.
        effort: What searches ask of that index.
        metadata_bytes: Of one picture, as JSON.
        picture_kb: Of one picture's file, mean.
        thumbnail_kb: Of one thumbnail, mean.
        replicas: Of the vectors in Milvus' query nodes.
        server_cores: Of a machine that runs one clipseek server.
        node_cores: Of a machine that runs one Milvus query node, or a standalone Milvus.
        node_gb: Its memory.
        busy: The share of the cores that the peak may take.
        full: The share of a query node's memory that vectors and records may take.
        core_hour: Price.
        gb_hour: Price of memory.
        gb_month: Price of storage.
    """

    pictures: int
    qps: float = 10.0
    picture_qps: float = 0.0
    inserts: float = 0.0
    import_hours: float = 24.0
    dimension: int = rates.MEASURED_DIMENSION
    precision: Precision = "fp32"
    index: PlannedIndex | None = None
    effort: Effort = "default"
    metadata_bytes: int = 200
    picture_kb: float = 500.0
    thumbnail_kb: float = 8.4
    replicas: int = 1
    server_cores: int = 4
    node_cores: int = 16
    node_gb: float = 64.0
    busy: float = 0.7
    full: float = 0.7
    core_hour: float = 0.05
    gb_hour: float = 0.005
    gb_month: float = 0.02


@dataclass(frozen=True, slots=True)
class Line:
    """One number of a plan.

    Attributes:
        key: For programs.
        what: For people.
        value: In ``unit``.
        unit: ``bytes``, ``ms``, ``cores``, …; empty for prices, whose currency is that of the prices given.
        kind: ``measured`` here, or ``calculated``.
        why: The file of the measurement, or the formula.
    """

    key: str
    what: str
    value: float
    unit: str
    kind: Kind
    why: str

    @property
    def shown(self) -> str:
        """Value and unit."""
        return sizes.quantity(self.value, self.unit)


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan.

    Attributes:
        runs: What to run.
        index: What answers searches.
        sections: Lines by title.
        notes: What the numbers do not say.
    """

    runs: Runs
    index: PlannedIndex | Literal["in memory"]
    sections: dict[str, list[Line]]
    notes: list[str]

    def __getitem__(self, key: str) -> float:
        """The value of a line; ``KeyError`` where the plan has none of that key."""
        for lines in self.sections.values():
            for line in lines:
                if line.key == key:
                    return line.value
        raise KeyError(key)

    def get(self, key: str) -> float | None:
        """As ``[key]``; ``None`` where there is none."""
        try:
            return self[key]
        except KeyError:
            return None


def make_plan(wishes: Wishes) -> Plan:
    """Calculate a plan."""
    draft = _Draft(wishes)
    sections = {
        "The vectors' memory by index": list(draft.memory_by_index()),
        "The first import": list(draft.first_import()),
        "Serving": list(draft.serving()),
        **({"Milvus": list(draft.milvus(draft.index))} if draft.index is not None else {}),
        "Storage": list(draft.storage()),
        "Later": list(draft.later()),
    }
    sections["Cost, in the currency of your prices"] = list(draft.cost())
    return Plan(draft.runs, draft.index or "in memory", sections, list(draft.notes()))


class _Draft:
    """The numbers that several lines need."""

    def __init__(self, wishes: Wishes) -> None:
        self.wishes = w = wishes
        self.index = w.index
        self.import_ms = sizes.import_core_ms(w.precision)
        self.text_ms = sizes.text_core_ms(w.precision)
        self.picture_ms = sizes.picture_core_ms(w.precision)
        self.scan_ms = sizes.scan_core_ms(w.pictures, w.precision, w.dimension)
        self.loop = rates.KNOWN_TEXTS[w.precision][rates.SEARCHED_ROWS]
        if self.index is None and not self._fits_one_process():
            self.index = "IVF_FLAT"
        if self.index is not None:
            self.scan_ms = 0.0  # Milvus searches
        self.cores = self._cores()
        self.bearing = self._bearing()
        self.servers = self.bearing + (self.index is not None)
        self.process = self._process() if self.index is None else sizes.process_bytes(0, w.precision)
        self.in_flight = 4 * sizes.setting("max_bytes_in_flight")
        self.server_gb = math.ceil((self.process + self.in_flight) / 1e9)
        self.records = w.pictures * sizes.record_bytes(w.metadata_bytes)
        self.nodes, self.node_cores, self.node_bytes, self.index_ms = 0, 0.0, 0.0, 0.0
        if self.index is not None:
            self._plan_nodes(self.index)

    def _plan_nodes(self, index: PlannedIndex) -> None:
        w = self.wishes
        self.index_ms = sizes.index_core_ms(index, w.effort, w.pictures, w.dimension)
        self.node_cores = (w.qps + w.picture_qps) * self.index_ms / 1000
        self.node_bytes = w.replicas * (sizes.index_bytes(index, w.pictures, w.dimension) + self.records)
        self.nodes = max(
            w.replicas,
            math.ceil(self.node_bytes / (w.node_gb * 1e9 * w.full)),
            math.ceil(self.node_cores / (w.node_cores * w.busy)),
        )
        if self.nodes > 1:  # one may be lost
            by_memory = self.node_bytes / (w.node_gb * 1e9 * _LOADED_SHARE)
            self.nodes = max(self.nodes, 1 + math.ceil(max(by_memory, self.node_cores / w.node_cores)))

    def _fits_one_process(self) -> bool:
        """Whether Milvus Lite will do: its copy in memory holds the pictures, and one machine bears the peak."""
        w = self.wishes
        return w.pictures <= sizes.setting("resident_max_rows") and w.replicas == 1 and self._bearing() == 1

    def _bearing(self) -> int:
        """Servers that bear the peak, none of them lost."""
        w = self.wishes
        by_cores = self._cores() / (w.server_cores * w.busy)
        by_loop = (w.qps + w.picture_qps) / (self.loop.value * w.busy)
        return max(1, math.ceil(by_cores), math.ceil(by_loop))

    def _cores(self) -> float:
        """Cores that the servers need at the peak."""
        w = self.wishes
        milliseconds = (
            w.qps * (self.text_ms + self.scan_ms)
            + w.picture_qps * (self.picture_ms + self.scan_ms)
            + w.inserts * self.import_ms
        )
        return milliseconds / 1000

    def _process(self) -> float:
        """Memory of a server that keeps the pictures in memory."""
        w = self.wishes
        more = sizes.more_in_memory(w.pictures, w.dimension, w.metadata_bytes)
        return sizes.process_bytes(w.pictures, w.precision) + more

    @property
    def runs(self) -> Runs:
        if self.index is None:
            return "lite"
        return "standalone" if self.nodes == 1 else "cluster"

    def memory_by_index(self) -> Iterator[Line]:
        w = self.wishes
        for index in (*sizes.PLANNED, *sizes.NOT_MADE):
            size = sizes.index_bytes(index, w.pictures, w.dimension)
            yield Line(f"vectors_{index.lower()}_bytes", index, size, "bytes", "calculated", sizes.index_formula(index))
        if w.pictures <= sizes.setting("resident_max_rows"):
            more = sizes.more_in_memory(w.pictures, w.dimension, w.metadata_bytes)
            beyond = f"; + n · {more / w.pictures:.0f} B for dimension and metadata" if more else ""
            yield Line(
                "resident_bytes",
                "clipseek's copy in memory",
                sizes.resident_bytes(w.pictures) + more,
                "bytes",
                "measured" if w.pictures in rates.RESIDENT_BYTES and not more else "calculated",
                f"resident.json: copies, bytes_per_row · n{beyond}",
            )
            yield Line(
                "process_in_memory_bytes",
                "… the whole process",
                self._process(),
                "bytes",
                "measured" if w.pictures in rates.PROCESS_MB[w.precision] and not more else "calculated",
                f"cpu.json: scale/sizes/{w.precision}/*/rss_mb_at_start, interpolated{beyond}",
            )

    def first_import(self) -> Iterator[Line]:
        w = self.wishes
        rate = rates.IMPORTED[w.precision]
        core_hours = w.pictures * self.import_ms / 3_600_000
        cores = core_hours / w.import_hours
        yield Line(
            "import_per_core",
            "a core imports",
            rate.value / rates.CORES,
            "pictures/s",
            "measured",
            f"{rate.source} ÷ {rates.CORES} cores",
        )
        yield Line(
            "import_core_hours",
            "all of them take",
            core_hours,
            "core-h",
            "calculated",
            f"{w.pictures:,} ÷ {rate.value / rates.CORES:.2f}/s ÷ 3,600 s",
        )
        yield Line("import_cores", "cores for the time given", cores, "cores", "calculated", f"÷ {w.import_hours:g} h")
        if self.index is None:
            yield Line(
                "import_hours",
                "on the one machine",
                core_hours / w.server_cores,
                "h",
                "calculated",
                f"÷ {w.server_cores} cores: Milvus Lite admits one process",
            )
        else:
            machines = math.ceil(cores / w.server_cores)
            yield Line(
                "import_machines", "machines", machines, "", "calculated", f"of {w.server_cores} cores, rounded up"
            )
            rows, seconds = rates.BUILD_SECONDS[self.index]
            yield Line(
                "build_core_hours",
                "Milvus builds its index in",
                sizes.build_core_hours(self.index, w.pictures, w.dimension),
                "core-h",
                "calculated",
                f"milvus_index.json, build_s: {seconds:,.1f} s · {rates.CORES} cores for {rows:,}, in proportion",
            )

    def serving(self) -> Iterator[Line]:
        w = self.wishes
        rate = rates.TEXT_SEARCHES[w.precision]
        yield Line(
            "text_per_core",
            "a core bears searches by text",
            rate.value / rates.CORES,
            "/s",
            "measured",
            f"{rate.source} ÷ {rates.CORES} cores; new texts, {rates.SEARCHED_ROWS:,} pictures in memory",
        )
        if w.picture_qps:
            rate = rates.PICTURES_EMBEDDED[w.precision]
            yield Line(
                "picture_per_core",
                "… searches by picture",
                rate.value / rates.CORES,
                "/s",
                "measured",
                f"{rate.source} ÷ {rates.CORES} cores",
            )
        if self.index is None:
            yield Line(
                "scan_core_ms",
                "more of a core for each search",
                self.scan_ms,
                "ms",
                "calculated",
                f"cpu.json: scale/sizes/{w.precision}/*/cached_rate, against {rates.SEARCHED_ROWS:,}",
            )
        parts = (
            (w.qps, self.text_ms + self.scan_ms),
            (w.picture_qps, self.picture_ms + self.scan_ms),
            (w.inserts, self.import_ms),
        )
        terms = [f"{rate:g}/s · {ms:.1f} ms" for rate, ms in parts if rate] or ["nothing asked for"]
        yield Line("serving_cores", "cores at the peak", self.cores, "cores", "calculated", " + ".join(terms))
        yield Line(
            "searches_per_process",
            "one process answers at most",
            self.loop.value,
            "/s",
            "measured",
            f"{self.loop.source}: no model runs, about what one event loop allows",
        )
        spare = "and one to lose" if self.index is not None else "none to lose"
        yield Line(
            "servers",
            "servers",
            self.servers,
            "",
            "calculated",
            f"{self.cores:.3g} cores ÷ ({w.server_cores} · {w.busy:g}) rounded up: {self.bearing}, {spare}",
        )
        yield Line(
            "server_bytes",
            "memory of each at rest",
            self.process,
            "bytes",
            "calculated" if self.index is None else "measured",
            "as above"
            if self.index is None
            else rates.PROCESS_MB[w.precision][min(rates.PROCESS_MB[w.precision])].source,
        )
        yield Line(
            "server_peak_bytes",
            "… at most, with pictures in flight",
            self.process + self.in_flight,
            "bytes",
            "calculated",
            "+ 4 · max_bytes_in_flight",
        )

    def milvus(self, index: PlannedIndex) -> Iterator[Line]:
        w = self.wishes
        times = rates.INDEX_TIMES[index, w.effort]
        searched = times.search or "all vectors"
        most = max(times.p50_ms)
        beyond = "" if w.pictures <= most else f", from {most:,} extrapolated"
        recall = times.recall_texts[max(times.recall_texts)]
        yield Line(
            "index_core_ms",
            f"{index}: one search takes",
            self.index_ms,
            "ms",
            "calculated",
            f"of a core, at most: milvus_index.json, p50 with {searched} · cores then busy{beyond}",
        )
        yield Line(
            "recall_texts",
            "… and finds of a text's ten nearest",
            recall,
            "",
            "measured",
            f"milvus_index.json: {searched} among {max(times.recall_texts):,}",
        )
        yield Line(
            "node_cores",
            "cores of query nodes",
            self.node_cores,
            "cores",
            "calculated",
            f"{self.index_ms:,.1f} ms · {w.qps + w.picture_qps:g}/s",
        )
        for other in sizes.PLANNED:
            if other != index:
                ms = sizes.index_core_ms(other, w.effort, w.pictures, w.dimension)
                cores = (w.qps + w.picture_qps) * ms / 1000
                yield Line(
                    f"node_cores_{other.lower()}", f"… with {other}", cores, "cores", "calculated", "the same way"
                )
        yield Line(
            "node_bytes",
            "memory of vectors and records",
            self.node_bytes,
            "bytes",
            "calculated",
            f"(index + {sizes.record_bytes(w.metadata_bytes)} B a record) · {w.replicas} replica(s)",
        )
        yield Line(
            "nodes",
            "query nodes" if self.nodes > 1 else "machines (a standalone Milvus)",
            self.nodes,
            "",
            "calculated",
            self._why_nodes(),
        )
        yield Line(
            "search_alone_ms",
            "one search alone takes, at best",
            self.index_ms / (self.nodes * w.node_cores),
            "ms",
            "calculated",
            f"÷ {self.nodes:,} · {w.node_cores} cores",
        )

    def _why_nodes(self) -> str:
        w = self.wishes
        by_cores = f"{self.node_cores:,.0f} cores ÷ ({w.node_cores} · {w.busy:g})"
        by_memory = f"{self.node_bytes / 1e9:,.1f} GB ÷ ({w.node_gb:g} · {w.full:g})"
        spare = f"; at most {_LOADED_SHARE:.0%} full and all busy when one is lost" if self.nodes > 1 else ""
        return f"the larger of {by_cores} and {by_memory}{spare}"

    def storage(self) -> Iterator[Line]:
        w = self.wishes
        originals, thumbnails = w.pictures * w.picture_kb * 1000, w.pictures * w.thumbnail_kb * 1000
        rows = self.records + w.pictures * 4 * w.dimension
        yield Line("originals_bytes", "pictures", originals, "bytes", "calculated", f"n · {w.picture_kb:g} KB")
        yield Line(
            "thumbnails_bytes",
            "thumbnails",
            thumbnails,
            "bytes",
            "calculated",
            f"n · {w.thumbnail_kb:g} KB; 32 KiB each at most",
        )
        yield Line(
            "rows_bytes",
            "records and vectors on disk, at least",
            rows,
            "bytes",
            "calculated",
            f"n · ({sizes.record_bytes(w.metadata_bytes)} B a record + 4·d)",
        )
        if self.index is not None:
            yield Line(
                "index_files_bytes",
                "files of the index, at least",
                sizes.index_bytes(self.index, w.pictures, w.dimension),
                "bytes",
                "calculated",
                "as in memory",
            )

    def later(self) -> Iterator[Line]:
        w = self.wishes
        hours = w.pictures * self.import_ms / 3_600_000 / w.server_cores
        yield Line(
            "rebuild_ms",
            "a rebuild, writes held meanwhile",
            hours * 3_600_000,
            "ms",
            "calculated",
            f"the import's core-hours ÷ {w.server_cores} cores: one server does it",
        )
        yield Line(
            "sweep_keys",
            "a sweep lists",
            2 * w.pictures,
            "keys",
            "calculated",
            f"2 a picture, {_LIST_PAGE:,} a request to an object store; each server, every --sweep-interval",
        )

    def cost(self) -> Iterator[Line]:
        w = self.wishes
        stored = sum(line.value for line in self.storage()) / 1e9
        build = sizes.build_core_hours(self.index, w.pictures, w.dimension) if self.index is not None else 0.0
        once = (w.pictures * self.import_ms / 3_600_000 + build) * w.core_hour
        servers = self.servers * (w.server_cores * w.core_hour + self.server_gb * w.gb_hour) * HOURS_OF_A_MONTH
        nodes = self.nodes * (w.node_cores * w.core_hour + w.node_gb * w.gb_hour) * HOURS_OF_A_MONTH
        storage = stored * w.gb_month
        per_hour = f"{w.core_hour:g} a core-hour, {w.gb_hour:g} a GB-hour of memory"
        yield Line("cost_import", "the first import, once", once, "", "calculated", f"{w.core_hour:g} a core-hour")
        yield Line(
            "cost_servers", "servers, a month", servers, "", "calculated", f"{per_hour}, {HOURS_OF_A_MONTH} hours"
        )
        if self.nodes:
            yield Line("cost_milvus", "Milvus' nodes, a month", nodes, "", "calculated", "the same")
        yield Line("cost_storage", "storage, a month", storage, "", "calculated", f"{w.gb_month:g} a GB-month")
        yield Line("cost_month", "together, a month", servers + nodes + storage, "", "calculated", "sum")

    def notes(self) -> Iterator[str]:
        w = self.wishes
        yield (
            "The prices are round numbers to be replaced by yours: --core-hour, --gb-hour, --gb-month. "
            "Traffic and requests are not in them."
        )
        yield (
            f"The rates are of machines with {rates.CORES} cores and no GPU, with CLIP ViT-B/32 and JPEGs of 1920x1080 "
            "in 500 KB, the load generator on the same cores; that more cores bear as many times more is assumed."
        )
        if w.dimension != rates.MEASURED_DIMENSION:
            yield (
                f"Scans are taken as proportional to the dimension; a model of {w.dimension} numbers is another one "
                "than ViT-B/32, with other rates: measure yours with python -m benchmarks short."
            )
        if self.index is None:
            yield (
                "Milvus Lite admits one process: while it restarts nobody is served, and the copy in memory is loaded "
                "anew. --index IVF_FLAT plans for a Milvus server, which several servers can share."
            )
            return
        if self.runs == "standalone":
            yield "A standalone Milvus is one machine: while it is away, searches and writes answer UNAVAILABLE."
        if self.index == "IVF_FLAT":
            times = sizes.setting("ivf_nlist") // sizes.setting("ivf_nprobe")
            yield f"Searches with a filter look into all clusters of IVF_FLAT: up to {times} times the work by default."
        yield (
            "Searches that wait go to Milvus up to 32 in a call, which may take less of a core than one at a time, "
            "from which it is calculated here; each server has one call of a collection under way at a time."
        )
        yield (
            "Milvus' etcd, message queue, object store, coordinators, proxies, data and index nodes come on top, and "
            "so does what it needs around each record. More replicas than one are set in Milvus, not in clipseek."
        )
        most = max(rates.INDEX_TIMES[self.index, w.effort].p50_ms)
        if w.pictures > most:
            yield (
                f"Nothing beyond {most:,} pictures was ever tried here with {self.index}: measure before you buy, with "
                "python -m benchmarks.milvus_index."
            )
