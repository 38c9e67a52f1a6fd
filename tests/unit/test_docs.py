"""What the pages point to is there: files, sections of other pages, modules, commands."""

import math
import re
import shlex
from pathlib import Path
from xml.etree import ElementTree

import pytest

from clipseek_server.app import HEALTH_INTERVAL
from clipseek_server.cli import main
from clipseek_server.index.milvus import _FOLLOWED, _LOOKS
from clipseek_server.planning import rates
from clipseek_server.planning.plan import Wishes, make_plan
from clipseek_server.planning.sizes import (
    index_core_ms,
    milvus_bytes,
    milvus_parts,
    milvus_text_core_ms,
    most_searches,
    quantity,
    record_bytes,
    segments,
)

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SERVER = ROOT / "server" / "clipseek_server"


def anchors(page: Path) -> set[str]:
    """The sections of a page, as GitHub names them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()) if "://" not in link]
    broken = []
    for link in links:
        name, _, section = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (section and section not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_file_that_the_architecture_names_is_there() -> None:
    named = set(re.findall(r"`([\w/]+\.(?:py|proto|toml|lark))`", (ROOT / "docs" / "architecture.md").read_text()))
    assert len(named) > 30
    assert [name for name in sorted(named) if not (SERVER / name).is_file() and not (ROOT / name).is_file()] == []


def test_the_architecture_names_every_room() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    picture = "".join(ElementTree.parse(ROOT / "docs" / "architecture.svg").getroot().itertext())
    for room in (path.parent.name for path in SERVER.glob("*/__init__.py")):
        assert f"`{room}/" in text
        assert room in picture or room == "planning", room


def test_the_picture_brings_nothing_from_elsewhere() -> None:
    text = (ROOT / "docs" / "architecture.svg").read_text()
    assert re.findall(r"https?://[^\"]+", text) == ["http://www.w3.org/2000/svg"]
    assert "prefers-color-scheme: dark" in text


def test_the_plans_that_scaling_names_can_be_made(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "scaling.md").read_text()
    commands = re.findall(r"clipseek-server plan (--pictures [^`\n]+)", text)
    assert len(commands) >= 2
    for command in commands:
        main(["plan", *shlex.split(command)])
        assert "Cost" in capsys.readouterr().out
    for flag in re.findall(r"`(--(?!providers|milvus|resident|index-type|sweep|max-image-pixels)[a-z-]+)", text):
        with pytest.raises(SystemExit):
            main(["plan", "--help"])
        assert flag in capsys.readouterr().out


def test_the_billion_in_words_is_the_one_of_the_tables() -> None:
    text = " ".join((ROOT / "docs" / "scaling.md").read_text().split())
    fp32, int8 = (make_plan(Wishes(pictures=10**9, qps=20, precision=precision)) for precision in ("fp32", "int8"))
    said = (
        f"{fp32['vectors_flat_bytes'] / 1e12:.0f} TB of vectors",
        f"{fp32['node_bytes'] / 1e12:.1f} TB of memory with the records",
        f"{round(fp32['import_core_hours'], -3):,.0f} core-hours of embedding at fp32",
        f"or {round(int8['import_core_hours'], -3):,.0f} at int8",
        f"{segments(10**9):,} segments",
        f"{fp32['index_core_ms'] / 1000:.0f} seconds of a core for every question",
        f"{fp32['nodes']:.0f} machines of 16 cores for 20 of them a second",
        f"Memory alone would ask for {make_plan(Wishes(pictures=10**9, qps=0))['nodes']:.0f}",
    )
    months = fp32["one_server_ms"] / 86_400_000 / 30.4
    assert [words for words in (*said, f"busy for {months:.0f} months at fp32") if words not in text] == []


def test_what_a_rebuild_and_a_filter_take_is_in_words_as_in_the_plan() -> None:
    text = " ".join((ROOT / "docs" / "scaling.md").read_text().split())
    plan, fast = (make_plan(Wishes(pictures=10**7, qps=20, effort=effort)) for effort in ("default", "fast"))
    both = quantity(2 * plan["node_bytes"], "bytes")
    assert any(f"up to {both} of memory, more than these machines hold" in note for note in plan.notes)
    assert f"With ten million pictures that is {both}, more than the machine of the table holds" in text
    usual, more = (re.search(r"up to (\d+) times the work", " ".join(each.notes)) for each in (plan, fast))
    assert usual
    assert more
    assert f"{usual[1]} times as many as by default, {more[1]} times as many as with effort FAST" in text


def test_how_long_a_moved_alias_may_go_unnoticed_is_in_words_as_in_the_code() -> None:
    text = " ".join((ROOT / "docs" / "operations.md").read_text().split())
    assert HEALTH_INTERVAL == 2
    assert f"every two seconds a server looks at {_FOLLOWED} of the collections" in text
    assert _LOOKS == 4
    assert "four at a time" in text
    assert math.ceil(300 / _FOLLOWED) * HEALTH_INTERVAL == 6
    assert "about six seconds with 300" in text


def test_what_milvus_takes_is_in_words_as_in_the_calculator() -> None:
    text = " ".join((ROOT / "docs" / "scaling.md").read_text().split())
    process, around = milvus_parts()
    few, some, many = (index_core_ms("IVF_FLAT", "default", rows, 512) for rows in (10_000, 100_000, 1_000_000))
    server = milvus_text_core_ms("fp32")
    said = (
        f"{record_bytes(0)} bytes each",
        f"{around:.0f} bytes each, and {process / 1e6:.0f} MB for itself",
        f"shorter than real ones, {rates.RECORD_BYTES} bytes",
        f"({rates.KNOWN_TEXTS['fp32'][1000].core_ms:.1f} ms of a core, load generator included)",
        f"{few:.1f} ms among 10,000, {many:.0f} ms among a million",
        f"A new text takes {rates.MILVUS_NEW_TEXTS.core_ms:.1f} ms of both; so the server's own are {server:.1f} ms",
        f"the {rates.TEXT_SEARCHES['fp32'].core_ms:.1f} ms in memory",
        f"{server + many:.1f} ms for a new text among a million. Measured were 51.8 ms",
        f"among 100,000, {server + some:.1f} and 17.5 ms",
        f"200 bytes of metadata are {milvus_bytes('IVF_FLAT', 10**6, 512, 200) / 1e9:.2f} GB",
        f"{most_searches(10_000, 'fp32'):.0f} a second with up to 10,000 pictures in memory and "
        f"{most_searches(300_000, 'fp32'):.0f} with 300,000, where two threads scan; "
        f"{rates.MILVUS_KNOWN_TEXTS[10_000].value:.0f} beside Milvus",
    )
    assert [words for words in said if words not in text] == []
