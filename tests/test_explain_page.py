"""An explanation is safe to put on a page."""

from __future__ import annotations

import dataclasses
from html.parser import HTMLParser

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stages import explain_page
from stages.explanation import METHODS, Explanation
from tests import explanations

explanation = explanations.explanation


class _Tags(HTMLParser):
    """Collects the tags and the addresses of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]


@settings(max_examples=40)
@given(st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=6))
def test_section_escapes_and_needs_no_network(explanation: Explanation, words: list[str]) -> None:
    nasty = ["<script>alert(1)</script>", '"><img/src=http://x>', *words]
    values = dict.fromkeys(METHODS, np.linspace(-1, 1, len(nasty)))
    hostile = dataclasses.replace(explanation, words=nasty, attributions={0: values, 1: values})
    html = explain_page.post(1, "wrong & <sure>", 1, hostile, ["<b>", "<i>", "<u>"], (b"png", b"png"), top=3)
    tags = _Tags()
    tags.feed(html)
    assert not {"script", "i", "u"} & set(tags.tags)
    assert tags.tags.count("img") == 2
    assert all(address.startswith("data:") for address in tags.addresses)
    assert "&lt;script&gt;" in html
