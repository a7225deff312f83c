"""Pictures of an evaluation and of an explanation, as PNG files. Each function returns the figure that it wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from stages.figures import save

FOR = "#2166ac"
DPI = 100
# More would make a picture that no screen shows; every pair is in confusion.csv.
LEGIBLE_CLASSES = 60


def confusion_matrix(path: Path, matrix: np.ndarray, names: Sequence[str]) -> Figure:
    """Counts [actual, predicted], each row shaded by its share of the class; of more than LEGIBLE_CLASSES the shades
    alone."""
    labels = [_plain(name, 40) for name in names]
    legible = len(names) <= LEGIBLE_CLASSES
    # Inches: of the margins, of the longest label, and of the cells, where they must hold a number.
    margins = 1.5 + 0.08 * max(map(len, labels)) * legible
    size = margins + 0.42 * min(len(names), LEGIBLE_CLASSES)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if legible:
        for row, column in zip(*np.nonzero(matrix), strict=True):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, matrix[row, column], ha="center", va="center", fontsize=7, color=colour)
        axes.set_xticks(range(len(names)), labels, rotation=90, fontsize=8)
        axes.set_yticks(range(len(names)), labels, fontsize=8)
    else:
        axes.set(xticks=[], yticks=[])
    axes.set_xlabel("predicted")
    axes.set_ylabel("actual")
    return save(figure, path, DPI)


def reliability_diagram(
    path: Path, curves: Mapping[str, Mapping[str, np.ndarray]], errors: Mapping[str, float]
) -> Figure:
    """Accuracy over confidence, one line for each named `confidence.reliability`; below, the shares of posts.

    errors: expected calibration error of each, by the same names.
    """
    figure = Figure(figsize=(5, 6), layout="constrained")
    upper, lower = figure.subplots(2, height_ratios=[3, 1], sharex=True)
    upper.plot([0, 1], [0, 1], color="grey", linestyle=":", label="calibrated")
    for name, curve in curves.items():
        filled = curve["share"] > 0
        label = f"{name} (ECE {errors[name]:.3f})"
        upper.plot(curve["confidence"][filled], curve["accuracy"][filled], marker="o", label=label)
        edges = np.linspace(0, 1, len(curve["share"]) + 1)
        lower.stairs(curve["share"], edges, label=name)
    upper.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    upper.legend(fontsize=8)
    lower.set(xlabel="confidence", ylabel="share of posts")
    return save(figure, path, DPI)


def risk_coverage_curve(path: Path, coverage: np.ndarray, risk: np.ndarray, area: float, answered: float) -> Figure:
    """Share of wrong answers over the share of posts answered, the surest first; a mark where the model abstains.

    area: under the curve. answered: share of posts that the model answers.
    """
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(coverage, risk, label=f"area {area:.3f}")
    axes.axvline(answered, color="grey", linestyle=":", label=f"answered: {answered:.1%}")
    axes.set(xlabel="share of posts answered", ylabel="of these wrong", xlim=(0, 1), ylim=(0, None))
    axes.legend(fontsize=8)
    return save(figure, path, DPI)


def attention_map(path: Path, words: Sequence[str], weights: np.ndarray) -> Figure:
    """Attention from each word (row) to each word (column), [words, words]; readable up to some thirty words."""
    size = 1.5 + 0.22 * len(words)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.subplots()
    # A few words take most of the attention: the colour scale ends where nearly all of the others lie.
    axes.imshow(weights, cmap="viridis", vmin=0, vmax=np.quantile(weights, 0.98))
    labels = [_plain(word, 14) for word in words]
    axes.set_xticks(range(len(words)), labels, rotation=90, fontsize=7)
    axes.set_yticks(range(len(words)), labels, fontsize=7)
    axes.set_xlabel("attended to")
    axes.set_ylabel("from")
    return save(figure, path, DPI)


def attention_heads(path: Path, weights: np.ndarray) -> Figure:
    """Attention of each head, [heads, words, words], as small maps without words: what kinds of heads there are."""
    columns = min(4, len(weights))
    rows = -(-len(weights) // columns)
    figure = Figure(figsize=(1.7 * columns, 1.9 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for number, axes in enumerate(grid):
        axes.axis("off")
        if number < len(weights):
            axes.imshow(weights[number], cmap="viridis", vmin=0, vmax=np.quantile(weights[number], 0.98))
            axes.set_title(f"head {number + 1}", fontsize=8)
    return save(figure, path, DPI)


def faithfulness(path: Path, names: Sequence[str], scores: Mapping[str, np.ndarray]) -> Figure:
    """One panel a score, one line a method: mean and 95% interval. scores: title to [methods, 3] of mean, low, high."""
    figure = Figure(figsize=(4.2 * len(scores), 0.8 + 0.3 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(scores), sharey=True, squeeze=False)[0]
    for axes, (title, values) in zip(panels, scores.items(), strict=True):
        mean, low, high = values.T
        axes.errorbar(mean, range(len(names)), xerr=[mean - low, high - mean], fmt="o", color=FOR, capsize=3)
        axes.set_title(title, fontsize=9)
        axes.grid(axis="x", linewidth=0.3)
        axes.tick_params(labelsize=8)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    return save(figure, path, DPI)


def _plain(text: str, limit: int) -> str:
    """Text for a picture: cut, and without the dollar that would start a formula."""
    return (text if len(text) <= limit else text[: limit - 1] + "…").replace("$", r"\$")
