"""The report on explained posts: one HTML file that needs no network and no script."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

import numpy as np

from stages.explanation import MAX_WORDS, Explanation, best_words

METHOD_NAMES = {
    "lime": "LIME",
    "shap": "SHAP (partition)",
    "attention": "Attention, last layer",
    "rollout": "Attention rollout",
    "linear": "Linear part (exact)",
}

_STYLE = """
:root { color-scheme: light dark; --for: 33 102 172; --against: 200 90 40; --page: #fff; --ink: #1a1a1a; --line: #ccc }
@media (prefers-color-scheme: dark) {
  :root { --for: 80 150 230; --against: 225 120 60; --page: #16181c; --ink: #e6e6e6; --line: #444 }
}
body { background: var(--page); color: var(--ink); font: 16px/1.6 system-ui, sans-serif; max-width: 60rem;
  margin: auto; padding: 1rem; overflow-wrap: anywhere }
a { color: inherit }
h2 { border-top: 1px solid var(--line); padding-top: 1rem }
h3 { margin-bottom: 0 }
.words { margin-top: .2rem }
b { font-weight: inherit; border-radius: .2em; padding: 0 .1em }
.f { background: rgb(var(--for) / var(--a)) }
.g { background: rgb(var(--against) / var(--a)) }
.u { opacity: .5 }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .9rem; overflow-wrap: normal }
td, th { border: 1px solid var(--line); padding: .1rem .5rem; text-align: left; white-space: nowrap }
img { max-width: 100%; height: auto; background: #fff }
"""


def page(posts: Sequence[tuple[str, str, Explanation, bytes]], top: int) -> str:
    """The whole document. posts: (why chosen, actual label, explanation, attention picture as PNG) each."""
    contents = "".join(
        f'<li><a href="#post-{number}">{escape(rule)}: {escape(explanation.label)}</a></li>'
        for number, (rule, _, explanation, _) in enumerate(posts, 1)
    )
    sections = "".join(_section(number, *post, top) for number, post in enumerate(posts, 1))
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Explained posts</title><style>{_STYLE}</style></head><body>
<h1>Explained posts</h1>
<p>Each word is coloured by what it contributes to the predicted class: <b class="f" style="--a:.6">for</b> it or
<b class="g" style="--a:.6">against</b> it, scaled within each method. Attention knows no sign, says what the
transformer looked at rather than why it answered, and ends where the transformer stops reading
(<b class="u">dimmed</b>). LIME and SHAP explain the probability of the full model, transformer and linear part
together; the linear part's own share of the score is exact. Of a long post the first {MAX_WORDS} words are attributed
and the rest stays in place.</p>
<ol>{contents}</ol>
{sections}
</body></html>
"""


def _section(number: int, rule: str, actual: str, explanation: Explanation, picture: bytes, top: int) -> str:
    answered = "the linear part alone" if explanation.path == "linear" else "both parts"
    tail = f" {explanation.tail} further words are not attributed." if explanation.tail else ""
    texts = "".join(
        f'<h3>{METHOD_NAMES[method]}</h3><p class="words">{_coloured(explanation.words, values)}</p>'
        for method, values in explanation.attributions.items()
    )
    encoded = base64.b64encode(picture).decode()
    return f"""<section id="post-{number}"><h2>{number}. {escape(rule)}</h2>
<p>Predicted <strong>{escape(explanation.label)}</strong> with probability {explanation.probability:.3f} by the full
model; actual class <strong>{escape(actual)}</strong>. As shipped, {answered} would answer.{tail}</p>
{texts}
<h3>Strongest words</h3><div class="wide">{_table(explanation, top)}</div>
<h3>Attention among the first words, last layer</h3>
<img alt="Heat map of the attention from each word to each word" src="data:image/png;base64,{encoded}">
</section>"""


def _coloured(words: Sequence[str], values: np.ndarray) -> str:
    largest = max(np.nanmax(np.abs(values), initial=0), 1e-12)
    return " ".join(_word(word, value / largest) for word, value in zip(words, values, strict=True))


def _word(word: str, strength: float) -> str:
    """One word; `strength` from -1 to 1, NaN for not read. Faint colours are left out: they only cost bytes."""
    if np.isnan(strength):
        return f'<b class="u">{escape(word)}</b>'
    if abs(strength) < 0.05:
        return escape(word)
    # At most 0.6 opaque, so that the ink stays readable on every colour.
    return f'<b class="{"f" if strength > 0 else "g"}" style="--a:{0.6 * abs(strength):.2f}">{escape(word)}</b>'


def _table(explanation: Explanation, top: int) -> str:
    columns = [best_words(explanation.words, values, top) for values in explanation.attributions.values()]
    head = "".join(f"<th>{METHOD_NAMES[method]}</th>" for method in explanation.attributions)
    rows = "".join(
        "<tr>"
        + "".join(
            f"<td>{escape(column[rank][0])} {column[rank][1]:+.3f}</td>" if rank < len(column) else "<td></td>"
            for column in columns
        )
        + "</tr>"
        for rank in range(max(map(len, columns)))
    )
    return f"<table><tr>{head}</tr>{rows}</table>"
