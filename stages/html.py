"""The report's building blocks, and the sections that stages write of them; no script, no network.

A stage that has something to show writes a section to `outputs/sections/<name>.html`; stage `report` joins them, and
has the style of them all.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from stages.files import replacing
from stages.paths import SECTIONS


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


def _cell(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f'<td class="n">{value:g}</td>' if isinstance(value, int) else f'<td class="n">{value:.4g}</td>'
    return f"<td>{'' if value is None else escape(str(value))}</td>"
