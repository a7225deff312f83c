"""What the ablation measured of the transformer, as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from stages.figures import save

# Tables of gains over their first row, and those without the transformer.
GAINS = ("augmentation", "training")
LINEAR_ALONE = ("splits", "wide")


def draw_ablation(tables: Mapping[str, list[list[Any]]], budget: str, path: Path) -> Figure | None:
    """The transformer's mean and 95% interval of each variant, a panel for each table that has them. Returns the
    figure, None where no table has.

    tables: of ablation.json. budget: what the transformer was trained with, in words.
    """
    shown = {title: rows for title, rows in tables.items() if title not in LINEAR_ALONE}
    if not shown:
        return None
    figure = Figure(figsize=(6, 1 + 2 * len(shown)), layout="constrained")
    panels = figure.subplots(len(shown), squeeze=False, sharex=True)[:, 0]
    for axes, (title, rows) in zip(panels, shown.items(), strict=True):
        # Behind the name; other tables have the linear baseline in between.
        first = 1 if title in GAINS else 2
        means, low, high = np.array([row[first : first + 3] for row in rows]).T
        places = np.arange(len(rows))
        axes.errorbar(means, places, xerr=[means - low, high - means], fmt="o", capsize=3)
        axes.set_yticks(places, [row[0] for row in rows])
        axes.invert_yaxis()
        axes.set_title(title)
    panels[-1].set_xlabel(f"macro-F1 of the transformer on validation\n({budget})")
    return save(figure, path)
