"""A page in a headless Chromium of one's own; for the tests that look at the report as its readers do.

A test file gets the fixture by naming it, as in `browser = browsing.browser`.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# No sandbox, because containers run as root; and nothing that a browser would look up by itself.
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
PHONE, DESK = 390, 1280


def needs_chromium(test: Any) -> Any:
    """Mark a test that opens the browser."""
    missing = pytest.mark.skipif(
        CHROMIUM is None, reason="no Chromium on this machine: install Debian's package chromium"
    )
    return pytest.mark.browser(missing(test))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, for a whole file."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@contextlib.contextmanager
def shown(browser: Any, file: Path, width: int, scheme: str = "light") -> Iterator[Any]:
    """Open a page with all its details, so many pixels wide, and yield it.

    Fails where it writes to the console, asks for anything but itself, is wider than its window, or lacks a picture.
    """
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    messages, requests = [], []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(file.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert messages == []
    # The page itself and what lies inside it.
    assert [url for url in requests if not url.startswith("data:")] == [file.as_uri()]
    # Wide tables and pictures scroll by themselves; the page never does.
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 100)")
    yield page
    page.close()
