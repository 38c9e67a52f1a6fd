"""What each effort means for an index of a Milvus server."""

import pytest

from clipseek_server.config import Settings
from clipseek_server.errors import EffortNotServed
from clipseek_server.index.records import Effort
from clipseek_server.index.vector_index import VectorIndex

IVF_FLAT = VectorIndex("IVF_FLAT", 1024)


@pytest.mark.parametrize(
    ("index", "effort", "limit", "filtered", "params"),
    [
        (VectorIndex("FLAT"), Effort.EXACT, 10, False, {}),
        (IVF_FLAT, Effort.FAST, 10, False, {"nprobe": 64}),
        (IVF_FLAT, Effort.DEFAULT, 10, False, {"nprobe": 256}),
        (IVF_FLAT, Effort.THOROUGH, 10, False, {"nprobe": 1024}),
        (IVF_FLAT, Effort.EXACT, 10, False, {"nprobe": 1024}),
        # What a filter takes away must not be missing from the hits, nor what was asked for beyond what is usual.
        (IVF_FLAT, Effort.FAST, 10, True, {"nprobe": 1024}),
        (IVF_FLAT, Effort.DEFAULT, 10, True, {"nprobe": 1024}),
        (IVF_FLAT, Effort.FAST, 5000, False, {"nprobe": 500}),
        (IVF_FLAT, Effort.DEFAULT, 16384, False, {"nprobe": 1024}),
        # One that was made with other settings.
        (VectorIndex("IVF_FLAT", 16), Effort.DEFAULT, 10, False, {"nprobe": 16}),
        (VectorIndex("HNSW"), Effort.FAST, 10, False, {"ef": 256}),
        (VectorIndex("HNSW"), Effort.DEFAULT, 5000, True, {"ef": 5000}),
        (VectorIndex("AUTOINDEX"), Effort.DEFAULT, 10, False, {}),
    ],
)
def test_search_params(index: VectorIndex, effort: Effort, limit: int, filtered: bool, params: dict[str, int]) -> None:
    assert index.search_params(effort, limit, Settings(), filtered=filtered) == params


@pytest.mark.parametrize(
    ("effort", "nprobe"), [(Effort.FAST, 1), (Effort.DEFAULT, 5), (Effort.THOROUGH, 20), (Effort.EXACT, 1024)]
)
def test_few_clusters_where_the_settings_say_so(effort: Effort, nprobe: int) -> None:
    settings = Settings(ivf_nlist=1024, ivf_nprobe=5)
    assert IVF_FLAT.search_params(effort, 5, settings, filtered=False) == {"nprobe": nprobe}


@pytest.mark.parametrize(("kind", "effort"), [("HNSW", Effort.EXACT), ("AUTOINDEX", Effort.FAST)])
def test_an_effort_that_is_not_served(kind: str, effort: Effort) -> None:
    with pytest.raises(EffortNotServed):
        VectorIndex(kind).search_params(effort, 10, Settings(), filtered=False)  # type: ignore[arg-type]
