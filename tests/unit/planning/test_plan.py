"""What a plan says to run, and that its lines add up."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipseek_server.planning.plan import Wishes, make_plan

MILLION = 1_000_000


def test_few_pictures_need_one_process_without_a_spare() -> None:
    plan = make_plan(Wishes(300_000, qps=20))
    assert (plan.runs, plan.index) == ("lite", "in memory")
    assert plan["servers"] == 1
    assert plan.get("nodes") is None
    assert any("admits one process" in note for note in plan.notes)


@pytest.mark.parametrize(
    "wishes",
    [
        Wishes(300_001),
        Wishes(10_000, qps=500),  # more than one machine of four cores bears
        Wishes(10_000, qps=1, server_cores=64, inserts=400),
        Wishes(10_000, qps=900, server_cores=1000),  # more than one event loop bears
        Wishes(10_000, replicas=2),
        Wishes(10_000, index="HNSW"),
    ],
    ids=lambda wishes: f"{wishes.pictures} {wishes.qps}",
)
def test_what_one_process_cannot_do_needs_a_milvus_server_and_a_spare(wishes: Wishes) -> None:
    plan = make_plan(wishes)
    assert plan.index == (wishes.index or "IVF_FLAT")
    assert plan.runs in {"standalone", "cluster"}
    assert plan["servers"] >= 2


def test_fifty_million_by_hand() -> None:
    plan = make_plan(Wishes(50 * MILLION, qps=200, precision="int8", metadata_bytes=43))
    assert plan["import_core_hours"] == pytest.approx(50e6 / (34.23 / 2) / 3600)
    assert plan["import_cores"] == pytest.approx(plan["import_core_hours"] / 24)
    assert plan["serving_cores"] == pytest.approx(200 / (321.3 / 2))
    # 1.24 of 2.8 cores, and one to lose.
    assert plan["servers"] == 2
    assert plan["node_cores"] == pytest.approx(200 * 50 * 2 * 0.05290)
    vectors = 50e6 * (2048 + 8) + 200 * 1024 * 2048
    assert plan["node_bytes"] == pytest.approx(vectors + 50e6 * 400)
    # By cores: 1058 of 11.2 a node. By memory it would be 3 nodes.
    assert plan["nodes"] == 95
    assert plan.runs == "cluster"
    assert plan["originals_bytes"] == 25e12
    assert plan["sweep_keys"] == 100 * MILLION
    assert plan["rebuild_ms"] == pytest.approx(plan["import_core_hours"] / 4 * 3_600_000)
    assert plan["cost_milvus"] == pytest.approx(95 * (16 * 0.05 + 64 * 0.005) * 730)
    assert plan["cost_month"] == pytest.approx(sum(plan[f"cost_{what}"] for what in ("servers", "milvus", "storage")))


def test_a_cluster_bears_the_peak_when_a_node_is_lost() -> None:
    wishes = Wishes(30 * MILLION, qps=0.1)
    plan = make_plan(wishes)
    assert plan.runs == "cluster"
    assert plan["node_bytes"] <= (plan["nodes"] - 1) * wishes.node_gb * 1e9 * 0.9
    busy = make_plan(Wishes(10 * MILLION, qps=20))
    assert busy["node_cores"] <= (busy["nodes"] - 1) * wishes.node_cores


def test_numbers_between_measured_ones_are_called_calculated() -> None:
    def kinds(wishes: Wishes) -> dict[str, str]:
        return {line.key: line.kind for lines in make_plan(wishes).sections.values() for line in lines}

    assert kinds(Wishes(300_000, metadata_bytes=40))["process_in_memory_bytes"] == "measured"
    assert kinds(Wishes(299_999, metadata_bytes=40))["process_in_memory_bytes"] == "calculated"
    assert kinds(Wishes(300_000, metadata_bytes=41))["process_in_memory_bytes"] == "calculated"
    assert kinds(Wishes(MILLION))["index_core_ms"] == "calculated"


def test_what_was_never_tried_is_said() -> None:
    assert not any("ever tried" in note for note in make_plan(Wishes(MILLION)).notes)
    assert any("Nothing beyond 1,000,000" in note for note in make_plan(Wishes(2 * MILLION)).notes)
    assert any("Nothing beyond 100,000" in note for note in make_plan(Wishes(2 * MILLION, index="HNSW")).notes)


ASKED = st.builds(
    Wishes,
    pictures=st.integers(1, 10**10),
    qps=st.floats(0, 1e5),
    picture_qps=st.floats(0, 1e4),
    inserts=st.floats(0, 1e4),
    dimension=st.integers(1, 4096),
    precision=st.sampled_from(["fp32", "int8"]),
    index=st.sampled_from([None, "FLAT", "IVF_FLAT", "HNSW"]),
    effort=st.sampled_from(["default", "fast"]),
    metadata_bytes=st.integers(0, 65_536),
    replicas=st.integers(1, 5),
)
TAKEN = [
    "import_core_hours",
    "serving_cores",
    "node_bytes",
    "node_cores",
    "nodes",
    "originals_bytes",
    "rows_bytes",
    "cost_month",
]


@given(ASKED, st.floats(1, 100))
def test_more_pictures_never_take_less(wishes: Wishes, factor: float) -> None:
    few, many = make_plan(wishes), make_plan(replace(wishes, pictures=int(wishes.pictures * factor)))
    for key in TAKEN:
        if few.index == many.index and few.get(key) is not None:
            assert few[key] <= many[key], key


@given(ASKED, st.floats(1, 100))
def test_more_searches_never_take_less(wishes: Wishes, factor: float) -> None:
    few, many = make_plan(wishes), make_plan(replace(wishes, qps=wishes.qps * factor))
    for key in ("serving_cores", "servers", "nodes", "cost_month"):
        if few.index == many.index and few.get(key) is not None:
            assert few[key] <= many[key], key


@given(ASKED)
def test_every_line_says_where_its_number_comes_from(wishes: Wishes) -> None:
    plan = make_plan(wishes)
    lines = [line for lines in plan.sections.values() for line in lines]
    assert len({line.key for line in lines}) == len(lines)
    for line in lines:
        assert line.value >= 0, line
        assert line.why, line
        assert line.kind == "calculated" or ".json: " in line.why, line
