"""Behavioural tests as a section of the report: failure rates, and posts that failed."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from stages.checklist import Case
from stages.html import paragraph, table

TESTS = {
    "name": "every given name replaced by another: the label stays",
    "typo": "two letters swapped in one of twenty words: the label stays",
    "signature": "a mail signature appended: the label stays",
    "shouting": "upper case, more commas, exclamation marks: the label stays",
    "topical_word": "a word that speaks for another class put in front: that class gains",
    "topical_words": "four words that speak for one class, alone: that class is answered, with and without the cascade",
}
EXAMPLES = 3  # failed posts shown of each test
AROUND = 6  # unchanged words shown on either side of a change
CHANGES = 8  # shown of a post


def section(
    figures: Mapping[str, Mapping[str, Mapping[str, Any]]], cases: Mapping[str, Mapping[str, Sequence[Case]]]
) -> list[str]:
    """HTML parts. figures: kind of test to its name to `checklist.failures`; cases: likewise to its cases."""
    rows = [
        [kind, TESTS[name], row["posts"], row["failed"], *(row["failed_95"] or [None, None])]
        for kind, tests in figures.items()
        for name, row in tests.items()
    ]
    parts = [
        paragraph(
            "What the shipped model must do whatever its score, on test posts drawn at random (CheckList: Ribeiro et "
            "al. 2020). The words that speak for a class are those of largest weight in the linear part."
        ),
        table(["kind", "test", "posts", "share failed", "95% from", "to"], rows),
    ]
    for tests in cases.values():
        for name, tested in tests.items():
            if failed := [case for case in tested if case.failed][:EXAMPLES]:
                items = "".join(f"<li>{_example(case)}</li>" for case in failed)
                parts.append(f"<details><summary>Failed: {escape(TESTS[name])}</summary><ul>{items}</ul></details>")
    return parts


def _example(case: Case) -> str:
    text, answer = case.after
    sure = answer.probabilities.max()
    if case.before is None:
        return f"expected {escape(case.expected)}, answered {escape(answer.label)} ({sure:.2f}): {escape(text)}"
    original, was = case.before
    return (
        f"expected {escape(case.expected)}; answered {escape(was.label)} ({was.probabilities.max():.2f}) before and "
        f"{escape(answer.label)} ({sure:.2f}) after: {marked(original.split(), text.split())}"
    )


def marked(before: Sequence[str], after: Sequence[str]) -> str:
    """The first CHANGES of a post with the words around them, what went in <del>, what came in <ins>."""
    # Words that occur often would otherwise be ignored in long posts.
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    pieces = []
    for group in list(matcher.get_grouped_opcodes(AROUND))[:CHANGES]:
        for kind, start, end, new_start, new_end in group:
            gone, come = (" ".join(words) for words in (before[start:end][:40], after[new_start:new_end][:40]))
            if kind == "equal":
                pieces.append(escape(gone))
            else:
                pieces += [f"<del>{escape(gone)}</del>"] if gone else []
                pieces += [f"<ins>{escape(come)}</ins>"] if come else []
        pieces.append("…")
    return " ".join(pieces)
