"""An evaluation as a section of the report."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from stages.html import paragraph, picture, table

SYSTEMS = {
    "baseline": "baseline: TF-IDF + LinearSVC",
    "wide": "wide part alone: the same with log-count ratios",
    "deep": "deep part alone: the transformer",
    "fused": "both, fused",
    "shipped": "as shipped: fused, behind the cascade",
}
EXCERPT = 400  # characters of an example


def section(
    report: dict[str, Any], reject: float, examples: Sequence[Sequence[tuple[str, float]]], pictures: Path
) -> list[str]:
    """HTML parts from one split's figures as `evaluation.measure` gives them.

    reject: the probability below which an answer abstains. examples: of each of `most_confused`'s pairs, (text,
    confidence) each. pictures: the folder with the PNG files of `evaluate.draw`.
    """
    shipped, cascade = report["shipped"], report["fast_share"] > 0
    return [
        paragraph(
            f"All figures are of the {report['posts']} test posts, in brackets with their 95% bootstrap intervals. The "
            f"wide part answers {report['fast_share']:.1%} of the posts alone."
        ),
        table(["system", "accuracy", "macro-F1", "calibration error"], (_system(report, name) for name in SYSTEMS)),
        paragraph(_gain(report["over_baseline"], "the baseline")),
        "<h3>Every score of what ships</h3>",
        table(["score", "value", "95% from", "to"], _scores(shipped)),
        "<h3>By class</h3>",
        table(
            ["class", "posts", "precision", "recall", "F1", "F1, 95% from", "to"],
            (
                [row["name"], row["posts"], row["precision"], row["recall"], row["f1"], *row["f1_95"]]
                for row in report["per_class"]
            ),
        ),
        "<h3>Most confused</h3>",
        picture((pictures / "confusion.png").read_bytes(), "confusion matrix of actual and predicted classes"),
        *_confused(report["most_confused"], examples),
        "<h3>By length</h3>",
        paragraph("Accuracy by words of the cleaned post."),
        table(["from", "to", "posts", "wide", "deep", "shipped"], (list(row.values()) for row in report["by_length"])),
        "<h3>Calibration</h3>",
        paragraph(
            f"Expected calibration error of what ships: {shipped['ece']:.3f}; of the transformer alone, as trained, "
            f"{report['deep']['ece']:.3f}."
            + (" Each path of the cascade has a temperature and a share of doubt of its own." if cascade else "")
        ),
        table(["path", "posts", "accuracy", "calibration error"], (list(row.values()) for row in report["by_path"])),
        picture(
            (pictures / "reliability.png").read_bytes(),
            "accuracy over confidence, of the transformer as trained and as shipped",
        ),
        "<h3>Abstaining</h3>",
        paragraph(_abstaining(shipped, reject)),
        picture((pictures / "risk_coverage.png").read_bytes(), "share of wrong answers over share of posts answered"),
    ]


def candidates(rows: dict[str, dict[str, Any]]) -> list[str]:
    """HTML parts on the candidates that were not selected: the selected one's gain over each, as `select` gives it."""
    return [paragraph(_gain(gain, f"the candidate {name}")) for name, gain in rows.items()]


def _system(report: dict[str, Any], name: str) -> list[str]:
    scores = report[name]
    figures = [f"{scores[key]:.1%} ({_percent(scores[f'{key}_95'])})" for key in ("accuracy", "macro_f1")]
    return [SYSTEMS[name], *figures, f"{scores['ece']:.1%}" if "ece" in scores else ""]


def _scores(scores: dict[str, Any]) -> list[list[Any]]:
    return [[key, scores[key], *scores[f"{key}_95"]] for key in scores if f"{key}_95" in scores]


def _gain(gain: dict[str, Any], other: str) -> str:
    accuracy, macro = (f"{100 * gain[key]:.1f} ({_percent(gain[f'{key}_95'])})" for key in ("accuracy", "macro_f1"))
    p = gain["mcnemar_p"]
    return (
        f"What ships less {other}: {accuracy} points of accuracy and {macro} of macro-F1, by paired bootstrap; p "
        f"{f'= {p:.2g}' if p else '< 0.0001'} by McNemar's test."
    )


def _percent(interval: Sequence[float]) -> str:
    return " to ".join(f"{100 * value:.1f}" for value in interval)


def _abstaining(shipped: dict[str, Any], reject: float) -> str:
    area = f"The area under the curve is {shipped['risk_area']:.3f}."
    if not reject:
        return f"No answer abstains: the threshold is 0. {area}"
    answered, precision = shipped["answered"], shipped["answered_precision"]
    right = "" if precision is None else f" {precision:.1%} of the answers given are right."
    return f"Below a probability of {reject:.3f} the answer abstains: {answered:.1%} are answered.{right} {area}"


def _confused(pairs: Sequence[Sequence[Any]], examples: Sequence[Sequence[tuple[str, float]]]) -> list[str]:
    parts = []
    for (actual, predicted, posts), found in zip(pairs, examples, strict=True):
        quotes = "".join(f"<li>{confidence:.2f}: {escape(_cut(text))}</li>" for text, confidence in found)
        parts.append(
            f"<details><summary>{escape(actual)} taken for {escape(predicted)}: {posts} posts; the surest</summary>"
            f"<ul>{quotes}</ul></details>"
        )
    return parts


def _cut(text: str) -> str:
    return text if len(text) <= EXCERPT else text[: EXCERPT - 1] + "…"
