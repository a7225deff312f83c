"""What the benchmark's and the export's figures look like as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.optimize import isotonic_regression

from stages.files import replacing

COLUMNS = (
    "variant",
    "cascade",
    "rate",
    "requests",
    "rps",
    "p50_ms",
    "p99_ms",
    "errors",
    "lag_p99_ms",
    "core_share",
    "cpu_ms",
)


def draw_curves(table: Sequence[Sequence[Any]], slo_ms: float, path: Path) -> None:
    """Latency against offered rate, a dot a run: p99 filled, p50 hollow, each with the growing line that fits its dots
    best; the objective as a line. table: rows of COLUMNS."""
    cascades = list(dict.fromkeys(row[1] for row in table))
    figure, panels = _figure(len(cascades))
    for axes, cascade in zip(panels, cascades, strict=True):
        for number, variant in enumerate(dict.fromkeys(row[0] for row in table)):
            rows = [row for row in table if row[:2] == [variant, cascade]]
            rates = [row[COLUMNS.index("rate")] for row in rows]
            for name, line, fill in (("p99_ms", "-", f"C{number}"), ("p50_ms", "--", "none")):
                times = [row[COLUMNS.index(name)] for row in rows]
                fitted = np.exp(isotonic_regression(np.log(times)).x)
                axes.plot(rates, fitted, line, color=f"C{number}", label=f"{variant}, {name[:3]}")
                axes.plot(rates, times, "o", color=f"C{number}", markerfacecolor=fill, markersize=4)
        axes.axhline(slo_ms, color="black", linewidth=1, label=f"objective for p99, {slo_ms:g} ms")
        axes.set(xlabel="requests a second, offered", ylabel="latency, ms", yscale="log", title=f"cascade {cascade}")
        _finish(axes)
    _save(figure, path)


def draw_latencies(latencies: Mapping[str, Sequence[float]], slo_ms: float, path: Path) -> None:
    """Share of requests slower than a latency, a line a variant. latencies: ms of the raw samples, by variant."""
    figure, (axes,) = _figure(1)
    for variant, times in latencies.items():
        # The last sample has none above it, which a logarithmic axis cannot show.
        slower = 1 - np.arange(1, len(times) + 1) / len(times)
        axes.step(sorted(times)[:-1], slower[:-1], where="post", label=variant)
    axes.axvline(slo_ms, color="black", linewidth=1, label=f"objective, {slo_ms:g} ms")
    axes.axhline(0.01, color="grey", linewidth=1, linestyle=":", label="p99")
    axes.set(xlabel="latency, ms", ylabel="share of requests that are slower", xscale="log", yscale="log")
    _finish(axes)
    _save(figure, path)


def draw_quality(rows: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Macro-F1 against capacity with its interval, a marker a variant: filled as deployed, hollow with the cascade off.

    rows: serving.json.
    """
    figure, (axes,) = _figure(1)
    for number, (variant, row) in enumerate(rows.items()):
        for mode, figures in (("on", row), ("off", row.get("full_path"))):
            if figures:
                best, low, high = (figures[f"capacity_{bound}rps"] for bound in ("", "low_", "high_"))
                reach = None if low is None else [[best - low], [high - best]]
                fill = f"C{number}" if mode == "on" else "none"
                label = f"{variant}, cascade {mode}"
                style = {"color": f"C{number}", "markerfacecolor": fill, "capsize": 3, "label": label}
                axes.errorbar(best, figures["macro_f1"], xerr=reach, fmt="o", **style)
    axes.set(xlabel="requests a second within the objective", ylabel="macro-F1 on the test split")
    _finish(axes)
    _save(figure, path)


def draw_sensitivity(table: Sequence[Sequence[Any]], path: Path) -> None:
    """What int8 costs each layer: mean difference of a logit, the costliest on top.

    table: rows of module, agreement, difference, the costliest first.
    """
    figure = Figure(figsize=(8, 1.5 + 0.2 * len(table)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.barh(range(len(table)), [row[2] for row in table])
    axes.set_yticks(range(len(table)), [f"{row[0]} ({row[1]:.0%})" for row in table], fontsize=7)
    axes.invert_yaxis()
    axes.set(xlabel="mean |difference of a logit| with this layer alone in int8 (share of posts with the same class)")
    _save(figure, path)


def _figure(panels: int) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(5.5 * panels + (2 if panels == 1 else 0), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, panels, squeeze=False)[0]


def _finish(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})
