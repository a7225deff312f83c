"""Stage `report`: what the other stages have to show, in one HTML file that needs no network and no script."""

from __future__ import annotations

import logging

from stages import html
from stages.files import replacing
from stages.paths import REPORT, SECTIONS
from stages.stage import StageError, stage

log = logging.getLogger(__name__)

# Name of a section's file, and its title, in the order of the page.
TITLES = {
    "data": "Data",
    "augmentation": "Augmentation",
    "evaluation": "Evaluation",
    "behaviour": "Behaviour",
    "explanation": "Explanation",
    "serving": "Serving",
}
INTRO = "From raw posts to a served model: what went in, what came out, how sure we are of it, and how fast it is served."


def main() -> None:
    with stage("report"):
        sections = []
        for name, title in TITLES.items():
            path = SECTIONS / f"{name}.html"
            if not path.is_file():
                raise StageError(f"{path} is missing: run dvc repro")
            sections.append((name, title, path.read_text(encoding="utf-8")))
        with replacing(REPORT / "index.html") as temporary:
            temporary.write_text(html.page("newsgroups", INTRO, sections), encoding="utf-8")
        log.info("%s", REPORT / "index.html")


if __name__ == "__main__":
    main()
