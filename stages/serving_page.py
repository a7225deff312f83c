"""The report's section about serving: which variant to deploy, and the figures and pictures that say so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stages import html
from stages.loadrun import ENOUGH
from stages.serving_figures import differences

HEADER = (
    "variant",
    "cascade",
    "requests/s",
    "from",
    "to",
    "p50 ms",
    "p99 ms",
    "requests",
    "CPU ms a request",
    "macro-F1",
    "archive MB",
    "resident MB",
    "cold start s",
)
PICTURES = {
    "serving.png": "Latency against offered rate, a mark a run, with the growing line that fits the marks best.",
    "latency.png": "Share of requests that are slower than a latency, near the capacity of each variant.",
    "quality.png": "Macro-F1 against capacity. Filled: as deployed. Hollow: the transformer asked for every post.",
    "sensitivity.png": "What int8 costs each layer of the transformer, quantised alone.",
}


def section(
    rows: Mapping[str, Mapping[str, Any]], left_out: Sequence[str], verdict: str, slo_ms: float, plots: Path
) -> list[str]:
    """The section's HTML parts. rows: serving.json. left_out: variants that missed a gate. plots: their folder."""
    lines, rough, open_ended = [], [], []
    for variant, row in rows.items():
        for cascade, figures in (("on", row), ("off", row.get("full_path"))):
            if figures:
                if not figures["enough_requests"]:
                    rough.append(f"{variant} with the cascade {cascade}")
                if not figures["confirmed"]:
                    open_ended.append(f"{variant} with the cascade {cascade}")
                times = [figures[key] for key in ("p50_ms", "p99_ms", "requests", "cpu_ms", "macro_f1")]
                bounds = [figures[key] for key in ("capacity_rps", "capacity_low_rps", "capacity_high_rps")]
                lines.append(
                    [variant, cascade, *bounds, *times, *(row[key] for key in ("size_mb", "rss_mb", "cold_start_s"))]
                )
    share = max(row["generator_machine_share"] for row in rows.values())
    voids = sum(row["void_runs"] for row in rows.values())
    notes = [
        f"Capacity: the highest rate of Poisson arrivals with 99% of the answers within {slo_ms:g} ms and no error, as "
        "the mean of several rounds, in each of which the variants took turns, with its 95% interval. One variant "
        "sustains more than another where the interval of their difference, round by round, is above zero.",
        f"Of some rates fewer than {ENOUGH} requests were measured, which makes a 99th percentile rougher: "
        f"{', '.join(rough)}."
        if rough
        else "",
        "In some round no rate that was tried was too high, or none held, so that the capacity is known less well: "
        f"{', '.join(open_ended)}."
        if open_ended
        else "",
        f"{voids} runs are void, because the load generator was the limit: the capacity may be higher than it says."
        if voids
        else "",
        f"Server and load generator share the machine; the generator took at most {share:.0%} of it.",
        "; ".join(differences(rows)) + "." if len(rows) > 1 else "",
        f"Not packaged, because they missed a gate of params.yaml: {', '.join(left_out)}." if left_out else "",
    ]
    pictures = [part for name, text in PICTURES.items() for part in (html.paragraph(text), picture(plots / name, text))]
    return [
        html.paragraph(verdict[0].upper() + verdict[1:]),
        html.table(HEADER, lines),
        *(html.paragraph(note) for note in notes if note),
        *pictures,
    ]


def picture(path: Path, text: str) -> str:
    """A picture file inside the page."""
    return html.picture(path.read_bytes(), text)
