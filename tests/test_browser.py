"""The report in a real browser: a real explanation section, at a phone's and a desk's width, in light and in dark.

The whole report of a run is looked at in test_end_to_end.py, which has one.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from stages import explain_page
from stages.comparison import compare, judge, stability
from stages.explain import draw, draw_faithfulness
from stages.explanation import Effort, explain_text
from stages.report import page
from stages.scoring import load_predictor
from tests import browsing
from tests.conftest import LABELS

browser = browsing.browser
POST = "The CAR has a new engine; oil & <brakes>, and the car reached orbit around the moon in the last game " * 2


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
    document = page("report", "A page for a test.", [("explanation", "Explanation", "\n".join([*parts, shown]))])
    (folder / "index.html").write_text(document, encoding="utf-8")
    return folder / "index.html"


@browsing.needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [browsing.PHONE, browsing.DESK])
def test_the_report_renders(browser: object, report: Path, width: int, scheme: str, tmp_path: Path) -> None:
    with browsing.shown(browser, report, width, scheme) as opened:
        assert opened.evaluate("document.images.length") == 3
        # Colours follow the scheme, and the coloured words are visible.
        background = opened.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 24, 28)"}[scheme]
        assert opened.locator("article b.f:visible").count() > 0
        assert opened.locator("article td:visible").count() > 10
        opened.screenshot(path=tmp_path / "page.png", full_page=True)
        assert (tmp_path / "page.png").stat().st_size > 10_000
