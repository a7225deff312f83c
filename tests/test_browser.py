"""The report in a real browser: a real explanation section, at a phone's and a desk's width, in light and in dark."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages import explain_page, html
from stages.comparison import compare, judge, stability
from stages.explain import draw, draw_faithfulness
from stages.explanation import Effort, explain_text
from stages.scoring import load_predictor
from tests.conftest import LABELS

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# No sandbox, because containers run as root; and nothing that a browser would look up by itself.
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
PHONE, DESK = 390, 1280
POST = "The CAR has a new engine; oil & <brakes>, and the car reached orbit around the moon in the last game " * 2

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: install Debian's package chromium"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def report(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of the report, its section explained with the tiny model."""
    folder = tmp_path_factory.mktemp("report")
    predictor = load_predictor(tiny_bundle)
    effort = Effort(samples=40, steps=8, seed=0)
    explanation = explain_text(predictor, POST, effort, actual=0)
    judged = [judge(predictor, explanation, 5, seed=1)]
    figures = compare([explanation], judged, [stability(predictor, explanation, effort)], seed=0)
    draw_faithfulness(folder / "faithfulness.png", figures["methods"])
    parts = explain_page.comparison(figures, (folder / "faithfulness.png").read_bytes(), 5)
    shown = explain_page.post(1, "right and sure", 0, explanation, LABELS, draw(explanation), 5)
    page = html.page("report", "A page for a test.", [("explanation", "Explanation", "\n".join([*parts, shown]))])
    (folder / "index.html").write_text(page, encoding="utf-8")
    return folder / "index.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_the_report_renders(browser: object, report: Path, width: int, scheme: str, tmp_path: Path) -> None:
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    messages, requests = [], []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(report.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert messages == []
    # The page itself and what lies inside it.
    assert [url for url in requests if not url.startswith("data:")] == [report.as_uri()]
    # Wide tables and pictures scroll by themselves; the page never does.
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    drawn = page.evaluate("[...document.images].map(image => image.complete && image.naturalWidth > 100)")
    assert drawn == [True] * 3
    # Colours follow the scheme, and the coloured words are visible.
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 24, 28)"}[scheme]
    assert page.locator("article b.f:visible").count() > 0
    assert page.locator("article td:visible").count() > 10
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert (tmp_path / "page.png").stat().st_size > 10_000
    page.close()
