"""The page, used in a real Chromium over a real server: what is shown, and what the server holds afterwards."""

import base64
import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from grpc import StatusCode
from playwright.sync_api import APIResponse, Browser, BrowserContext, Locator, Page, Request, Route, expect

from chromium import chromium
from clipseek import Client, NotFoundError, Term
from clipseek.ui.words import CHINESE, ENGLISH, Words
from clipseek_server.config import Settings
from clipseek_server.encoding.bundle import read_manifest
from pictures import picture
from servers import ServerThread
from small_server import Failure, SmallServer, start

pytestmark = pytest.mark.xdist_group("ui")  # one browser

LOCALES = {"en-US": ENGLISH, "zh-TW": CHINESE}
TIMEOUT = 20_000  # ms; of waiting for a condition
ARRIVAL = re.compile(r"/gradio_api/upload(\?|$)")
"""What a file that is sent to the page is sent to."""


@dataclass
class PageProcess:
    """``clipseek ui`` as a process."""

    url: str
    process: "subprocess.Popen[str]"
    temporary: Path

    def files(self) -> list[Path]:
        """All that lies in its folders for what browsers send."""
        return [path for path in self.temporary.rglob("*") if path.is_file()]


@contextmanager
def serving_page(server: str, temporary: Path, *options: str, before: str = "") -> Iterator[PageProcess]:
    """The page of a server; ``before`` is Python code that its process begins with."""
    program = ["-c", f"{before}\nfrom clipseek.__main__ import main\nmain()"] if before else ["-m", "clipseek"]
    command = [sys.executable, *program, "--server", server, "--json", "ui", "--listen", "127.0.0.1:0", *options]
    environment = os.environ | {"TMPDIR": str(temporary)}
    with subprocess.Popen([*command, "--no-open"], stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            yield PageProcess(json.loads(process.stdout.readline())["url"], process, temporary)
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as launched:
        yield launched


@pytest.fixture(scope="module")
def served(browser, server, tmp_path_factory) -> Iterator[PageProcess]:
    with serving_page(server.address, tmp_path_factory.mktemp("page")) as running:
        yield running


@pytest.fixture(scope="module")
def context(browser) -> Iterator[Callable[..., BrowserContext]]:
    """Gives the browser session with those options: one for all tests, so that each loads the page's scripts once."""
    opened: dict[str, BrowserContext] = {}

    def call(**options: object) -> BrowserContext:
        key = repr(sorted(options.items()))
        if key not in opened:
            opened[key] = browser.new_context(**options)
            opened[key].set_default_timeout(TIMEOUT)
        return opened[key]

    yield call
    for each in opened.values():
        each.close()


@pytest.fixture
def visit(context, served, collection, request) -> Iterator[Callable[..., Page]]:
    """Opens the page in a new tab, in the test's collection."""
    pages, seen = [], list[str]()

    def call(*, url: str = "", locale: str = "en-US", into: str = collection, **options: object) -> Page:
        page = context(locale=locale, **options).new_page()
        pages.append(page)
        record_events(page, seen)
        page.goto(url or served.url)
        expect(page.locator("#server .model")).to_be_visible(timeout=TIMEOUT)
        if into:
            choose(page, into)
        return page

    yield call
    # pytest shows it of tests that fail.
    request.node.add_report_section("teardown", "events of the page", "\n".join(seen))
    for page in pages:
        page.close()


def record_events(page: Page, into: list[str]) -> None:
    """Write down what the page asks its server for, and what the browser complains of."""

    def record(what: str) -> None:
        into.append(f"{time.monotonic():.3f} {what}")

    def record_request(stage: str, request: Request) -> None:
        if "/queue/" in request.url:
            record(f"{stage} {request.url.rpartition('/queue/')[2]} {request.post_data or ''}")

    page.on("request", lambda request: record_request("asks", request))
    page.on("requestfinished", lambda request: record_request("has", request))
    page.on("requestfailed", lambda request: record_request(f"lost ({request.failure})", request))
    page.on("console", lambda message: record(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: record(f"uncaught: {error}"))


def choose(page: Page, collection: str) -> None:
    """Choose a collection, and wait until what is shown is of it."""
    # What the page begins with comes last otherwise.
    expect(page.locator("#status p:not(.searching)").first).to_be_visible(timeout=TIMEOUT)
    chooser = page.locator("#collection input")
    chooser.fill(collection)
    chooser.press("Enter")
    expect(page.locator("#status")).to_contain_text(collection, timeout=TIMEOUT)


def cards(page: Page) -> Locator:
    return page.locator("#gallery .cards > li")


def names(page: Page) -> list[str]:
    return page.locator("#gallery .cards .name").all_inner_texts()


def scores(page: Page) -> list[float]:
    return [float(text) for text in page.locator("#gallery .cards .score span").all_inner_texts()]


def search(page: Page, sentence: str, words: Words = ENGLISH) -> None:
    page.get_by_label(words.sentence, exact=True).fill(sentence)
    page.get_by_label(words.sentence, exact=True).press("Enter")
    expect(cards(page).locator(".score").first).to_be_visible(timeout=TIMEOUT)


def slide(page: Page, label: str, value: str) -> None:
    """Type into the number of a slider, and leave it."""
    number = page.get_by_role("spinbutton", name=re.compile(label))
    slider = page.get_by_role("slider", name=re.compile(label))
    # What the server says of its limits may come in between.
    end = time.monotonic() + TIMEOUT / 1000
    while slider.input_value() != value:
        assert time.monotonic() < end
        number.fill(value)
        number.press("Tab")
        page.wait_for_timeout(100)


def until(page: Page, condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 3 * TIMEOUT / 1000
    while not condition():
        assert time.monotonic() < end
        page.wait_for_timeout(20)


@pytest.fixture
def pictures(tmp_path) -> list[Path]:
    folder = tmp_path / "pictures"
    folder.mkdir()
    files = [folder / name for name in ("one.png", "two (2).png", "夏天 #3.png", "four.png")]
    for seed, file in enumerate(files):
        file.write_bytes(picture(seed))
    return files


@pytest.fixture
def stored(client, collection, pictures) -> dict[str, str]:
    """Four pictures in the test's collection; their ids by name."""
    return {
        file.name: client.insert(file, metadata={"file": file.name, "album": "summer"}, collection=collection).image_id
        for file in pictures
    }


@pytest.mark.parametrize("locale", LOCALES)
def test_several_pictures_are_added_and_what_fails_is_named(
    visit, client, collection, served, pictures, tmp_path, locale
):
    words = LOCALES[locale]
    broken = tmp_path / "broken.png"
    broken.write_bytes(picture(7)[:200])
    page = visit(locale=locale)
    expect(page.locator("#status")).to_have_text(words.no_collection.format(collection=collection))
    page.get_by_role("tab", name=words.tab_add).click()
    page.locator("#files input[type=file]").set_input_files([*pictures, broken])
    outcome = page.locator("#outcome")
    expect(outcome).to_contain_text(words.outcomes["created"].format(count=4), timeout=TIMEOUT)
    expect(outcome).to_contain_text(words.failures.format(count=1))
    expect(outcome.get_by_role("alert")).to_contain_text("broken.png")
    held = {image.metadata["file"]: image for image in client.list(collection=collection)}
    assert held.keys() == {file.name for file in pictures}
    for file in pictures:
        assert client.download(held[file.name].image_id, collection=collection) == file.read_bytes()
    page.get_by_role("tab", name=words.tab_search).click()
    expect(cards(page)).to_have_count(4)
    # What the page was sent it does not keep.
    assert not [path for path in served.files() if path.suffix == ".png"]

    page.get_by_role("tab", name=words.tab_add).click()
    page.locator("#files input[type=file]").set_input_files(pictures[:2])
    expect(outcome).to_contain_text(words.outcomes["unchanged"].format(count=2), timeout=TIMEOUT)


@pytest.mark.parametrize("locale", LOCALES)
def test_a_file_that_is_gone_is_named_and_the_others_are_stored(visit, client, collection, served, pictures, locale):
    words = LOCALES[locale]
    page = visit(locale=locale)

    def remove(route: Route) -> None:
        """As another browser would that has added the same file in between."""
        for path in served.files():
            if path.name == "one.png" and str(path) in (route.request.post_data or ""):
                path.unlink()
        route.continue_()

    page.route("**/queue/join*", remove)
    page.get_by_role("tab", name=words.tab_add).click()
    page.locator("#files input[type=file]").set_input_files(pictures)
    outcome = page.locator("#outcome")
    expect(outcome).to_contain_text(words.outcomes["created"].format(count=3), timeout=TIMEOUT)
    expect(outcome.get_by_role("alert")).to_contain_text(words.failures.format(count=1))
    expect(outcome.get_by_role("alert").locator("dt")).to_have_text("one.png")
    expect(outcome.get_by_role("alert").locator("dd")).to_have_text(words.picture_lost)
    held = {image.metadata["file"] for image in client.list(collection=collection)}
    assert held == {file.name for file in pictures[1:]}


@pytest.mark.parametrize("locale", LOCALES)
def test_a_sentence_finds_what_the_server_finds(visit, client, collection, stored, locale):
    words = LOCALES[locale]
    page = visit(locale=locale)
    expect(cards(page)).to_have_count(4)
    search(page, "a cat on a sofa", words)
    wanted = client.search_text("a cat on a sofa", collection=collection, top_k=12)
    assert names(page) == [hit.image.metadata["file"] for hit in wanted]
    assert scores(page) == [pytest.approx(hit.score, abs=6e-4) for hit in wanted]
    for name in stored:
        assert page.get_by_role("img", name=name, exact=True).evaluate("image => image.naturalWidth") > 0


def test_top_k_minimum_score_and_filter_count(visit, client, collection, stored):
    page = visit()
    page.get_by_role("button", name=ENGLISH.options).click()
    slide(page, ENGLISH.top_k, "2")
    search(page, "a cat")
    expect(cards(page)).to_have_count(2)
    page.locator("#filter").get_by_role("textbox").fill('metadata.file == "four.png"')
    page.locator("#filter").get_by_role("textbox").press("Enter")
    expect(cards(page)).to_have_count(1)
    assert names(page) == ["four.png"]
    slide(page, ENGLISH.min_score, "0.99")
    page.locator("#search").click()
    expect(page.locator("#status")).to_have_text(ENGLISH.nothing_found)
    expect(cards(page)).to_have_count(0)
    page.locator("#sentence textarea, #sentence input").fill("")
    page.locator("#search").click()
    expect(page.locator("#status")).to_have_text(ENGLISH.listed_filtered.format(count=1, collection=collection))
    assert names(page) == ["four.png"]


def check_found_itself(page: Page, name: str) -> None:
    expect(page.locator("#picture .chosen")).to_contain_text(name, timeout=TIMEOUT)
    expect(cards(page).locator(".score").first).to_be_visible(timeout=TIMEOUT)
    assert names(page)[0] == name
    assert scores(page)[0] == pytest.approx(1, abs=1e-3)


def test_a_chosen_picture_finds_itself(visit, stored, pictures):
    page = visit()
    page.locator("#picture input").set_input_files(pictures[2])
    check_found_itself(page, "夏天 #3.png")
    page.get_by_role("button", name=ENGLISH.detach).click()
    expect(cards(page).locator(".score")).to_have_count(0)
    expect(cards(page)).to_have_count(4)


def drop(page: Page, *files: Path, way: str = "drop") -> None:
    """Drop, or paste, files on the page."""
    page.evaluate(
        """([files, way]) => {
            const transfer = new DataTransfer();
            for (const [name, data] of files) {
                const bytes = Uint8Array.from(atob(data), (char) => char.charCodeAt(0));
                transfer.items.add(new File([bytes], name, { type: "image/png" }));
            }
            const event = way === "paste"
                ? new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true })
                : new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true });
            document.body.dispatchEvent(event);
        }""",
        [[[file.name, base64.b64encode(file.read_bytes()).decode()] for file in files], way],
    )


@pytest.mark.parametrize("way", ["paste", "drop"])
def test_a_picture_can_be_pasted_and_dropped(visit, stored, pictures, way):
    page = visit()
    drop(page, pictures[3], way=way)
    check_found_itself(page, "four.png")


def test_text_that_is_pasted_with_a_picture_beside_it_stays_text(visit):
    page = visit()
    prevented = page.locator("#sentence textarea, #sentence input").first.evaluate(
        """(box) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File(["x"], "copied.png", { type: "image/png" }));
            transfer.items.add("hello", "text/plain");
            const event = new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true });
            box.dispatchEvent(event);
            return event.defaultPrevented;
        }"""
    )
    assert not prevented
    assert page.locator("#picture .chosen").count() == 0


def test_more_like_this_asks_by_the_id(visit, client, collection, stored):
    page = visit()
    sent: list[int] = []
    page.on("request", lambda request: sent.append(len(request.post_data_buffer or b"")))
    page.get_by_role("button", name=ENGLISH.more_of.format(name="one.png")).click()
    expect(page.locator("#picture .chosen")).to_contain_text("one.png")
    expect(cards(page).locator(".score")).to_have_count(3)
    wanted = client.search_image(image_id=stored["one.png"], collection=collection, top_k=12)
    assert names(page) == [hit.image.metadata["file"] for hit in wanted]
    assert max(sent) < 2000


def test_sentence_and_picture_count_by_their_weights(visit, client, collection, stored):
    page = visit()
    page.get_by_role("button", name=ENGLISH.more_of.format(name="one.png")).click()
    expect(cards(page).locator(".score")).to_have_count(3)
    page.get_by_role("button", name=ENGLISH.options).click()
    slide(page, ENGLISH.text_weight, "-0.5")
    page.get_by_label(ENGLISH.sentence, exact=True).fill("at night")
    page.get_by_label(ENGLISH.sentence, exact=True).press("Enter")
    terms = Term.text("at night", -0.5), Term.image(stored["one.png"])
    wanted = client.search(*terms, collection=collection, top_k=12)
    expect(cards(page).locator(".score span").first).to_have_text(f"{wanted[0].score:.3f}")
    assert names(page) == [hit.image.metadata["file"] for hit in wanted]
    for weight in (ENGLISH.text_weight, ENGLISH.picture_weight):
        slide(page, weight, "0")
    page.locator("#search").click()
    expect(page.get_by_role("alert")).to_have_text(ENGLISH.no_weight)


@pytest.mark.parametrize("locale", LOCALES)
def test_details_show_the_original_and_delete_it_only_after_a_confirmation(
    visit, client, collection, stored, pictures, locale
):
    words = LOCALES[locale]
    page = visit(locale=locale)
    page.get_by_role("button", name=words.show.format(name="two (2).png")).click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    expect(dialog.get_by_role("heading", level=2)).to_have_text("two (2).png")
    original = dialog.get_by_role("img")
    expect(original).to_have_js_property("complete", value=True)
    assert original.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [48, 40]
    expect(dialog).to_contain_text(stored["two (2).png"])
    expect(dialog).to_contain_text("summer")
    with page.expect_download() as download:
        dialog.get_by_role("link", name=words.download).click()
    assert download.value.suggested_filename == "two (2).png"
    assert download.value.path().read_bytes() == pictures[1].read_bytes()

    dialog.get_by_role("button", name=words.delete).click()
    dialog.get_by_role("button", name=words.delete_no).click()
    expect(dialog.get_by_role("button", name=words.delete)).to_be_focused()
    dialog.get_by_role("button", name=words.close).click()
    expect(dialog).to_be_hidden()
    assert client.get(stored["two (2).png"], collection=collection)

    page.get_by_role("button", name=words.show.format(name="two (2).png")).click()
    dialog.get_by_role("button", name=words.delete).click()
    dialog.get_by_role("button", name=words.delete_yes).click()
    expect(page.locator("#status")).to_contain_text(words.deleted.format(name="two (2).png"))
    expect(cards(page)).to_have_count(3)
    with pytest.raises(NotFoundError):
        client.get(stored["two (2).png"], collection=collection)


@pytest.mark.parametrize("locale", LOCALES)
def test_errors_are_said_in_words(visit, client, collection, stored, tmp_path, locale):
    words = LOCALES[locale]
    page = visit(locale=locale)
    alert = page.locator("#status").get_by_role("alert")
    page.get_by_role("button", name=words.options).click()
    page.locator("#filter").get_by_role("textbox").fill("width >")
    page.locator("#filter").get_by_role("textbox").press("Enter")
    expect(alert).to_contain_text(words.bad_filter)
    page.locator("#filter").get_by_role("textbox").fill("")

    broken = tmp_path / "broken.png"
    broken.write_bytes(picture(7)[:200])
    page.locator("#picture input").set_input_files(broken)
    expect(alert).to_contain_text(words.bad_picture)
    page.get_by_role("button", name=words.detach).click()
    expect(cards(page)).to_have_count(4)

    client.delete(stored["one.png"], collection=collection)
    page.get_by_role("button", name=words.more_of.format(name="one.png")).click()
    expect(alert).to_have_text(words.no_picture)

    page.locator("#collection input").fill("No Name!")
    page.locator("#collection input").press("Enter")
    expect(alert).to_contain_text(words.bad_collection)
    for inside in ("Traceback", "grpc", "__i18n__"):
        assert inside not in page.content()


def test_a_server_that_is_away_is_said(visit, tmp_path, unused_tcp_port):
    locale, words = "zh-TW", CHINESE
    with serving_page(f"127.0.0.1:{unused_tcp_port}", tmp_path) as running:
        page = visit(url=running.url, locale=locale, into="")
        expect(page.locator("#server").get_by_role("alert")).to_contain_text(words.away)
        page.get_by_label(words.sentence, exact=True).fill("a cat")
        page.get_by_label(words.sentence, exact=True).press("Enter")
        expect(page.locator("#status").get_by_role("alert")).to_contain_text(words.away)

        state = SmallServer()
        state.store(b"picture", "a")
        server = start(state, unused_tcp_port)
        expect(page.locator("#server .model")).to_contain_text("small", timeout=TIMEOUT)
        expect(cards(page)).to_have_count(1, timeout=TIMEOUT)
        server.stop(None).wait()


def test_what_was_asked_and_chosen_while_the_server_was_away_stays(visit, tmp_path, unused_tcp_port):
    with serving_page(f"127.0.0.1:{unused_tcp_port}", tmp_path) as running:
        page = visit(url=running.url, into="")
        page.get_by_role("button", name=ENGLISH.options).click()
        slide(page, ENGLISH.top_k, "2")
        chooser = page.locator("#collection input")
        chooser.fill("mine")
        chooser.press("Enter")
        alert = page.locator("#status").get_by_role("alert")
        expect(alert).to_contain_text(ENGLISH.away, timeout=TIMEOUT)
        # Two of its events are one look for the server.
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        until(page, lambda: sum("queue/join" in url for url in asked) >= 5)
        assert ENGLISH.away in alert.inner_text(timeout=1000)

        state = SmallServer()
        for image_id in "abc":
            state.store(f"picture {image_id}".encode(), image_id)
        server = start(state, unused_tcp_port)
        expect(page.locator("#server .model")).to_contain_text("small", timeout=TIMEOUT)
        expect(cards(page)).to_have_count(2, timeout=TIMEOUT)
        expect(chooser).to_have_value("mine")
        slider = page.get_by_role("slider", name=re.compile(ENGLISH.top_k))
        expect(slider).to_have_attribute("max", "3")
        assert slider.input_value() == "2"
        assert {request.collection for request in state.asked("ListImages")} == {"mine"}
        server.stop(None).wait()


def test_model_and_limits_are_in_sight(visit, client):
    page = visit()
    info = client.info()
    header = page.locator("#server")
    expect(header).to_contain_text(info.models[0].name)
    expect(header).to_contain_text("31.4 MB and 100 megapixels")
    header.get_by_text(ENGLISH.limits_more).click()
    expect(header.get_by_text(f"{info.limits.max_image_bytes:,}")).to_be_visible()


@pytest.fixture
def two_models(bundle, other_bundle, tmp_path) -> Settings:
    """The settings of a server of two models; its collection ``second`` is of the second one."""
    settings = Settings(listen="127.0.0.1:0", bundles=[bundle, other_bundle], data_dir=tmp_path / "data")
    with ServerThread(settings) as running, Client(running.address) as client:
        client.create_collection("first", model=read_manifest(bundle).name)
        client.create_collection("second", model=read_manifest(other_bundle).name)
    return settings


def test_the_model_at_the_top_is_that_of_the_collection(visit, two_models, tmp_path):
    first, second = (read_manifest(bundle).name for bundle in two_models.bundles)
    with (
        ServerThread(two_models) as running,
        serving_page(running.address, tmp_path, "--collection", "second") as served,
    ):
        page = visit(url=served.url, into="")
        expect(page.locator("#server .model strong")).to_have_text(second, timeout=TIMEOUT)
        for chosen, model in (("first", first), ("second", second), ("new", first), ("second", second), ("No!", first)):
            page.locator("#collection input").fill(chosen)
            page.locator("#collection input").press("Enter")
            expect(page.locator("#server .model strong")).to_have_text(model, timeout=TIMEOUT)


def test_no_model_is_named_for_a_collection_that_the_servers_models_do_not_fit(visit, two_models, tmp_path):
    settings = two_models.model_copy(update={"bundles": two_models.bundles[:1]})
    with ServerThread(settings) as running, serving_page(running.address, tmp_path, "--collection", "second") as served:
        page = visit(url=served.url, into="")
        expect(page.locator("#server .model")).to_have_text(ENGLISH.other_model, timeout=TIMEOUT)
        choose(page, "first")
        name = read_manifest(settings.bundles[0]).name
        expect(page.locator("#server .model strong")).to_have_text(name, timeout=TIMEOUT)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [("en-US", ENGLISH), ("de-DE", ENGLISH), ("zh-TW", CHINESE), ("zh-CN", CHINESE), ("zh-HK", CHINESE)],
)
def test_the_browser_chooses_the_language(visit, wanted, words):
    page = visit(locale=wanted)
    assert page.url.endswith(f"/{words.language}/")
    expect(page.locator("html")).to_have_attribute("lang", words.language)
    expect(page.get_by_role("button", name=words.search, exact=True)).to_be_visible()
    page.get_by_role("tab", name=words.tab_add).click()
    expect(page.locator("#files")).to_have_text(f"{words.add} {words.add_drop}")


@pytest.mark.parametrize(("locale", "others"), [("en-US", ["de-DE", "fr-FR"]), ("zh-TW", ["zh-CN", "zh-HK"])])
def test_the_page_speaks_one_language_only_whatever_the_browser_speaks(visit, stored, locale, others):
    words = LOCALES[locale]

    def says(spoken: str) -> list[str]:
        """All that is read out of it."""
        page = visit(locale=spoken)
        expect(cards(page)).to_have_count(4)
        page.get_by_role("button", name=words.options).click()
        expect(page.get_by_role("spinbutton", name=re.compile(words.top_k))).to_be_visible()
        expect(page.get_by_role("listbox")).to_have_count(0)  # the list of collections takes a while to close
        shown = [page.locator("body").aria_snapshot()]
        page.get_by_role("tab", name=words.tab_add).click()
        expect(page.locator("#files")).to_be_visible()
        return [*shown, page.locator("body").aria_snapshot()]

    expected = says(locale)
    assert words.add_drop in expected[1]
    for other in others:
        assert says(other) == expected, other


def test_no_request_leaves_for_elsewhere(visit, served, collection, stored, pictures):
    page = visit(into="")
    asked: list[str] = []
    page.context.on("request", lambda request: asked.append(request.url))
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.reload()
    choose(page, collection)
    page.locator("#picture input").set_input_files(pictures[0])
    expect(page.locator("#picture .chosen")).to_be_visible()
    search(page, "a cat")
    page.get_by_role("tab", name=ENGLISH.tab_add).click()
    assert len(asked) > 10
    elsewhere = [url for url in asked if not url.startswith((served.url, "data:", f"blob:{served.url}"))]
    assert elsewhere == []
    # What the policy of the page stops the browser complains of.
    assert [text for text in complaints if "Content Security Policy" in text] == []


def test_two_sessions_do_not_mix(visit, client, collection, stored):
    other = f"{collection}_2"
    client.insert(picture(50), metadata={"file": "other.png"}, collection=other)
    first, second = visit(), visit(into=other)
    first.get_by_role("button", name=ENGLISH.more_of.format(name="one.png")).click()
    expect(cards(first).locator(".score")).to_have_count(3)
    search(second, "a cat")
    assert names(second) == ["other.png"]
    assert second.locator("#picture .chosen").count() == 0
    first.locator("#search").click()
    expect(first.locator("#picture .chosen")).to_contain_text("one.png")
    expect(cards(first).locator(".score")).to_have_count(3)


def test_the_keyboard_is_enough(visit, stored):
    page = visit()
    page.get_by_label(ENGLISH.sentence, exact=True).focus()
    page.keyboard.type("a cat")
    page.keyboard.press("Enter")
    expect(cards(page).locator(".score")).to_have_count(4)
    focused = "document.activeElement.dataset.show || ''"
    for _ in range(15):
        page.keyboard.press("Tab")
        if page.evaluate(focused):
            break
    first = page.evaluate(focused)
    assert first in stored.values()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert page.evaluate(focused) == first

    page.locator("#gallery [data-more]").first.press("Enter")
    expect(page.locator("#picture .chosen")).to_be_visible()
    expect(cards(page).locator(".score")).to_have_count(3)
    assert page.evaluate("document.activeElement.closest('#gallery') !== null")


@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(visit, stored, locale, width):
    words = LOCALES[locale]
    page = visit(locale=locale, viewport={"width": width, "height": 844})
    page.get_by_role("button", name=words.options).click()
    search(page, "a cat", words)
    wide = "document.documentElement.scrollWidth"
    assert page.evaluate(wide) <= width
    cards(page).first.locator(".picture").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert page.evaluate(wide) <= width
    page.keyboard.press("Escape")
    page.get_by_role("tab", name=words.tab_add).click()
    expect(page.locator("#files")).to_be_visible()
    assert page.evaluate(wide) <= width


@pytest.mark.parametrize(("width", "locale"), [(390, "en-US"), (1280, "zh-TW"), (1600, "en-US")])
def test_the_page_stays_where_it_is_whatever_it_shows(visit, stored, width, locale):
    words = LOCALES[locale]
    page = visit(locale=locale, viewport={"width": width, "height": 844})
    expect(cards(page).first).to_be_visible()

    def edges() -> tuple[int, int]:
        box = page.locator("main").last.bounding_box()
        return round(box["x"]), round(width - box["x"] - box["width"])

    left, right = edges()
    assert abs(left - right) <= 16  # a scroll bar
    page.get_by_role("tab", name=words.tab_add).click()
    expect(page.locator("#files")).to_be_visible()
    assert edges() == pytest.approx((left, right), abs=16)
    page.get_by_role("tab", name=words.tab_search).click()
    page.get_by_role("button", name=words.options).click()
    page.locator("#filter textarea, #filter input").first.fill("metadata.")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_be_visible()
    assert edges() == pytest.approx((left, right), abs=16)


def test_light_and_dark_follow_the_browser(visit):
    brightness = {}
    for scheme in ("light", "dark"):
        page = visit(color_scheme=scheme)
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness[scheme] = sum(map(int, re.findall(r"\d+", colour)[:3]))
    assert brightness["light"] > 600
    assert brightness["dark"] < 150


def colour(css: str) -> tuple[list[float], float]:
    """Red, green and blue, 0..255, and how opaque it is, 0..1."""
    assert css.startswith("rgb"), css
    red, green, blue, *opacity = map(float, re.findall(r"[\d.]+", css))
    return [red, green, blue], opacity[0] if opacity else 1


def contrast(text: str, *backgrounds: str) -> float:
    """That of WCAG, 1..21, of a text and what is behind it, the nearest first."""
    under = [255.0] * 3
    layers = []
    for css in (*reversed(backgrounds), text):
        over, opacity = colour(css)
        under = [opacity * upper + (1 - opacity) * lower for upper, lower in zip(over, under, strict=True)]
        layers.append(under)

    def luminance(channels: list[float]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (c / 255 for c in channels)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted(map(luminance, layers[-2:]))
    return (light + 0.05) / (dark + 0.05)


_WRITTEN = """() => {
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), written = [];
    while (texts.nextNode()) {
        let element = texts.currentNode.parentElement;
        const text = texts.currentNode.data.trim();
        if (!text || !element.checkVisibility({ visibilityProperty: true, opacityProperty: true })) continue;
        const colours = [getComputedStyle(element).color];
        for (; element; element = element.parentElement) colours.push(getComputedStyle(element).backgroundColor);
        written.push([text, colours]);
    }
    return written;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_is_written_can_be_read(visit, stored, pictures, tmp_path, scheme):
    def unreadable() -> list[tuple[str, float]]:
        """The texts that have less contrast than WCAG's AA wants of small letters, and how much."""
        written = page.evaluate(_WRITTEN)
        assert len(written) > 10
        found = [(text, contrast(first, *behind)) for text, (first, *behind) in written]
        return [(text, ratio) for text, ratio in found if ratio < 4.5]

    page = visit(color_scheme=scheme)
    search(page, "a cat")
    page.get_by_role("button", name=ENGLISH.options).click()
    expect(page.get_by_label(ENGLISH.filter)).to_be_visible()
    assert unreadable() == []
    page.get_by_role("button", name=ENGLISH.show.format(name="one.png")).click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert unreadable() == []
    page.keyboard.press("Escape")

    broken = tmp_path / "broken.png"
    broken.write_bytes(picture(7)[:200])
    page.get_by_role("tab", name=ENGLISH.tab_add).click()
    page.locator("#files input[type=file]").set_input_files([pictures[0], broken])
    alert, line = page.locator("#outcome").get_by_role("alert"), page.locator("#outcome .note")
    expect(alert).to_be_visible(timeout=TIMEOUT)
    assert unreadable() == []
    # The line of what was stored stands apart from the box of what was not.
    above, below = line.bounding_box(), alert.bounding_box()
    assert below["y"] - above["y"] - above["height"] >= 8


def test_the_folder_for_what_browsers_send_is_private_and_goes_with_the_page(
    visit, server, stored, pictures, collection, tmp_path
):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with serving_page(server.address, temporary) as running:
        [folder] = temporary.glob("clipseek-ui-*")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        page = visit(url=running.url)
        page.locator("#picture input").set_input_files(pictures[0])
        check_found_itself(page, "one.png")
        assert [path for path in running.files() if not path.is_relative_to(folder / "sent")] == []
        assert [path for path in running.files() if path.name == "one.png"]
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(30) == 128 + signal.SIGTERM
    assert list(temporary.iterdir()) == []


def test_what_a_killed_page_leaves_goes_when_the_next_one_starts(visit, server, stored, pictures, collection, tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    foreign = temporary / "clipseek-ui-notours"
    foreign.mkdir()
    with serving_page(server.address, temporary) as living, serving_page(server.address, temporary) as killed:
        folders = {}
        for running in (living, killed):
            page = visit(url=running.url)
            page.locator("#picture input").set_input_files(pictures[0])
            check_found_itself(page, "one.png")
            [folders[running.url]] = {path.parents[2] for path in running.files()} - set(folders.values())
        killed.process.kill()
        killed.process.wait(30)
        assert folders[killed.url].exists()
        with serving_page(server.address, temporary):
            assert not folders[killed.url].exists()
            assert list(folders[living.url].rglob("one.png"))
    assert list(temporary.iterdir()) == [foreign]


def test_an_original_that_is_not_there_is_said(browser, served, collection):
    context = browser.new_context()
    for language in ("en", "zh-TW"):
        answer = context.request.get(f"{served.url}{language}/original?collection={collection}&id=nothing")
        assert answer.status == 404
    context.close()


def test_browsers_that_ask_for_an_icon_are_told_that_there_is_none(browser, served):
    with browser.new_context() as context:
        assert context.request.get(f"{served.url}favicon.ico").status == 204


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "0.0.0.0:0"])
def test_without_a_name_the_page_answers_to_addresses_alone(browser, server, tmp_path, listen):
    with serving_page(server.address, tmp_path, "--listen", listen) as page, browser.new_context() as context:
        port = page.url.rstrip("/").rpartition(":")[2]
        for host, status in (("localhost", 200), ("192.0.2.7", 200), ("evil.example", 400)):
            # What a browser sends when evil.example is made to lead here.
            headers = {"Host": f"{host}:{port}", "Origin": f"http://{host}:{port}", "Sec-Fetch-Site": "same-origin"}
            answer = context.request.get(f"http://127.0.0.1:{port}/en/config", headers=headers)
            assert answer.status == status, host
        assert "the page is not known as evil.example" in answer.text()


@pytest.mark.parametrize("name", ["https://pictures.example.org", "pictures.example.org:8443", "a*b", ""])
def test_a_name_that_is_none_is_refused(server, name):
    command = [sys.executable, "-m", "clipseek", "--server", server.address, "ui", "--host", name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "not the bare name of a host" in " ".join(done.stderr.replace("│", " ").split())


def test_strangers_names_are_refused(browser, server, tmp_path):
    with serving_page(server.address, tmp_path, "--host", "Pictures.example.org") as page:
        context = browser.new_context()
        port = page.url.rstrip("/").rpartition(":")[2]
        for host, status in (
            ("localhost", 200),
            ("127.0.0.1", 200),
            ("[::1]", 200),
            ("192.0.2.7", 200),
            ("pictures.example.org", 200),
            ("www.pictures.example.org", 400),
            ("elsewhere.example.org", 400),
        ):
            for path in ("", "en/", "zh-TW/gradio_api/info"):
                headers = {"Host": f"{host}:{port}"}
                answer = context.request.get(page.url + path, headers=headers, max_redirects=0)
                assert (answer.status == 400) == (status == 400), (host, path, answer.status)
        # A page from elsewhere, in the browser of somebody who may use this one.
        for origin, status in (
            (f"http://localhost:{port}", 200),
            ("https://pictures.example.org", 200),
            ("http://evil.example", 403),
            (f"http://localhost:{int(port) - 1}", 403),
            ("null", 403),
        ):
            headers = {"Host": f"localhost:{port}", "Origin": origin}
            assert context.request.get(page.url + "en/config", headers=headers).status == status, origin
        context.close()


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, list[str]]]:
    """Another web server, with a page of which a script runs, and what it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><script>document.title = 'it runs in ' + location.origin</script>")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


# Gradio fetches nothing of private addresses. On the internet the other server would have a public one.
_ALL_IS_PUBLIC = "import safehttpx; safehttpx.is_public_ip = lambda ip: True"


@pytest.fixture(scope="module")
def credulous(browser, server, tmp_path_factory) -> Iterator[str]:
    """The address of a page whose process could fetch from anywhere."""
    with serving_page(server.address, tmp_path_factory.mktemp("credulous"), before=_ALL_IS_PUBLIC) as running:
        yield running.url


def test_the_page_fetches_nothing_by_an_address_in_a_path(browser, credulous, elsewhere):
    address, asked = elsewhere
    with browser.new_context() as context:
        roads = (
            f"file=http://{address}/a",
            f"file=http%3A%2F%2F{address}/a",
            f"file=HTTP://{address}/a",
            f"%66ile=http://{address}/a",
            f"file/http://{address}/a",
            f"proxy=http://{address}/a",
            f"proxy%3Dhttp%3A//{address}/a",
        )
        for language in ("en", "zh-TW"):
            for road in roads:
                for send in (context.request.get, context.request.head):
                    assert send(f"{credulous}{language}/gradio_api/{road}").status == 404, road
        assert asked == []


def test_the_page_fetches_nothing_by_the_address_of_a_file_that_was_sent(visit, credulous, elsewhere):
    address, asked = elsewhere
    page = visit(url=credulous, into="")
    # Whatever is sent to the page may be called a file.
    page.evaluate(
        """async (address) => {
            const { dependencies } = await (await fetch("config")).json();
            for (const { id, inputs, targets } of dependencies) {
                const file = { path: `http://${address}/${id}.png`, meta: { _type: "gradio.FileData" } };
                const session_hash = `stranger${id}`;
                const body = JSON.stringify({
                    data: inputs.map(() => file), fn_index: id, session_hash,
                    trigger_id: targets[0][0], event_data: null,
                });
                const headers = { "content-type": "application/json" };
                await fetch("gradio_api/queue/join", { method: "POST", headers, body });
                const stream = new AbortController();
                const url = `gradio_api/queue/data?session_hash=${session_hash}`;
                await (await fetch(url, { signal: stream.signal })).text();
                stream.abort();
            }
        }""",
        address,
    )
    assert asked == []


def test_a_link_on_a_strangers_page_leads_to_the_page_alone(visit, credulous, elsewhere):
    address, asked = elsewhere
    page = visit(url=credulous, into="")
    links = {
        "file": f"{credulous}en/gradio_api/file=http://{address}/prize.html",
        "config": f"{credulous}en/config",
        "original": f"{credulous}en/original?collection=default&id=a",
        "page": f"{credulous}en/",
        "start": credulous,
    }
    body = "".join(f'<a id="{name}" href="{url}">win a prize</a>' for name, url in links.items())
    # A name of another site, and another port of this one.
    for stranger in ("http://stranger.test/", f"http://{address}/stranger"):
        page.route(stranger, lambda route: route.fulfill(body=body, content_type="text/html"))
        for name, url in links.items():
            page.goto(stranger)
            with page.expect_response(url) as response:
                page.click(f"#{name}")
            refused = response.value.status == 403
            assert refused == (name not in ("page", "start")), (stranger, name, response.value.status)
        expect(page.locator("#server .model")).to_be_visible(timeout=TIMEOUT)
    assert asked == []


@pytest.fixture(scope="module")
def small_page(browser, tmp_path_factory) -> Iterator[tuple[SmallServer, str]]:
    """A small server, and the address of its page."""
    state = SmallServer()
    running = start(state)
    with serving_page(state.address, tmp_path_factory.mktemp("small")) as page:
        yield state, page.url
    running.stop(None).wait()


@pytest.fixture
def small(small_page) -> Iterator[tuple[SmallServer, str]]:
    """A server whose answers can be held back, and the address of its page."""
    state, url = small_page
    yield state, url
    state.gate.set()
    state.forget()


def test_files_cannot_be_chosen_while_others_are_stored(small, visit, pictures):
    server, url = small
    server.gated = frozenset({"BulkInsert.batch"})
    page = visit(url=url, into="")
    page.get_by_role("tab", name=ENGLISH.tab_add).click()
    chooser = page.locator("#files input[type=file]")
    chooser.set_input_files(pictures)
    expect(page.locator("#outcome progress")).to_be_visible(timeout=TIMEOUT)
    expect(chooser).to_have_count(0)
    expect(page.locator("#files")).to_contain_text(ENGLISH.add_later)
    server.gate.set()
    expect(page.locator("#outcome")).to_contain_text(ENGLISH.outcomes["created"].format(count=4), timeout=TIMEOUT)
    expect(chooser).to_have_count(1)
    expect(page.locator("#files")).to_contain_text(ENGLISH.add_drop)


def test_a_search_that_takes_long_is_said_to_be_on_its_way(small, visit):
    server, url = small
    server.store(b"picture", "a")
    page = visit(url=url, into="")
    expect(cards(page)).to_have_count(1)
    server.gated = frozenset({"Search"})
    page.get_by_label(ENGLISH.sentence, exact=True).fill("a cat")
    page.get_by_label(ENGLISH.sentence, exact=True).press("Enter")
    expect(page.locator("#status .searching")).to_be_visible(timeout=TIMEOUT)
    server.gate.set()
    expect(page.locator("#status .searching")).to_have_count(0, timeout=TIMEOUT)
    expect(cards(page).locator(".score")).to_have_count(1)


def test_what_is_asked_meanwhile_is_answered_last(small, visit):
    server, url = small
    server.store(b"picture", "a")
    page = visit(url=url, into="")
    expect(cards(page)).to_have_count(1)
    server.gated = frozenset({"Search"})
    sentence = page.get_by_label(ENGLISH.sentence, exact=True)
    for asked in ("first", "second"):
        sentence.fill(asked)
        sentence.press("Enter")
        assert server.waiting.wait(TIMEOUT / 1000)
    server.gate.set()
    expect(page.locator("#status")).to_contain_text("1 ", timeout=TIMEOUT)
    until(page, lambda: [request.terms[0].text for request in server.asked("Search")] == ["first", "second"])


def press(page: Page, words: str, name: str) -> None:
    """Click what is named after a picture."""
    page.get_by_role("button", name=words.format(name=name), exact=True).click()


def delete(page: Page, name: str) -> None:
    press(page, ENGLISH.show, name)
    expect(page.get_by_role("dialog").get_by_role("heading", level=2)).to_have_text(name, timeout=TIMEOUT)
    page.get_by_role("dialog").get_by_role("button", name=ENGLISH.delete).click()
    page.get_by_role("dialog").get_by_role("button", name=ENGLISH.delete_yes).click()


@pytest.fixture
def three(small, visit) -> tuple[SmallServer, Page]:
    """A page that lists the pictures a, b and c of ``default``."""
    server, url = small
    for image_id in "abc":
        server.store(f"picture {image_id}".encode(), image_id)
    page = visit(url=url, into="default")
    expect(cards(page)).to_have_count(3)
    return server, page


def test_an_answer_that_comes_after_that_to_a_later_question_is_dropped(three):
    server, page = three
    server.gated = frozenset({"Search"})
    sentence = page.get_by_label(ENGLISH.sentence, exact=True)
    sentence.fill("slow")
    sentence.press("Enter")
    assert server.waiting.wait(TIMEOUT / 1000)
    server.gated = frozenset()
    press(page, ENGLISH.more_of, "a")
    expect(cards(page).locator(".score")).to_have_count(3, timeout=TIMEOUT)
    expect(page.locator("#status .searching")).to_have_count(0)
    # The slow one ends in an error, which would be seen. What is asked in the same way is asked after its end.
    server.failing("Search", Failure(StatusCode.INVALID_ARGUMENT))
    page.evaluate(
        """() => {
            const status = document.querySelector("#status");
            window.alerts = 0;
            const count = () => { window.alerts += status.querySelectorAll("[role=alert]").length; };
            new MutationObserver(count).observe(status, { childList: true, subtree: true });
        }"""
    )
    sentence.fill("later")
    sentence.press("Enter")
    server.gate.set()
    until(page, lambda: server.asked("Search")[-1].terms[0].text == "later")
    assert page.evaluate("window.alerts") == 0
    expect(page.locator("#picture .chosen")).to_contain_text("a")


def test_of_two_pictures_that_are_clicked_the_later_one_counts(three):
    server, page = three
    server.gated = frozenset({"Search"})
    for name in "ab":
        press(page, ENGLISH.more_of, name)
        until(page, lambda: server.asked("Search") and server.asked("Search")[-1].terms[0].image_id == name)  # noqa: B023
    server.gate.set()
    expect(cards(page).locator(".score")).to_have_count(3, timeout=TIMEOUT)
    expect(page.locator("#picture .chosen")).to_contain_text("b")

    server.gate.clear()
    server.gated = frozenset({"GetImage"})
    for name in "ca":
        press(page, ENGLISH.show, name)
        until(page, lambda: server.asked("GetImage")[-1].image_id == name)  # noqa: B023
    server.gate.set()
    expect(page.get_by_role("dialog").get_by_role("heading", level=2)).to_have_text("a", timeout=TIMEOUT)


def test_what_is_done_with_a_picture_is_done_in_its_collection(three):
    server, page = three
    server.gated = frozenset({"ListImages"})
    chooser = page.locator("#collection input")
    chooser.fill("other")
    chooser.press("Enter")
    assert server.waiting.wait(TIMEOUT / 1000)
    # The pictures of the collection before are still in sight.
    delete(page, "a")
    expect(page.locator("#status")).to_contain_text(ENGLISH.deleted.format(name="a"), timeout=TIMEOUT)
    until(page, lambda: [request.collection for request in server.asked("ListImages")[-2:]] == ["other"] * 2)
    press(page, ENGLISH.more_of, "b")
    expect(cards(page).locator(".score")).to_have_count(2, timeout=TIMEOUT)
    expect(chooser).to_have_value("default")
    for method in ("GetImage", "BatchDeleteImages", "Search"):
        assert {request.collection for request in server.asked(method)} == {"default"}, method


def test_who_only_leaves_the_collections_field_asks_nothing(three):
    server, page = three
    press(page, ENGLISH.more_of, "a")
    expect(cards(page).locator(".score")).to_have_count(3, timeout=TIMEOUT)
    asked = len(server.calls)
    page.locator("#collection input").focus()
    with page.expect_response("**/queue/join*"):
        page.keyboard.press("Tab")
    page.locator("#search").click()
    until(page, lambda: len(server.asked("Search")) == 2)
    expect(page.locator("#status .searching")).to_have_count(0, timeout=TIMEOUT)
    assert len(server.calls) == asked + 1
    expect(page.locator("#picture .chosen")).to_contain_text("a")


def test_what_is_clicked_while_a_stream_of_answers_closes_is_answered(three):
    _, page = three
    page.evaluate(
        """() => {
            // The end of the next stream is read late, as by a browser that has much to do.
            const late = new TransformStream({
                async transform(chunk, stream) {
                    const text = new TextDecoder().decode(chunk), end = text.indexOf('data: {"msg":"close_stream"');
                    if (end >= 0) {
                        stream.enqueue(new TextEncoder().encode(text.slice(0, end)));
                        await new Promise((read) => setTimeout(read, 1000));
                    }
                    stream.enqueue(new TextEncoder().encode(text.slice(Math.max(end, 0))));
                },
            });
            const real = window.fetch;
            window.fetch = async (request, options) => {
                const answer = await real(request, options);
                if (!(request.url ?? request).includes("/queue/data")) return answer;
                window.fetch = real;
                return new Response(answer.body.pipeThrough(late), answer);
            };
        }"""
    )
    search(page, "a cat")
    press(page, ENGLISH.show, "a")
    expect(page.get_by_role("dialog")).to_be_visible(timeout=TIMEOUT)


def test_what_is_clicked_while_a_stream_of_answers_arrives_late_is_answered(three):
    """As through a proxy that hands on an answer when it is whole."""
    _, page = three
    held: list[tuple[Route, APIResponse]] = []
    page.route("**/queue/data*", lambda route: held.append((route, route.fetch())), times=1)
    page.locator("#search").click()
    until(page, lambda: held)
    with page.expect_response("**/queue/join*"):
        press(page, ENGLISH.show, "a")
    route, answer = held[0]
    route.fulfill(response=answer)
    expect(page.get_by_role("dialog")).to_be_visible(timeout=TIMEOUT)


_CUT = """data: {"msg":"estimation","event_id":"of nobody","rank":0,"queue_size":1}\n\ndata: {"msg":"pro"""


@pytest.mark.parametrize(
    "losing",
    [
        lambda route: route.abort(),
        lambda route: route.fulfill(status=502, body="Bad gateway"),
        lambda route: route.fulfill(content_type="text/event-stream", body=_CUT),
    ],
    ids=["refused", "bad gateway", "cut"],
)
def test_a_page_that_lost_a_stream_of_answers_says_so_and_is_loaded_again(three, losing):
    _, page = three
    page.route("**/queue/data*", losing, times=1)
    with page.expect_event("load", timeout=TIMEOUT):
        page.locator("#search").click()
        expect(page.locator(".toast-body")).to_contain_text("Connection to the server was lost", timeout=TIMEOUT)
    press(page, ENGLISH.show, "a")
    expect(page.get_by_role("dialog")).to_be_visible(timeout=TIMEOUT)


def test_a_page_that_lost_the_answer_while_pictures_are_stored_is_loaded_again_without_a_question(
    small, visit, pictures
):
    server, url = small
    server.gated = frozenset({"BulkInsert.batch"})
    page = visit(url=url, into="default")
    page.get_by_role("tab", name=ENGLISH.tab_add).click()
    questions = []
    page.on("dialog", lambda question: (questions.append(question.type), question.accept()))
    page.route("**/queue/data*", lambda route: route.fulfill(content_type="text/event-stream", body=_CUT), times=1)
    with page.expect_event("load", timeout=TIMEOUT):
        page.locator("#files input[type=file]").set_input_files(pictures)
    server.gate.set()
    assert questions == []
    expect(page.get_by_role("tab", name=ENGLISH.tab_search)).to_be_visible(timeout=TIMEOUT)


def test_every_deletion_that_was_confirmed_is_done(three):
    server, page = three
    server.gated = frozenset({"ListImages"})
    for name in "ab":
        delete(page, name)
        until(page, lambda: name not in server.images)  # noqa: B023
    server.gate.set()
    expect(cards(page)).to_have_count(1, timeout=TIMEOUT)
    expect(page.locator("#status")).to_contain_text(ENGLISH.deleted.format(name="b"))
    assert names(page) == ["c"]


def test_a_deletion_that_ends_late_does_not_take_the_place_of_what_was_asked_after_it(three):
    server, page = three
    server.gated, deleting = frozenset({"BatchDeleteImages"}), server.gate
    delete(page, "a")
    assert server.waiting.wait(TIMEOUT / 1000)
    server.gated, server.gate = frozenset({"GetImage"}), threading.Event()
    press(page, ENGLISH.more_of, "b")
    until(page, lambda: server.asked("GetImage")[-1].image_id == "b")
    deleting.set()
    expect(page.locator("#status")).to_contain_text(ENGLISH.deleted.format(name="a"), timeout=TIMEOUT)
    server.gate.set()
    expect(page.locator("#picture .chosen")).to_contain_text("b", timeout=TIMEOUT)
    expect(cards(page).locator(".score")).to_have_count(2, timeout=TIMEOUT)


def test_a_picture_that_is_deleted_is_not_searched_with_any_more(three):
    server, page = three
    press(page, ENGLISH.more_of, "a")
    expect(cards(page).locator(".score")).to_have_count(3, timeout=TIMEOUT)
    delete(page, "a")
    expect(cards(page)).to_have_count(2, timeout=TIMEOUT)
    assert page.locator("#picture .chosen").count() == 0
    assert cards(page).locator(".score").count() == 0
    assert len(server.asked("Search")) == 1


@pytest.mark.parametrize("failing", [lambda route: route.fulfill(status=413, body="too large"), lambda r: r.abort()])
def test_a_picture_that_does_not_arrive_is_said(visit, stored, pictures, failing):
    page = visit()
    page.route(ARRIVAL, failing)
    page.locator("#picture input").set_input_files(pictures[0])
    expect(page.locator("#status").get_by_role("alert")).to_have_text(ENGLISH.picture_lost, timeout=TIMEOUT)
    expect(cards(page)).to_have_count(4)
    assert page.locator(".busy").count() == 0
    assert page.locator(".toast-body").all_inner_texts() == []
    assert page.locator("#picture input").input_value() == ""
    page.unroute(ARRIVAL)
    page.locator("#picture input").set_input_files(pictures[0])
    check_found_itself(page, "one.png")


_WHO_LEAVES_IS_ASKED = """() => {
    const event = new Event("beforeunload", { cancelable: true });
    dispatchEvent(event);
    return event.defaultPrevented;
}"""


def test_who_leaves_while_pictures_are_added_is_asked_first(visit, pictures):
    page = visit()
    page.get_by_role("tab", name=ENGLISH.tab_add).click()
    assert not page.evaluate(_WHO_LEAVES_IS_ASKED)
    page.route(ARRIVAL, lambda route: None)  # it is never answered
    page.locator("#files input[type=file]").set_input_files(pictures[0])
    expect(page.locator("#files input[type=file]")).to_be_disabled()
    expect(page.locator("#files")).to_contain_text(ENGLISH.add_later)
    assert page.evaluate(_WHO_LEAVES_IS_ASKED)


def test_who_stays_while_pictures_are_stored_sees_what_became_of_them(small, visit, pictures):
    server, url = small
    server.gated = frozenset({"BulkInsert.batch"})
    page = visit(url=url, into="default")
    page.get_by_role("tab", name=ENGLISH.tab_add).click()
    page.locator("#files input[type=file]").set_input_files(pictures)
    expect(page.locator("#outcome progress")).to_be_visible(timeout=TIMEOUT)
    with page.expect_event("dialog", timeout=TIMEOUT) as question:
        page.evaluate("setTimeout(() => location.reload())")
    question.value.dismiss()
    server.gate.set()
    expect(page.locator("#outcome")).to_contain_text(ENGLISH.outcomes["created"].format(count=4), timeout=TIMEOUT)
    page.get_by_role("tab", name=ENGLISH.tab_search).click()
    page.locator("#search").click()
    expect(cards(page).first).to_be_visible(timeout=TIMEOUT)


_ONE_BUG = """
from clipseek import Client
insert_stream = Client.insert_stream
def insert_nothing(*_, **__):
    Client.insert_stream = insert_stream
    raise RuntimeError("a bug")
Client.insert_stream = insert_nothing
"""


def test_after_a_bug_pictures_can_be_added_again(visit, server, pictures, tmp_path):
    locale, words = "zh-TW", CHINESE
    with serving_page(server.address, tmp_path, before=_ONE_BUG) as running:
        page = visit(url=running.url, locale=locale)
        page.get_by_role("tab", name=words.tab_add).click()
        chooser, outcome = page.locator("#files input[type=file]"), page.locator("#outcome")
        chooser.set_input_files(pictures)
        expect(outcome.get_by_role("alert")).to_contain_text(words.failed, timeout=TIMEOUT)
        expect(chooser).to_be_enabled()
        expect(page.locator("#files")).to_contain_text(words.add_drop)
        assert not page.evaluate(_WHO_LEAVES_IS_ASKED)
        chooser.set_input_files(pictures)
        expect(outcome).to_contain_text(words.outcomes["created"].format(count=4), timeout=TIMEOUT)


@pytest.mark.parametrize(
    ("locale", "failing"),
    [("en-US", lambda route: route.fulfill(status=413, body="too large")), ("zh-TW", lambda route: route.abort())],
)
def test_pictures_to_add_of_which_none_arrives_are_said_and_can_be_added_again(
    visit, client, collection, pictures, failing, locale
):
    words = LOCALES[locale]
    page = visit(locale=locale)
    page.get_by_role("tab", name=words.tab_add).click()
    page.route(ARRIVAL, failing)
    chooser, outcome = page.locator("#files input[type=file]"), page.locator("#outcome")
    chooser.set_input_files(pictures[:2])
    expect(outcome.get_by_role("alert")).to_have_text(words.none_arrived, timeout=TIMEOUT)
    expect(chooser).to_be_enabled()
    assert chooser.input_value() == ""
    assert page.locator(".toast-body").all_inner_texts() == []
    page.unroute(ARRIVAL)
    chooser.set_input_files(pictures[:2])
    expect(outcome).to_contain_text(words.outcomes["created"].format(count=2), timeout=TIMEOUT)
    assert outcome.get_by_role("alert").count() == 0
    page.route(ARRIVAL, failing)
    chooser.set_input_files(pictures[:2])
    expect(outcome.get_by_role("alert")).to_have_text(words.none_arrived, timeout=TIMEOUT)
    page.unroute(ARRIVAL)
    chooser.set_input_files(pictures[:2])
    expect(outcome).to_contain_text(words.outcomes["unchanged"].format(count=2), timeout=TIMEOUT)


@pytest.mark.parametrize("locale", LOCALES)
def test_a_picture_to_add_that_does_not_arrive_is_named_and_the_others_are_stored(
    visit, client, collection, pictures, locale
):
    words = LOCALES[locale]
    page = visit(locale=locale)
    page.get_by_role("tab", name=words.tab_add).click()
    outcome, said = page.locator("#outcome"), []

    def fail_the_second(route: Route) -> None:
        said.append(outcome.inner_text())
        if b'filename="two (2).png"' in (route.request.post_data_buffer or b""):
            route.fulfill(status=413, body="too large")
        else:
            route.continue_()

    page.route(ARRIVAL, fail_the_second)
    page.locator("#files input[type=file]").set_input_files(pictures)
    expect(outcome).to_contain_text(words.outcomes["created"].format(count=3), timeout=TIMEOUT)
    assert said == [words.sending.format(done=done, total=4) for done in range(4)]
    expect(outcome.get_by_role("alert").locator("dt")).to_have_text("two (2).png")
    expect(outcome.get_by_role("alert").locator("dd")).to_have_text(words.picture_lost)
    held = {image.metadata["file"] for image in client.list(collection=collection)}
    assert held == {file.name for file in pictures if file != pictures[1]}


def test_pictures_can_be_dropped_to_be_added(visit, client, collection, pictures):
    page = visit()
    page.get_by_role("tab", name=ENGLISH.tab_add).click()
    drop(page, *pictures[:2])
    expect(page.locator("#outcome")).to_contain_text(ENGLISH.outcomes["created"].format(count=2), timeout=TIMEOUT)
    held = {image.metadata["file"] for image in client.list(collection=collection)}
    assert held == {file.name for file in pictures[:2]}


def test_a_picture_to_search_with_stays_when_it_is_added(visit, stored, pictures, tmp_path):
    new = tmp_path / "new.png"
    new.write_bytes(picture(77))
    page = visit()
    page.locator("#picture input[type=file]").set_input_files(new)
    expect(cards(page).locator(".score")).to_have_count(4, timeout=TIMEOUT)
    page.get_by_role("tab", name=ENGLISH.tab_add).click()
    page.locator("#files input[type=file]").set_input_files(new)
    expect(page.locator("#outcome")).to_contain_text(ENGLISH.outcomes["created"].format(count=1), timeout=TIMEOUT)
    page.get_by_role("tab", name=ENGLISH.tab_search).click()
    expect(cards(page).locator(".score")).to_have_count(5, timeout=TIMEOUT)
    assert names(page)[0] == "new.png"


def test_an_address_in_use_is_said(served, server):
    listen = served.url.removeprefix("http://").rstrip("/")
    command = [sys.executable, "-m", "clipseek", "--server", server.address, "ui", "--listen", listen, "--no-open"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert result.stderr == (
        f"clipseek: {listen}: Address already in use; choose another address with --listen HOST:PORT\n"
    )


def test_other_commands_do_not_load_gradio():
    code = "import sys, clipseek.cli.app; print(sorted({'gradio', 'fastapi', 'uvicorn', 'PIL'} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
