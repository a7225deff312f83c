"""What a model's probabilities are worth, as its archives tell it: their error, and what abstaining gains."""

from __future__ import annotations

from typing import Any

import numpy as np
from datasets import Dataset

from stages.confidence import reliability, risk_coverage
from stages.metrics import rounded

# Of the risk-coverage curve, at equal distances: every twentieth of the posts.
POINTS = 20


def calibration(figures: dict[str, Any], answers: Dataset) -> dict[str, Any]:
    """What goes into `calibration.json`, but for the threshold, which is the bundle's.

    figures: of what ships, as `evaluate` writes them for one split. answers: label and probabilities [classes] of each
    post of that split. Bins without a post are left out.
    """
    actual, probabilities = np.array(answers["label"]), np.array(answers["probabilities"])
    bins = reliability(actual, probabilities)
    coverage, risk = risk_coverage(actual, probabilities)
    points = np.unique(np.ceil(np.linspace(0, len(actual), POINTS + 1)[1:]).astype(int)) - 1
    return rounded(
        {
            "posts": len(actual),
            "ece": figures["ece"],
            "reliability": [
                dict(zip(bins, map(float, values), strict=True))
                for values in zip(*bins.values(), strict=True)
                if values[-1]
            ],
            "risk_area": figures["risk_area"],
            "risk_coverage": [{"coverage": float(coverage[i]), "risk": float(risk[i])} for i in points],
            "answered": figures["answered"],
            "answered_precision": figures["answered_precision"],
        }
    )
