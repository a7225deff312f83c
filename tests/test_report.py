"""The report: one page that stands alone, with every section in its order."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages import html, report


class Reader(HTMLParser):
    """Checks that tags nest, and keeps the text and the addresses."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.addresses: list[str] = []
        self.anchors: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href"}]
        self.anchors += [value or "" for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(document: str) -> Reader:
    reader = Reader()
    reader.feed(document)
    reader.close()
    assert not reader.open
    return reader


def test_report_joins_the_sections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in report.TITLES:
        html.write_section(name, html.paragraph(f"about {name}"), html.picture(b"png", f"picture of {name}"))
    report.main()
    document = Path("outputs/report/index.html").read_text(encoding="utf-8")
    reader = read(document)
    assert reader.anchors == list(report.TITLES)
    assert [address[1:] for address in reader.addresses if address.startswith("#")] == list(report.TITLES)
    assert "".join(reader.text).find("about data") < "".join(reader.text).find("about serving")
    assert all(address.startswith(("#", "data:")) for address in reader.addresses)
    assert "<script" not in document
    # A name for each colour that the sections' classes use, so that light and dark both work.
    assert set(re.findall(r"var\((--\w+)\)", document)) - {"--a"} <= set(re.findall(r"(--\w+):", document))


def test_a_missing_section_is_an_error_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    html.write_section("data", html.paragraph("there"))
    with pytest.raises(SystemExit, match=r"augmentation\.html is missing: run the stage that writes it"):
        report.main()


# Without spaces and control characters, which a parser may fold.
words = st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1)


@given(words, st.lists(st.tuples(words, st.integers() | st.floats(allow_nan=False))))
def test_whatever_a_text_holds_it_stays_text(text: str, rows: list[tuple[str, object]]) -> None:
    document = report.page("title", text, [("a", text, html.paragraph(text) + html.table([text, "value"], rows))])
    shown = read(document).text
    assert {text, *(name for name, _ in rows)} <= set(shown)


def test_numbers_are_set_to_the_right_and_nothing_for_none() -> None:
    cells = html.table(["a", "b", "c", "d"], [[1, 0.123456, None, True]])
    assert cells.endswith('<tr><td class="n">1</td><td class="n">0.1235</td><td></td><td>True</td></tr></table></div>')
