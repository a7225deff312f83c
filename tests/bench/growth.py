"""What training costs as the corpus grows: time and memory of an epoch at an eighth, a quarter, half and all of it.

    python -m tests.bench.growth

Each size in a process of its own, linear probe included. Time should be linear in tokens, and memory flat.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from stages.corpus import load_split
from stages.figures import save
from stages.metrics import rounded
from stages.params import load
from stages.paths import PREPARED, PRETRAINED
from tests.bench.traffic import report
from tests.bench.training import Task, apart, ours, spread

SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)
# Scored at the end of each run: few, so that training is what is timed.
VALIDATION = 100


def measure(task: Task) -> dict[str, Any]:
    """One size: posts, tokens, seconds of the steps and of everything, peak memory."""
    result = apart(ours, task)
    return {
        "posts": len(task.train),
        "tokens": result["tokens"],
        "seconds": result["seconds"],
        "total_s": result["total_s"],
        "total_ms_a_token": 1000 * result["total_s"] / result["tokens"],
        "peak_mib": result["peak_mib"],
    }


def draw(rows: list[dict[str, Any]], path: Path) -> Figure:
    """Seconds and peak memory over tokens, each with what growth in proportion, or none, would be. Returns
    the figure."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    time, memory = figure.subplots(1, 2)
    tokens, last = [row["tokens"] for row in rows], rows[-1]
    time.plot(tokens, [row["total_s"] for row in rows], "o-", label="measured")
    time.plot([0, last["tokens"]], [0, last["total_s"]], "k:", label="in proportion")
    memory.plot(tokens, [row["peak_mib"] for row in rows], "o-", label="measured")
    memory.axhline(rows[0]["peak_mib"], color="black", linestyle=":", label="of the smallest")
    time.set(xlabel="tokens of the corpus", ylabel="seconds, probe and one epoch")
    memory.set(xlabel="tokens of the corpus", ylabel="peak memory, MiB", ylim=(0, None))
    for axes in (time, memory):
        axes.legend()
        axes.grid(alpha=0.3)
    return save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidate", default="minilm")
    parser.add_argument("--output", type=Path, help="JSON file for the figures; a PNG is drawn beside it")
    options = parser.parse_args()
    params = load()
    settings = replace(params.train.of(options.candidate), epochs=1, evaluations=1)
    train, validation = load_split(PREPARED, "train"), load_split(PREPARED, "validation")
    rows = [
        measure(
            Task(
                PRETRAINED / options.candidate,
                spread(train, round(share * len(train))),
                spread(validation, VALIDATION),
                settings,
                params.seed,
                torch.get_num_threads(),
            )
        )
        for share in SHARES
    ]
    report(rounded({"candidate": options.candidate, "sizes": rows}), options.output)
    if options.output:
        draw(rows, options.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
