"""What the benchmark's figures look like as a picture, and which variant they recommend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from stages.files import replacing

COLUMNS = ("variant", "cascade", "rate", "rps", "p50_ms", "p99_ms", "errors", "lag_p99_ms", "core_share")
# Capacities closer than this count as equal: the last step of a bisection is about as wide.
TIE = 0.1


def recommendation(rows: Mapping[str, Mapping[str, Any]], agreement: Mapping[str, float | None], slo_ms: float) -> str:
    """One sentence: which variant to deploy, and the rule that says so.

    rows: serving.json. agreement: share of answers equal to the PyTorch variant's, which itself has 1; None where it
    is not known, which wins no tie.
    """
    best = max(row["capacity_rps"] for row in rows.values())
    if best == 0:
        return (
            f"deploy none on this machine: no variant answered 99% of requests within {slo_ms:g} ms at any rate tried"
        )
    equal = [variant for variant, row in rows.items() if row["capacity_rps"] >= (1 - TIE) * best]

    def merit(variant: str) -> tuple[float, float]:
        known = agreement.get(variant)
        return 0.0 if known is None else round(known, 3), -rows[variant]["rss_mb"]

    chosen = max(equal, key=merit)
    return (
        f"deploy {chosen}: {rows[chosen]['capacity_rps']:g} requests/s with 99% of them within {slo_ms:g} ms "
        f"(rule: highest capacity; variants within {TIE:.0%} of it count as equal, then the one closest to PyTorch's "
        "answers, then the one with least memory)"
    )


def draw(table: Sequence[Sequence[Any]], slo_ms: float, path: Path) -> None:
    """Latency against offered rate: p99 solid, p50 dashed, the objective as a line. table: rows of COLUMNS."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    cascades = list(dict.fromkeys(row[1] for row in table))
    for axes, cascade in zip(figure.subplots(1, len(cascades), squeeze=False)[0], cascades, strict=True):
        for number, variant in enumerate(dict.fromkeys(row[0] for row in table)):
            rows = [row for row in table if row[:2] == [variant, cascade]]
            rates = [row[COLUMNS.index("rate")] for row in rows]
            for name, style in (("p99_ms", "o-"), ("p50_ms", "o--")):
                times = [row[COLUMNS.index(name)] for row in rows]
                label = f"{variant}, {name[:3]}"
                axes.plot(rates, times, style, color=f"C{number}", label=label, markersize=4)
        axes.axhline(slo_ms, color="black", linewidth=1, label=f"objective for p99, {slo_ms:g} ms")
        axes.set(xlabel="requests a second, offered", ylabel="latency, ms", yscale="log", title=f"cascade {cascade}")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})
