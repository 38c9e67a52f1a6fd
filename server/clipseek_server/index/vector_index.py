"""Milvus' indexes over the vectors: how each is made, and what each effort means for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pymilvus import MilvusClient

from clipseek_server.config import IndexType, Settings
from clipseek_server.errors import EffortNotServed
from clipseek_server.index.records import Effort
from clipseek_server.index.schema import VECTOR_FIELD

METRIC = "COSINE"

_FACTOR = {Effort.FAST: 0.25, Effort.DEFAULT: 1.0, Effort.THOROUGH: 4.0}
"""How many candidates an effort looks at, relative to the setting."""
_LARGEST_EF = 32768

_HITS_A_CLUSTER = 10
"""IVF_FLAT: Milvus makes no more clusters than give each 39 rows on average; some have fewer."""

_EFFORTS: dict[IndexType, frozenset[Effort]] = {
    "FLAT": frozenset({Effort.FAST, Effort.THOROUGH, Effort.EXACT}),
    "IVF_FLAT": frozenset({Effort.FAST, Effort.THOROUGH, Effort.EXACT}),
    "HNSW": frozenset({Effort.FAST, Effort.THOROUGH}),
    # Its parameters are Milvus' own business.
    "AUTOINDEX": frozenset(),
}


@dataclass(frozen=True, slots=True)
class VectorIndex:
    """An index that a generation has.

    Attributes:
        type: Its kind.
        nlist: IVF_FLAT: clusters; otherwise 0.
    """

    type: IndexType
    nlist: int = 0

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> "VectorIndex":
        """From ``MilvusClient.describe_index``."""
        return cls(description["index_type"], int(description.get("nlist", 0)))

    @property
    def efforts(self) -> frozenset[Effort]:
        """What it serves beside the default."""
        return _EFFORTS[self.type]

    def check(self, effort: Effort) -> None:
        """Raise ``EffortNotServed`` unless it serves the effort."""
        if effort is not Effort.DEFAULT and effort not in self.efforts:
            served = ", ".join(sorted(other.name for other in self.efforts)) or "none"
            raise EffortNotServed(
                f"the collection's {self.type} index does not serve effort {effort.name}; "
                f"leave it unset or choose one of: {served}",
                field="options.effort",
                effort=effort.name,
                index=self.type,
                served=served,
            )

    def search_params(self, effort: Effort, limit: int, settings: Settings, *, filtered: bool) -> dict[str, int]:
        """Milvus' parameters for one search of ``limit`` hits, such that it finds as many."""
        self.check(effort)
        if self.type == "HNSW":
            return {"ef": min(_LARGEST_EF, max(limit, round(settings.hnsw_ef * _FACTOR[effort])))}
        if self.type == "IVF_FLAT":
            if effort is Effort.EXACT or filtered:
                # The nearest that a filter leaves lie far apart, and what it takes away is not compared.
                return {"nprobe": self.nlist}
            probes = round(settings.ivf_nprobe * _FACTOR[effort])
            return {"nprobe": min(self.nlist, max(1, probes, limit // _HITS_A_CLUSTER))}
        return {}


def new_index(settings: Settings, *, embedded: bool) -> tuple[IndexType, dict[str, int]]:
    """How new generations are indexed: type and parameters. Lite keeps FLAT: searches are answered from memory."""
    kind: IndexType = "FLAT" if embedded else settings.index_type
    build: dict[IndexType, dict[str, int]] = {
        "IVF_FLAT": {"nlist": settings.ivf_nlist},
        "HNSW": {"M": settings.hnsw_m, "efConstruction": settings.hnsw_ef_construction},
    }
    return kind, build.get(kind, {})


def index_params(settings: Settings, *, embedded: bool) -> Any:
    """The same, as pymilvus takes it."""
    kind, build = new_index(settings, embedded=embedded)
    params = MilvusClient.prepare_index_params()
    params.add_index(VECTOR_FIELD, index_type=kind, metric_type=METRIC, params=build)
    return params
