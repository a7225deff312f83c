"""The final setting from several seeds: mean and spread of what `evaluate` found on the test split.

    for seed in 20 21 22; do
        dvc exp run -S seed=$seed evaluate@minilm && cp outputs/metrics/candidates/minilm.json seed-$seed.json
    done
    python -m tests.bench.seeds seed-20.json seed-21.json seed-22.json

The seed also draws the validation split. Prints, of each part and measure, the mean, its 95% interval by Student's t,
the standard deviation and the values.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages.files import read_json
from stages.intervals import mean_interval
from stages.metrics import rounded
from stages.stage import StageError
from tests.bench.traffic import report

PARTS = ("baseline", "wide", "deep", "fused", "shipped")
MEASURES = ("accuracy", "macro_f1")


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, bounds of its 95% interval, standard deviation, and the values. Needs two or more."""
    mean, low, high = mean_interval(values)
    return {"mean": mean, "low": low, "high": high, "sd": float(np.std(values, ddof=1)), "values": list(values)}


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Spread of each part, of what ships less the baseline, and of the share that the cascade answers; shares of 1.

    runs: the files of `evaluate`. Raises StageError where they do not score as many posts.
    """
    tests = [run["test"] for run in runs]
    if len(posts := {test["posts"] for test in tests}) > 1:
        raise StageError(f"the runs score test splits of {sorted(posts)} posts: give runs of one corpus")
    found: dict[str, Any] = {
        part: {name: spread([t[part][name] for t in tests]) for name in MEASURES} for part in PARTS
    }
    found["shipped"]["ece"] = spread([test["shipped"]["ece"] for test in tests])
    found["over_baseline"] = {
        name: spread([test["shipped"][name] - test["baseline"][name] for test in tests]) for name in MEASURES
    }
    found["fast_share"] = spread([test["fast_share"] for test in tests])
    return rounded({"runs": len(runs), "posts": posts.pop(), **found})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="files of outputs/metrics/candidates, one a seed")
    parser.add_argument("--output", type=Path, help="JSON file for the figures, which are printed as well")
    options = parser.parse_args()
    if len(options.runs) < 2:
        parser.error("a spread needs the files of two seeds or more")
    try:
        report(summary([read_json(path) for path in options.runs]), options.output)
    except (StageError, OSError) as error:
        sys.exit(f"seeds: {error}")


if __name__ == "__main__":
    main()
