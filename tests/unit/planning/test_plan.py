"""What a plan says to run, and that its lines add up."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from clipseek_server.planning import rates
from clipseek_server.planning.plan import Wishes, make_plan
from clipseek_server.planning.sizes import record_bytes

MILLION = 1_000_000


def test_few_pictures_need_one_process_without_a_spare() -> None:
    plan = make_plan(Wishes(pictures=300_000, qps=20))
    assert (plan.runs, plan.index) == ("lite", "in memory")
    assert plan["servers"] == 1
    assert make_plan(Wishes(pictures=10_000, qps=600, server_cores=16)).runs == "lite"
    assert "nodes" not in plan.lines
    assert any("admits one process" in note for note in plan.notes)


@pytest.mark.parametrize(
    "wishes",
    [
        Wishes(pictures=300_001),
        Wishes(pictures=10_000, qps=500),  # more than one machine of four cores bears
        Wishes(pictures=10_000, qps=1, server_cores=64, inserts_per_second=400),
        Wishes(pictures=10_000, qps=900, server_cores=1000),  # more than one event loop bears
        Wishes(pictures=300_000, qps=600, server_cores=16),  # more than one did among so many
        Wishes(pictures=10_000, index="HNSW"),
    ],
    ids=lambda wishes: f"{wishes.pictures} {wishes.qps}",
)
def test_what_one_process_cannot_do_needs_a_milvus_server_and_a_spare(wishes: Wishes) -> None:
    plan = make_plan(wishes)
    assert plan.index == (wishes.index or "IVF_FLAT")
    assert plan.runs in {"standalone", "cluster"}
    assert plan["servers"] >= 2


def test_wishes_that_change_nothing_are_named() -> None:
    assert not any("of a Milvus server alone" in note for note in make_plan(Wishes(pictures=1000)).notes)
    notes = make_plan(Wishes(pictures=1000, effort="fast", node_gb=128)).notes
    assert any(note.startswith("--effort, --node-gb: of a Milvus server alone") for note in notes)
    assert not any("of a Milvus server alone" in note for note in make_plan(Wishes(pictures=MILLION, node_gb=9)).notes)


def test_what_inserts_take_of_milvus_is_said_to_be_left_out() -> None:
    quiet, busy = (make_plan(Wishes(pictures=MILLION, inserts_per_second=rate)) for rate in (0, 5))
    assert [any("comes on top" in note and "inserts" in note for note in plan.notes) for plan in (quiet, busy)] == [
        False,
        True,
    ]


@pytest.mark.parametrize(("index", "said"), [(None, False), ("IVF_FLAT", True), ("HNSW", True)])
def test_what_imports_were_measured_with_is_said(index: rates.PlannedIndex | None, said: bool) -> None:
    notes = make_plan(Wishes(pictures=10_000, index=index)).notes
    assert any("to import a picture was measured with Milvus Lite and a folder" in note for note in notes) is said


def test_fifty_million_by_hand() -> None:
    plan = make_plan(Wishes(pictures=50 * MILLION, qps=200, precision="int8", metadata_bytes=43))
    assert plan["import_core_hours"] == pytest.approx(50e6 / (35.44 / 2) / 3600)
    assert plan["import_cores"] == pytest.approx(plan["import_core_hours"] / 24)
    # A server's own of a new text over Milvus: at fp32 1.6 ms more than in memory.
    milvus = 2000 / 376.8 - 2000 / 1322
    text_ms = 2000 / 380.6 + 2000 / 115.0 - milvus - 2000 / 164.9
    assert plan["text_core_ms"] == pytest.approx(text_ms)
    assert plan["serving_cores"] == pytest.approx(200 * text_ms / 1000)
    # 1.38 of 2.8 cores, and 200/s of the 264 that one process may be asked for; and one to lose.
    assert plan["servers"] == 2
    assert plan["node_cores"] == pytest.approx(200 * 50 * (2 / 48.15 - 2 / 1322))
    vectors = 50e6 * (2048 + 8) + 350 * 1024 * 2048
    # Beside record and index Milvus was measured to need 584 bytes a row, and 440 MB for itself.
    assert plan["node_bytes"] == pytest.approx(vectors + 50e6 * (400 + 584) + 440e6, rel=1e-3)
    # By cores: 400 of 11.2 a node. By memory it would be 4 nodes.
    assert plan["nodes"] == 36
    assert plan.runs == "cluster"
    assert plan["image_store_bytes"] == pytest.approx(50e6 * 508.4e3)
    assert plan["one_server_ms"] == pytest.approx(plan["import_core_hours"] / 4 * 3_600_000)
    assert plan["cost_milvus"] == pytest.approx(36 * (16 * 0.05 + 64 * 0.005) * 730)
    assert plan["cost_month"] == pytest.approx(sum(plan[f"cost_{what}"] for what in ("servers", "milvus", "storage")))


def test_a_servers_memory_by_hand() -> None:
    """At rest, four times the messages in flight, and 100 million pixels of 16 bytes in each core's thread."""
    plan = make_plan(Wishes(pictures=10_000, metadata_bytes=0))
    longer = 10_000 * (record_bytes(0) - rates.RECORD_BYTES)
    assert plan["server_bytes"] == pytest.approx(1256e6 + longer + 4 * 536_870_912 + 4 * 1.6e9)
    assert "4 cores · max_image_pixels · 16 B" in plan.lines["server_bytes"].why
    # The smallest that was measured, since the pictures are in Milvus.
    over_milvus = make_plan(Wishes(pictures=50 * MILLION, precision="int8", server_cores=16))
    assert over_milvus["server_bytes"] == pytest.approx(719.4e6 + 4 * 536_870_912 + 16 * 1.6e9)


