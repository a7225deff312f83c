"""The report's section on explanations: the comparison of the methods, then posts with their words coloured."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from handlers import explaining
from stages import html
from stages.comparison import NOISE, REFERENCE, verdict
from stages.explanation import METHODS, UNSIGNED, Explanation, best_words

CLASSES_SHOWN = 5

INTRO = (
    "Every method explains the same thing: the log-odds of a class in the answer of the full model, transformer and "
    "linear part together, also for posts that the linear part would answer alone when served. The linear part's own "
    "share of the fused score is exact and has its own column; attention concerns the transformer alone, has no sign, "
    "and says what it looked at rather than why it answered."
)


def comparison(report: dict[str, Any], picture: bytes, top: int) -> list[str]:
    """Parts of the section: what `comparison.compare` found, in tables and a picture."""
    methods = report["methods"]
    names = METHODS | {"random": "Random ranking"}
    reference = METHODS[REFERENCE]

    def cell(row: dict[str, Any], name: str) -> str | None:
        value, bounds = row.get(name), row.get(f"{name}_95")
        if value is None:
            return None
        # Adding zero makes minus zero plain zero.
        shown = [f"{round(number, 2) + 0.0:.2f}" for number in (value, *(bounds or ()))]
        return f"{shown[0]} ({shown[1]} to {shown[2]})" if bounds else shown[0]

    columns = {
        "Comprehensiveness ↑": "comprehensiveness",
        "Sufficiency ↓": "sufficiency",
        "Spearman with attention": "spearman_attention",
        f"Top-{top} overlap with attention": "overlap_attention",
        f"Spearman with {reference.lower()}": f"spearman_{REFERENCE}",
        f"Top-{top} overlap with {reference.lower()}": f"overlap_{REFERENCE}",
        f"Stability, {NOISE:.0%} of words dropped": "noise",
        "Stability, other seed": "seeds",
        "Texts scored a post": "texts",
        "Seconds a post": "seconds",
    }
    return [
        html.paragraph(INTRO),
        "<h3>The methods compared</h3>",
        html.paragraph(
            f"Means over {report['posts']} test posts with 95% intervals, of the predicted class; stability, a rank "
            f"correlation with the explanation of the same post, over {report['stability_posts']} of them. "
            "Comprehensiveness is what the probability of the class loses without the highest ranked words, "
            "sufficiency what it loses with these alone. Only LIME draws at random. The texts of a method serve all "
            "classes of a post at once; integrated gradients also run backwards."
        ),
        html.table(
            ["Method", *columns],
            [[names[name], *(cell(row, key) for key in columns.values())] for name, row in methods.items()],
        ),
        html.picture(picture, "Comprehensiveness and sufficiency of each method, with intervals"),
        f"<p><strong>{escape(verdict(report))}</strong></p>",
        "<details><summary>Every pair of methods</summary>",
        html.table(
            ["Method", "Other", "Spearman", f"Top-{top} overlap"],
            [[names[one], names[other], *rest] for one, other, *rest in report["pairs"]],
        ),
        "</details>",
        f"<details><summary>Each head of the last layer: Spearman with {escape(reference.lower())}</summary>",
        html.table(["Head", "Spearman"], [[number, value] for number, value in enumerate(report["heads"], 1)]),
        "</details>",
    ]


def post(
    number: int,
    rule: str,
    actual: int,
    explanation: Explanation,
    labels: Sequence[str],
    maps: Sequence[bytes],
    top: int,
) -> str:
    """One post: probabilities beside its coloured words, the strongest words by every method, attention maps.

    maps: pictures of the last layer's mean and of its heads.
    """
    answered = "the linear part alone" if explanation.path == "linear" else "both parts"
    tail = f" {len(explanation.tail)} words behind these are read by the linear part alone." if explanation.tail else ""
    likely = np.argsort(-explanation.probabilities, kind="stable")[:CLASSES_SHOWN]
    chances = html.table(
        ["Class", "Probability"],
        [[labels[i] + (" (actual)" if i == actual else ""), f"{explanation.probabilities[i]:.3f}"] for i in likely],
    )
    classes = []
    for label, values in explanation.attributions.items():
        kind = "predicted" if label == explanation.predicted else "actual"
        signed = {name: row for name, row in values.items() if name not in UNSIGNED}
        first = signed.pop(explaining.DEFAULT)
        classes.append(
            f"<h4>For and against {escape(labels[label])} ({kind})</h4>"
            f"<p>{coloured(explanation.words, first)}</p>"
            f"<details><summary>The same by the other methods</summary>"
            + "".join(
                f"<p><strong>{escape(METHODS[name])}:</strong> {coloured(explanation.words, row)}</p>"
                for name, row in signed.items()
            )
            + "</details>"
            + strongest(explanation.words, values, top)
        )
    looked = explanation.attributions[explanation.predicted]
    attention = "".join(
        f"<p><strong>{escape(METHODS[name])}:</strong> {coloured(explanation.words, looked[name])}</p>"
        for name in UNSIGNED
    )
    pictures = "".join(
        f'<div class="wide">{html.picture(png, description)}</div>'
        for png, description in zip(
            maps, ("Attention from word to word, mean of the last layer", "Attention of each head"), strict=True
        )
    )
    return f"""<article id="post-{number}"><h3>{number}. {escape(rule)}: {escape(labels[explanation.predicted])}</h3>
<div class="pair"><p>As shipped, {answered} would answer this post of class <strong>{escape(labels[actual])}</strong>.
Coloured by {escape(METHODS[explaining.DEFAULT].lower())}, scaled within each method:
<b class="f" style="--a:.6">for</b> the class or <b class="g" style="--a:.6">against</b> it.{tail}</p>{chances}</div>
{"".join(classes)}
<details><summary>Attention</summary>{attention}{pictures}</details></article>"""


def strongest(words: Sequence[str], values: dict[str, np.ndarray], top: int) -> str:
    """A table of the strongest words of the default method, with the value that each method gives them."""
    places = [place for place, _ in best_words(range(len(words)), values[explaining.DEFAULT], top)]
    order = [explaining.DEFAULT, *(name for name in values if name != explaining.DEFAULT)]
    return html.table(
        ["Word", *(METHODS[name] for name in order)],
        [[words[place], *(float(values[name][place]) for name in order)] for place in places],
    )


def coloured(words: Sequence[str], values: np.ndarray) -> str:
    """Words coloured by their values, the largest at full strength."""
    largest = max(np.abs(values).max(initial=0), 1e-12)
    return " ".join(_word(word, value / largest) for word, value in zip(words, values, strict=True))


def _word(word: str, strength: float) -> str:
    """One word; `strength` from -1 to 1. Faint colours are left out: they only cost bytes."""
    if abs(strength) < 0.05:
        return escape(word)
    # At most 0.6 opaque, so that the ink stays readable on every colour.
    return f'<b class="{"f" if strength > 0 else "g"}" style="--a:{0.6 * abs(strength):.2f}">{escape(word)}</b>'
