"""Stage `report`: what the other stages have to show, in one HTML file that needs no network and no script."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from html import escape

from stages.files import replacing
from stages.html import paragraph
from stages.inputs import require
from stages.paths import REPORT, SECTIONS
from stages.stage import stage

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
INTRO = (
    "From raw posts to a served model: what went in, what came out, how sure we are of it, and how fast it is served."
)
STYLE = """
:root { color-scheme: light dark; --for: 33 102 172; --against: 200 90 40; --page: #fff; --ink: #1a1a1a; --line: #ccc;
  --del: #a11; --mark: #fe9; --ins: #bed }
@media (prefers-color-scheme: dark) {
  :root { --for: 80 150 230; --against: 225 120 60; --page: #16181c; --ink: #e6e6e6; --line: #444;
    --del: #f88; --mark: #640; --ins: #163 }
}
body { background: var(--page); color: var(--ink); font: 16px/1.6 system-ui, sans-serif; max-width: 64rem;
  margin: auto; padding: 1rem; overflow-wrap: anywhere }
a { color: inherit }
section > h2 { border-top: 1px solid var(--line); padding-top: 1rem }
b { font-weight: inherit; border-radius: .2em; padding: 0 .1em }
.f { background: rgb(var(--for) / var(--a)) }
.g { background: rgb(var(--against) / var(--a)) }
del { color: var(--del) }
mark { color: inherit; background: var(--mark) }
ins { color: inherit; background: var(--ins); text-decoration: none }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: 0 2rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .9rem; overflow-wrap: normal }
td, th { border: 1px solid var(--line); padding: .1rem .5rem; text-align: left; white-space: nowrap }
td.n { text-align: right; font-variant-numeric: tabular-nums }
img { max-width: 100%; height: auto; background: #fff }
.wide img { max-width: none }
"""


def page(title: str, intro: str, sections: Sequence[tuple[str, str, str]]) -> str:
    """The whole document. sections: (anchor, title, HTML) each; intro: plain text under the heading."""
    contents = "".join(f'<li><a href="#{escape(name)}">{escape(heading)}</a></li>' for name, heading, _ in sections)
    body = "".join(
        f'<section id="{escape(name)}"><h2>{escape(heading)}</h2>\n{inner}</section>\n'
        for name, heading, inner in sections
    )
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><link rel="icon" href="data:,"><style>{STYLE}</style></head><body>
<h1>{escape(title)}</h1>
{paragraph(intro)}
<ol>{contents}</ol>
{body}</body></html>
"""


def main() -> None:
    with stage("report"):
        sections = []
        for name, title in TITLES.items():
            path = require(SECTIONS / f"{name}.html")
            sections.append((name, title, path.read_text(encoding="utf-8")))
        with replacing(REPORT / "index.html") as temporary:
            temporary.write_text(page("newsgroups", INTRO, sections), encoding="utf-8")
        log.info("%s", REPORT / "index.html")


if __name__ == "__main__":
    main()