def test_a_cluster_bears_the_peak_when_a_node_is_lost() -> None:
    wishes = Wishes(pictures=30 * MILLION, qps=0.1)
    plan = make_plan(wishes)
    assert plan.runs == "cluster"
    assert plan["node_bytes"] <= (plan["nodes"] - 1) * wishes.node_gb * 1e9 * 0.9
    busy = make_plan(Wishes(pictures=10 * MILLION, qps=100))
    assert busy["node_cores"] <= (busy["nodes"] - 1) * wishes.node_cores


def test_numbers_between_measured_ones_are_called_calculated() -> None:
    def kind(wishes: Wishes) -> str:
        return make_plan(wishes).lines["text_core_ms"].kind

    assert kind(Wishes(pictures=10_000)) == "measured"
    assert kind(Wishes(pictures=10_001)) == "calculated"
    assert kind(Wishes(pictures=10_000, index="IVF_FLAT")) == "calculated"


@pytest.mark.parametrize(
    "wrong", [{"pictures": 0}, {"pictures": 10**13}, {"qps": -1}, {"qps": float("inf")}, {"busy": 0}, {"index": "AUTO"}]
)
def test_what_cannot_be_wished_for(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Wishes(**{"pictures": 1, **wrong})


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("10k", 10_000),
        ("50M", 50_000_000),
        ("1B", 1_000_000_000),
        ("1.5m", 1_500_000),
        ("300,000", 300_000),
        ("1_000", 1000),
        (" 7 ", 7),
        ("1000B", 10**12),
    ],
)
def test_counts_as_people_write_them(text: str, count: int) -> None:
    assert Wishes.model_validate({"pictures": text}).pictures == count


@pytest.mark.parametrize(
    "text", ["", "k", "ten", "-5", "1e6", "10kk", "0", "0.4", "1001B", "nan", "inf", "1.2.3M", "٣k", "10 k 3", "."]
)
def test_nonsense_is_no_count(text: str) -> None:
    with pytest.raises(ValidationError, match=r"is no number of pictures|should be (greater|less) than or equal"):
        Wishes.model_validate({"pictures": text})


@given(st.text(max_size=12))
def test_any_text_is_a_count_or_refused(text: str) -> None:
    try:
        count = Wishes.model_validate({"pictures": text}).pictures
    except ValidationError:
        return
    assert 1 <= count <= 10**12


@pytest.mark.parametrize(
    ("effort", "work"),
    [("default", "up to 4 times the work of nprobe=256"), ("fast", "up to 16 times the work of nprobe=64")],
)
def test_what_a_filter_costs_is_said_of_the_planned_effort(effort: rates.Effort, work: str) -> None:
    assert any(work in note for note in make_plan(Wishes(pictures=MILLION, effort=effort)).notes)
    assert not any("filter" in note for note in make_plan(Wishes(pictures=MILLION, effort=effort, index="HNSW")).notes)


def test_a_rebuilds_memory_is_said_where_milvus_is_planned() -> None:
    def said(wishes: Wishes) -> list[str]:
        return [note for note in make_plan(wishes).notes if "A rebuild" in note]

    assert said(Wishes(pictures=10_000)) == []
    # 3.65 GB once, on a machine of 64 GB; of 8 GB Milvus loads 7.2.
    [note] = said(Wishes(pictures=MILLION))
    assert "up to 7.30 GB of memory, which these machines hold" in note
    [note] = said(Wishes(pictures=MILLION, node_gb=8))
    assert "more than these machines hold" in note
    [note] = said(Wishes(pictures=MILLION, node_gb=8.2))
    assert "which these machines hold" in note


def test_what_was_never_tried_is_said() -> None:
    assert not any("ever tried" in note for note in make_plan(Wishes(pictures=MILLION)).notes)
    for index in ("IVF_FLAT", "HNSW"):
        notes = make_plan(Wishes(pictures=2 * MILLION, index=index)).notes
        assert any("Nothing beyond 1,000,000" in note for note in notes)


ASKED = st.builds(
    Wishes,
    pictures=st.integers(1, 10**10),
    qps=st.floats(0, 1e5),
    picture_qps=st.floats(0, 1e4),
    inserts_per_second=st.floats(0, 1e4),
    dimension=st.integers(1, 4096),
    precision=st.sampled_from(["fp32", "int8"]),
    index=st.sampled_from([None, "FLAT", "IVF_FLAT", "HNSW"]),
    effort=st.sampled_from(["default", "fast"]),
    metadata_bytes=st.integers(0, 65_536),
)
TAKEN = [
    "import_core_hours",
    "serving_cores",
    "node_bytes",
    "node_cores",
    "nodes",
    "image_store_bytes",
    "milvus_disk_bytes",
    "cost_month",
]


@given(ASKED, st.floats(1, 100))
def test_more_pictures_never_take_less(wishes: Wishes, factor: float) -> None:
    few, many = make_plan(wishes), make_plan(wishes.model_copy(update={"pictures": int(wishes.pictures * factor)}))
    for key in TAKEN:
        if few.index == many.index and key in few.lines:
            assert few[key] <= many[key], key


@given(ASKED, st.floats(1, 100))
def test_more_searches_never_take_less(wishes: Wishes, factor: float) -> None:
    few, many = make_plan(wishes), make_plan(wishes.model_copy(update={"qps": wishes.qps * factor}))
    for key in ("serving_cores", "servers", "nodes", "cost_month"):
        if few.index == many.index and key in few.lines:
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
