"""What the benchmark's figures look like as pictures. Each function returns the figure that it wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter
from scipy.optimize import isotonic_regression

from stages.figures import save

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


def draw_curves(table: Sequence[Sequence[Any]], slo_ms: float, path: Path) -> Figure:
    """Latency against offered rate, a mark a run: p99 filled, p50 hollow, a cross where some got no right answer; each
    with the growing line that fits its marks best. The objective as a line. table: rows of COLUMNS."""
    cascades = list(dict.fromkeys(row[1] for row in table))
    figure, panels = _figure(len(cascades))
    for axes, cascade in zip(panels, cascades, strict=True):
        for number, variant in enumerate(dict.fromkeys(row[0] for row in table)):
            rows = [dict(zip(COLUMNS, row, strict=True)) for row in table if row[:2] == [variant, cascade]]
            for name, line, fill in (("p99_ms", "-", f"C{number}"), ("p50_ms", "--", "none")):
                fitted = np.exp(isotonic_regression(np.log([row[name] for row in rows])).x)
                label = f"{variant}, {name[:3]}"
                axes.plot([row["rate"] for row in rows], fitted, line, color=f"C{number}", label=label)
                for failed, marker in ((False, "o"), (True, "x")):
                    chosen = [(row["rate"], row[name]) for row in rows if bool(row["errors"]) == failed]
                    style = {"color": f"C{number}", "markerfacecolor": fill, "markersize": 4 + failed}
                    axes.plot([rate for rate, _ in chosen], [time for _, time in chosen], marker, **style)
        axes.axhline(slo_ms, color="black", linewidth=1, label=f"objective for p99, {slo_ms:g} ms")
        axes.set(xlabel="requests a second, offered", ylabel="latency, ms", yscale="log", title=f"cascade {cascade}")
        _round_numbers(axes.yaxis)
        axes.grid(alpha=0.3)
    handles, labels = panels[0].get_legend_handles_labels()
    cross = Line2D([], [], color="grey", marker="x", linestyle="none")
    figure.legend([*handles, cross], [*labels, "some were refused"], loc="outside lower center", ncols=4, fontsize=8)
    return save(figure, path)


def draw_latencies(latencies: Mapping[str, Sequence[float]], slo_ms: float, path: Path) -> Figure:
    """Share of requests slower than a latency, a line a variant. latencies: ms of the raw samples, by variant."""
    figure, (axes,) = _figure(1)
    for variant, times in latencies.items():
        # The last sample has none above it, which a logarithmic axis cannot show.
        slower = 1 - np.arange(1, len(times) + 1) / len(times)
        axes.step(sorted(times)[:-1], slower[:-1], where="post", label=variant)
    axes.axvline(slo_ms, color="black", linewidth=1, label=f"objective, {slo_ms:g} ms")
    axes.axhline(0.01, color="grey", linewidth=1, linestyle=":", label="p99")
    axes.set(xlabel="latency, ms", ylabel="share of requests that are slower", xscale="log", yscale="log")
    _round_numbers(axes.xaxis)
    _finish(axes)
    return save(figure, path)


def draw_quality(rows: Mapping[str, Mapping[str, Any]], path: Path) -> Figure:
    """Macro-F1 against capacity with its interval, a marker a variant: filled as deployed, hollow with the cascade off.

    rows: serving.json.
    """
    figure, (axes,) = _figure(1)
    scores = [each["macro_f1"] for row in rows.values() for each in (row, row.get("full_path", row))]
    # A point on either side: what is less would look like much.
    axes.set_ylim(min(scores) - 0.01, max(scores) + 0.01)
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
    return save(figure, path)


def _figure(panels: int) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(5.5 * panels + (2 if panels == 1 else 0), 4.5), layout="constrained")
    return figure, figure.subplots(1, panels, squeeze=False)[0]


def _round_numbers(axis: Axis) -> None:
    """Ticks of a logarithmic axis as 20, 50, 100 rather than as powers of ten."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(ScalarFormatter())
    axis.set_minor_formatter(NullFormatter())


def _finish(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
