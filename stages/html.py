"""The report's building blocks: sections that stages write, and the one page around them, with no script and no network.

A stage that has something to show writes a section to `outputs/sections/<name>.html`; stage `report` joins them.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from stages.files import replacing
from stages.paths import SECTIONS

_STYLE = """
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
.u { opacity: .5 }
del { color: var(--del) }
mark { color: inherit; background: var(--mark) }
ins { color: inherit; background: var(--ins); text-decoration: none }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: 0 2rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .9rem; overflow-wrap: normal }
td, th { border: 1px solid var(--line); padding: .1rem .5rem; text-align: left; white-space: nowrap }
td.n { text-align: right; font-variant-numeric: tabular-nums }
img { max-width: 100%; height: auto; background: #fff }
"""


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{escape(text)}</p>"


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table of plain values; numbers are set to the right, None is left empty. Wide ones scroll by themselves."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def picture(png: bytes, description: str) -> str:
    """A PNG picture inside the page; the description is for those who cannot see it."""
    return f'<img alt="{escape(description)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def write_section(name: str, *parts: str) -> None:
    """Write what a stage has to show, as HTML parts in order, whole; `name` is one of stage `report`'s sections."""
    with replacing(SECTIONS / f"{name}.html") as temporary:
        temporary.write_text("\n".join(parts) + "\n", encoding="utf-8")


def page(title: str, intro: str, sections: Sequence[tuple[str, str, str]]) -> str:
    """The whole document. sections: (anchor, title, HTML) each; intro: plain text under the heading."""
    contents = "".join(f'<li><a href="#{escape(name)}">{escape(heading)}</a></li>' for name, heading, _ in sections)
    body = "".join(
        f'<section id="{escape(name)}"><h2>{escape(heading)}</h2>\n{html}</section>\n' for name, heading, html in sections
    )
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><link rel="icon" href="data:,"><style>{_STYLE}</style></head><body>
<h1>{escape(title)}</h1>
{paragraph(intro)}
<ol>{contents}</ol>
{body}</body></html>
"""


def _cell(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f'<td class="n">{value:g}</td>' if isinstance(value, int) else f'<td class="n">{value:.4g}</td>'
    return f"<td>{'' if value is None else escape(str(value))}</td>"
