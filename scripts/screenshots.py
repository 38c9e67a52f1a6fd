"""Takes the pictures of the page that docs/page.md shows: a server with a few photographs, and a headless Chromium."""

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from clipseek import Client
from clipseek.ui.words import CHINESE, ENGLISH, Words
from demo import ROOT, photographs
from local_server import serving

# Those of scikit-image's photographs that are in the public domain.
PICTURES = [
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "horse.png",
    "hubble_deep_field.jpg",
    "motorcycle_left.png",
    "rocket.jpg",
]


@dataclass(frozen=True)
class Shot:
    """One picture: what is done first, and what the browser is like."""

    name: str
    words: Words
    width: int
    height: int
    dark: bool = False
    like: str = ""
    sentence: str = ""
    details: str = ""
    options: bool = False
    add: tuple[str, ...] = ()


SHOTS = [
    Shot("page", ENGLISH, 1280, 760, sentence="a rocket launch"),
    Shot("page-zh-dark", CHINESE, 1280, 860, dark=True, like="chelsea.png", options=True),
    Shot("page-details", ENGLISH, 1280, 760, details="coffee.png"),
    Shot("page-phone", ENGLISH, 390, 844, sentence="a motorcycle"),
    Shot("page-phone-zh-dark", CHINESE, 390, 844, dark=True, details="rocket.jpg"),
    # The last, because there are more pictures after it.
    Shot("page-add", ENGLISH, 1280, 800, add=("coffee.png", "coins.png", "page.png", "README.txt")),
]


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=ROOT / "bundles" / "default", help="starter, best")
    parser.add_argument("--output", type=Path, default=ROOT / "docs")
    arguments = parser.parse_args()
    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("there is no chromium: sudo apt-get install chromium fonts-noto-cjk")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        listen = free_address()
        stack.enter_context(serving(listen, folder / "data", arguments.bundle))
        with Client(listen) as client:
            for name in PICTURES:
                client.insert(photographs() / name, metadata={"file": name, "licence": "public domain"})
        url = stack.enter_context(page_of(listen))
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--no-first-run"])
        for shot in SHOTS:
            save(take(browser, url, shot), arguments.output / f"{shot.name}.jpg")
        browser.close()


def free_address() -> str:
    """An address that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@contextmanager
def page_of(server: str) -> Iterator[str]:
    """The page's address, while it runs."""
    command = [sys.executable, "-m", "clipseek", "--server", server, "ui", "--listen", free_address(), "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as page:
        try:
            assert page.stdout is not None
            yield next(word for word in page.stdout.readline().split() if word.startswith("http"))
        finally:
            page.terminate()


def take(browser: Browser, url: str, shot: Shot) -> bytes:
    """Use the page as the shot says, and return a PNG of what is seen then."""
    context = browser.new_context(
        locale="zh-TW" if shot.words is CHINESE else "en-US",
        viewport={"width": shot.width, "height": shot.height},
        color_scheme="dark" if shot.dark else "light",
        # Phones have sharper screens.
        device_scale_factor=2 if shot.width < 500 else 1,
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.goto(url)
    cards = page.locator("#gallery .cards > li")
    expect(cards).to_have_count(len(PICTURES), timeout=30_000)
    use(page, shot)
    data = page.screenshot()
    context.close()
    return data


def use(page: Page, shot: Shot) -> None:
    """Click and type what the shot says."""
    words, scores = shot.words, page.locator("#gallery .score")
    if shot.like:
        page.get_by_role("button", name=words.more_of.format(name=shot.like)).click()
        expect(scores).to_have_count(len(PICTURES) - 1)
    if shot.sentence:
        page.get_by_label(words.sentence, exact=True).fill(shot.sentence)
        page.get_by_label(words.sentence, exact=True).press("Enter")
        expect(scores).to_have_count(len(PICTURES))
    if shot.options:
        page.get_by_role("button", name=words.options).click()
        expect(page.get_by_label(words.filter)).to_be_visible()
    if shot.details:
        page.get_by_role("button", name=words.show.format(name=shot.details)).click()
        expect(page.get_by_role("dialog").get_by_role("img")).to_have_js_property("complete", value=True)
    if shot.add:
        page.get_by_role("tab", name=words.tab_add).click()
        page.locator("#files input[type=file]").set_input_files([photographs() / name for name in shot.add])
        expect(page.locator("#outcome .problem")).to_be_visible(timeout=30_000)


def save(png: bytes, path: Path) -> None:
    """Write it as a compact JPEG."""
    Image.open(BytesIO(png)).convert("RGB").save(path, quality=80, optimize=True, progressive=True)
    print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
