"""From wishes to a plan: what to run, and each number of it with where it comes from."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Field

from clipseek_server.config import DECODED_PIXEL_BYTES, MAX_DIMENSION
from clipseek_server.planning import rates, sizes
from clipseek_server.planning.rates import Effort, PlannedIndex, Precision

HOURS_OF_A_MONTH = 730
_FULL_SHARE = 0.7
"""Of a query node's memory, to be taken by what is loaded."""
_LOADED_SHARE = 0.9
"""Of the query nodes' memory: Milvus loads no more (its documentation of loading collections)."""

_OF_A_SERVER = ("effort", "node_cores", "node_gb")
"""Wishes that say nothing of Milvus Lite."""

Kind = Literal["measured", "calculated"]
Runs = Literal["lite", "standalone", "cluster"]


def _count(text: object) -> object:
    """A number such as ``10k``, ``50M``, ``1.5B`` or ``300,000``."""
    if not isinstance(text, str):
        return text
    without_groups = re.sub(r"(?<=\d)[,_](?=\d{3}(?!\d))", "", text.strip())
    parts = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([kmb]?)", without_groups, re.IGNORECASE)
    if not parts:
        raise ValueError(f"{text!r} is no number of pictures: write 10k, 50M, 1B or 300,000")
    return round(float(parts[1]) * {"": 1, "k": 1e3, "m": 1e6, "b": 1e9}[parts[2].lower()])


Rate = Annotated[float, Field(ge=0, le=1e9)]
Size = Annotated[float, Field(ge=1e-3, le=1e9)]
Cores = Annotated[int, Field(ge=1, le=65_536)]


class Wishes(BaseModel, frozen=True, allow_inf_nan=False, extra="forbid"):
    """What is asked for, and what is assumed; each is a flag of ``clipseek-server plan``.

    Raises:
        ValidationError: One is out of range.
    """

    pictures: Annotated[int, BeforeValidator(_count), Field(ge=1, le=10**12)] = Field(
        description="pictures to store: 10k, 50M, 1B"
    )
    qps: Rate = Field(10.0, description="searches by new texts a second, at the peak")
    picture_qps: Rate = Field(0.0, description="searches by new pictures a second, at the peak")
    inserts_per_second: Rate = Field(0.0, description="pictures inserted a second, at the same time")
    import_hours: Size = Field(24.0, description="hours in which all pictures are to be imported first")
    dimension: int = Field(rates.MEASURED_DIMENSION, ge=1, le=MAX_DIMENSION, description="numbers of a vector")
    precision: Precision = Field("fp32", description="the model's: fp32 or int8")
    index: PlannedIndex | None = Field(
        None,
        description="of a Milvus server: FLAT, IVF_FLAT or HNSW. None is Milvus Lite with a copy in memory as long as "
        "one machine bears pictures and peak, else IVF_FLAT",
    )
    effort: Effort = Field("default", description="of searches in it: default or fast")
    metadata_bytes: int = Field(200, ge=0, le=65_536, description="bytes of a picture's metadata as JSON, mean")
    picture_kb: Size = Field(500.0, description="KB of a picture's file, mean")
    server_cores: Cores = Field(4, description="cores of a machine for one clipseek server")
    node_cores: Cores = Field(16, description="cores of a machine for a Milvus query node, or a standalone Milvus")
    node_gb: Size = Field(64.0, description="GB of its memory")
    busy: float = Field(0.7, ge=0.01, le=1, description="share of the cores that the peak may take")
    core_hour: Rate = Field(0.05, description="your price of a core for an hour; the default is no quote")
    gb_hour: Rate = Field(0.005, description="your price of a GB of memory for an hour; likewise")
    gb_month: Rate = Field(0.02, description="your price of a GB of storage for a month; likewise")


@dataclass(frozen=True, slots=True)
class Line:
    """One number of a plan.

    Attributes:
        key: For programs.
        what: For people.
        value: In ``unit``.
        unit: ``bytes``, ``ms``, ``cores``, …; empty for prices, whose currency is that of the prices given.
        why: The file of the measurement, or the formula.
        kind: ``measured`` here, or ``calculated``.
    """

    key: str
    what: str
    value: float
    unit: str
    why: str
    kind: Kind = "calculated"

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

    @property
    def lines(self) -> dict[str, Line]:
        """All of them by key."""
        return {line.key: line for lines in self.sections.values() for line in lines}

    def __getitem__(self, key: str) -> float:
        """The value of a line; ``KeyError`` where the plan has none of that key."""
        return self.lines[key].value


