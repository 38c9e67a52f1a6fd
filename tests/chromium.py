"""A real Chromium for the tests of the page."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

_QUIET = ["--no-sandbox", "--disable-background-networking", "--disable-sync", "--disable-component-update"]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's, headless; without one the test is skipped, or fails where CI runs it."""
    program = shutil.which("chromium")
    if program is None:
        missing = "there is no Chromium on this machine: sudo apt-get install chromium fonts-noto-cjk"
        (pytest.fail if "CI" in os.environ else pytest.skip)(missing)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[*_QUIET, "--no-first-run"])
        yield browser
        browser.close()
