"""What int8 costs each layer of the transformer, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from stages.figures import save


def draw_sensitivity(table: Sequence[Sequence[Any]], path: Path) -> Figure:
    """Mean difference of a logit by layer, the costliest on top. Returns the figure that it wrote.

    table: rows of module, agreement, difference, the costliest first.
    """
    figure = Figure(figsize=(8, 1.5 + 0.2 * len(table)), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(table)), [row[2] for row in table])
    names = [name if same == 1 else f"{name} ({same:.1%} of the classes the same)" for name, same, _ in table]
    axes.set_yticks(range(len(table)), names, fontsize=7)
    axes.invert_yaxis()
    axes.set(xlabel="mean |difference of a logit| with this layer alone in int8")
    return save(figure, path)