def make_plan(wishes: Wishes) -> Plan:
    """Calculate a plan."""
    draft = _Draft(wishes)
    sections = {
        "The vectors' memory by index": draft.memory_by_index(),
        "Importing": draft.importing(),
        "Serving": draft.serving(),
        "Milvus": draft.milvus(),
        "Storage": draft.storage(),
        "Cost, in the currency of your prices": draft.cost(),
    }
    made = {title: list(lines) for title, lines in sections.items()}
    made = {title: lines for title, lines in made.items() if lines}
    return Plan(draft.runs, draft.index or "in memory", made, list(draft.notes()))


class _Draft:
    """The numbers that several lines need."""

    def __init__(self, wishes: Wishes) -> None:
        self.wishes = w = wishes
        self.imported = rates.IMPORTED[w.precision]
        self.import_core_hours = w.pictures * self.imported.core_ms / 3_600_000
        self._serve(w.index)
        if self.index is None and (w.pictures > sizes.setting("resident_max_rows") or self.bearing > 1):
            self._serve("IVF_FLAT")
        self.servers = self.bearing + (self.index is not None)  # one may be lost
        if self.index is None:
            self.at_rest = sizes.process_bytes(w.pictures, w.precision, w.dimension, w.metadata_bytes)
        else:
            self.at_rest = rates.PROCESS_MB[w.precision][min(rates.PROCESS_MB[w.precision])].value * 1e6
        decoding = w.server_cores * sizes.setting("max_image_pixels") * DECODED_PIXEL_BYTES
        self.server_bytes = self.at_rest + 4 * sizes.setting("max_bytes_in_flight") + decoding
        self.searches = w.qps + w.picture_qps
        self.nodes, self.node_cores, self.node_bytes = 0, 0.0, 0.0
        if self.index is not None:
            self._plan_nodes(self.index)

    def _serve(self, index: PlannedIndex | None) -> None:
        """Cores and servers that bear the peak, none of them lost."""
        w = self.wishes
        self.index = index
        if index is None:
            self.text_ms = sizes.text_core_ms(w.pictures, w.precision, w.dimension)
            self.most = sizes.most_searches(w.pictures, w.precision)
            self.most_source = f"cpu.json: scale/sizes/{w.precision}/*/cached_rate"
        else:
            self.text_ms = sizes.milvus_text_core_ms(w.precision)
            most = rates.MILVUS_KNOWN_TEXTS[rates.SEARCHED_ROWS]
            self.most, self.most_source = most.value, most.source
        embedding = rates.PICTURES_EMBEDDED[w.precision].core_ms
        self.picture_ms = embedding + self.text_ms - rates.TEXT_SEARCHES[w.precision].core_ms
        asked = (w.qps, self.text_ms), (w.picture_qps, self.picture_ms), (w.inserts_per_second, self.imported.core_ms)
        self.terms = [f"{rate:g}/s · {ms:.1f} ms" for rate, ms in asked if rate] or ["nothing asked for"]
        self.cores = sum(rate * ms for rate, ms in asked) / 1000
        by_cores = self.cores / (w.server_cores * w.busy)
        by_process = (w.qps + w.picture_qps) / (self.most * w.busy)
        self.bearing = max(1, math.ceil(by_cores), math.ceil(by_process))

    def _plan_nodes(self, index: PlannedIndex) -> None:
        w = self.wishes
        self.node_cores = self.searches * sizes.index_core_ms(index, w.effort, w.pictures, w.dimension) / 1000
        self.node_bytes = sizes.milvus_bytes(index, w.pictures, w.dimension, w.metadata_bytes)
        by_memory, by_cores = self.node_bytes / (w.node_gb * 1e9), self.node_cores / w.node_cores
        self.nodes = max(1, math.ceil(by_memory / _FULL_SHARE), math.ceil(by_cores / w.busy))
        if self.nodes > 1:  # one may be lost
            self.nodes = max(self.nodes, 1 + math.ceil(max(by_memory / _LOADED_SHARE, by_cores)))

    @property
    def runs(self) -> Runs:
        if self.index is None:
            return "lite"
        return "standalone" if self.nodes == 1 else "cluster"

    def memory_by_index(self) -> Iterator[Line]:
        w = self.wishes
        for index in (*sizes.PLANNED, *sizes.NOT_MADE):
            size = sizes.index_bytes(index, w.pictures, w.dimension)
            yield Line(f"vectors_{index.lower()}_bytes", index, size, "bytes", sizes.index_formula(index))

    def importing(self) -> Iterator[Line]:
        w = self.wishes
        rate, hours = self.imported.value / rates.CORES, self.import_core_hours
        why = f"{self.imported.source} ÷ {rates.CORES} cores"
        yield Line("import_per_core", "a core imports", rate, "pictures/s", why, "measured")
        yield Line("import_core_hours", "all pictures take", hours, "core-h", f"n ÷ {rate:.2f}/s ÷ 3,600 s")
        cores = hours / w.import_hours
        yield Line("import_cores", "cores for the time given", cores, "cores", f"÷ {w.import_hours:g} h")
        if self.index is not None:
            machines = math.ceil(cores / w.server_cores)
            yield Line("import_machines", "machines", machines, "", f"of {w.server_cores} cores, rounded up")
        why = f"÷ {w.server_cores} cores; a rebuild takes as long, with writes held meanwhile"
        yield Line("one_server_ms", "one server alone takes", hours / w.server_cores * 3_600_000, "ms", why)

    def serving(self) -> Iterator[Line]:
        w = self.wishes
        measured = rates.TEXT_SEARCHES[w.precision]
        if self.index is None:
            more = f"scale/sizes/{w.precision}/*/cached_rate for more than {rates.SEARCHED_ROWS:,} pictures"
        else:
            more = f"what Milvus adds here by {rates.MILVUS_NEW_TEXTS.path}"
        kind: Kind = "measured" if self.text_ms == measured.core_ms else "calculated"
        why = f"of a core: {rates.CORES} ÷ {measured.source}, + {more}"
        yield Line("text_core_ms", "a search by a new text takes", self.text_ms, "ms", why, kind)
        if w.picture_qps:
            why = f"{rates.CORES} ÷ {rates.PICTURES_EMBEDDED[w.precision].source}, + the same"
            yield Line("picture_core_ms", "… by a new picture", self.picture_ms, "ms", why)
        yield Line("serving_cores", "cores at the peak", self.cores, "cores", " + ".join(self.terms))
        by_cores = f"{self.cores:.3g} cores ÷ ({w.server_cores} · {w.busy:g})"
        by_process = f"{self.searches:g}/s ÷ ({self.most:,.0f} · {w.busy:g})"
        spare = "none to lose" if self.index is None else "and one to lose"
        known = f"known texts, {self.most_source}"
        why = f"the larger of {by_cores} and {by_process} ({known}): {self.bearing}, {spare}"
        yield Line("servers", "servers", self.servers, "", why)
        at_rest = f"{self.at_rest / 1e9:.2f} GB, cpu.json: scale/sizes/*/rss_mb_at_start"
        decoding = f"{w.server_cores} cores · max_image_pixels · {DECODED_PIXEL_BYTES} B"
        why = f"{at_rest}; + 4 · max_bytes_in_flight + {decoding}"
        yield Line("server_bytes", "memory of each, at most", self.server_bytes, "bytes", why)

    def milvus(self) -> Iterator[Line]:
        w, index = self.wishes, self.index
        if index is None:
            return
        times = rates.INDEX_TIMES[index, w.effort]
        searched, most = times.search or "all vectors", max(times.p50_ms)
        why = f"of a core, {searched}: {rates.CORES} cores ÷ cpu.json: milvus/*/cached_rate, less the server's"
        if (index, w.effort) != ("IVF_FLAT", "default"):
            why += "; · p50 ÷ IVF_FLAT's in milvus_index.json"
        why += "" if w.pictures <= most else f"; from {most:,} extrapolated"
        one = sizes.index_core_ms(index, w.effort, w.pictures, w.dimension)
        yield Line("index_core_ms", f"{index}: one search takes", one, "ms", why)
        why = f"milvus_index.json: {searched} among {most:,} made-up vectors, spread evenly: the harder kind"
        yield Line("recall_texts", "… finds of a text's ten nearest", times.recall_texts[most], "", why, "measured")
        yield Line("node_cores", "its cores", self.node_cores, "cores", f"{one:,.1f} ms · {self.searches:g}/s")
        for other in sizes.PLANNED:
            if other != index:
                cores = self.searches * sizes.index_core_ms(other, w.effort, w.pictures, w.dimension) / 1000
                yield Line(f"node_cores_{other.lower()}", f"… with {other}", cores, "cores", "the same way")
        process, around = sizes.milvus_parts()
        record = f"n · ({sizes.record_bytes(w.metadata_bytes)} B a record + {around:.0f} B around it)"
        why = f"index + {record} + {process / 1e9:.2f} GB; the last two by cpu.json: milvus/*/milvus_rss_mb"
        yield Line("node_bytes", "its memory", self.node_bytes, "bytes", why)
        by_cores = f"{self.node_cores:,.1f} cores ÷ ({w.node_cores} · {w.busy:g})"
        by_memory = f"{self.node_bytes / 1e9:,.1f} GB ÷ ({w.node_gb:g} · {_FULL_SHARE:g})"
        spare = f"; at most {_LOADED_SHARE:.0%} full and all busy when one is lost" if self.nodes > 1 else ""
        what = "query nodes" if self.nodes > 1 else "machines (a standalone Milvus)"
        yield Line("nodes", what, self.nodes, "", f"the larger of {by_cores} and {by_memory}{spare}")

    def storage(self) -> Iterator[Line]:
        w = self.wishes
        store = w.pictures * (w.picture_kb + rates.THUMBNAIL_KB) * 1000
        why = f"n · ({w.picture_kb:g} KB + {rates.THUMBNAIL_KB:g} KB of thumbnail)"
        yield Line("image_store_bytes", "image store", store, "bytes", why)
        record = sizes.record_bytes(w.metadata_bytes)
        rows = float(w.pictures * (record + 4 * w.dimension))
        why = f"n · ({record} B a record + 4·d)"
        if self.index is not None:
            rows += sizes.index_bytes(self.index, w.pictures, w.dimension)
            why += " + the index, as in memory"
        yield Line("milvus_disk_bytes", "Milvus on disk, at least", rows, "bytes", why)

    def cost(self) -> Iterator[Line]:
        w = self.wishes
        once = self.import_core_hours * w.core_hour
        server_gb = math.ceil(self.server_bytes / 1e9)
        servers = self.servers * (w.server_cores * w.core_hour + server_gb * w.gb_hour) * HOURS_OF_A_MONTH
        nodes = self.nodes * (w.node_cores * w.core_hour + w.node_gb * w.gb_hour) * HOURS_OF_A_MONTH
        storage = sum(line.value for line in self.storage()) / 1e9 * w.gb_month

        def rent(machines: int, cores: float, gb: float) -> str:
            hourly = f"{cores:g} cores · {w.core_hour:g} + {gb:g} GB · {w.gb_hour:g}"
            return f"{machines} · ({hourly}) an hour · {HOURS_OF_A_MONTH} hours"

        yield Line("cost_import", "the first import, once", once, "", f"{w.core_hour:g} a core-hour")
        yield Line("cost_servers", "servers, a month", servers, "", rent(self.servers, w.server_cores, server_gb))
        if self.nodes:
            yield Line("cost_milvus", "Milvus' nodes, a month", nodes, "", rent(self.nodes, w.node_cores, w.node_gb))
        yield Line("cost_storage", "storage, a month", storage, "", f"{w.gb_month:g} a GB-month")
        yield Line("cost_month", "together, a month", servers + nodes + storage, "", "sum")

    def notes(self) -> Iterator[str]:
        w = self.wishes
        yield "The prices are round numbers to be replaced by yours; traffic and requests are not in them."
        yield (
            f"The rates are of machines with {rates.CORES} cores and no GPU, with CLIP ViT-B/32 and JPEGs of 1920x1080 "
            "in 500 KB, the load generator on the same cores; that more cores bear as many times more is assumed."
        )
        if w.dimension != rates.MEASURED_DIMENSION:
            yield "Another dimension is another model, with other rates: measure them with python -m benchmarks short."
        if self.index is None:
            yield "Milvus Lite admits one process: while it restarts nobody is served. --index plans for a server."
            ignored = [name for name in _OF_A_SERVER if getattr(w, name) != Wishes.model_fields[name].default]
            if ignored:
                flags = ", ".join(f"--{name.replace('_', '-')}" for name in ignored)
                yield f"{flags}: of a Milvus server alone; nothing of it is in these numbers."
            return
        yield (
            "What it takes to import a picture was measured with Milvus Lite and a folder: what a Milvus server and an "
            "object store add to that was not, and comes on top."
        )
        if w.inserts_per_second:
            yield (
                "Milvus' cores are those of searches: what it takes for inserts, above all to build and merge indexes, "
                "was not measured by the picture, and comes on top."
            )
        if self.runs == "standalone":
            yield "A standalone Milvus is one machine: while it is away, searches and writes answer UNAVAILABLE."
        else:
            yield (
                "What a cluster needs beside its query nodes comes on top: etcd, message queue, object store, "
                "coordinators, proxies, data and index nodes; and replicas, which are set in Milvus."
            )
        both = 2 * self.node_bytes
        held = both <= self.nodes * w.node_gb * 1e9 * _LOADED_SHARE
        room = "which these machines hold." if held else "more than these machines hold: have larger or more by then."
        size = sizes.quantity(both, "bytes")
        yield f"A rebuild has both generations in Milvus until it is done: up to {size} of memory, {room}"
        if self.index == "IVF_FLAT":
            nprobe = rates.IVF_NPROBE[w.effort]
            work = f"up to {sizes.setting('ivf_nlist') // nprobe} times the work of nprobe={nprobe}"
            yield f"Searches with a filter look into all clusters of IVF_FLAT: {work}."
        most = max(rates.INDEX_TIMES[self.index, w.effort].p50_ms)
        if w.pictures > most:
            measure = "measure before you buy, with python -m benchmarks.milvus_index"
            yield f"Nothing beyond {most:,} pictures was ever tried here with {self.index}: {measure}."
