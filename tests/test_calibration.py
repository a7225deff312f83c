"""What an archive tells of its calibration, against answers whose figures are known."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset

from stages.calibration import calibration
from stages.confidence import calibration_error


def test_calibration_is_what_the_answers_show() -> None:
    actual = np.array([0, 1, 1, 0])
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.55, 0.45]])
    answers = Dataset.from_dict({"label": actual, "probabilities": probabilities})
    error = calibration_error(actual, probabilities)
    figures = {"ece": error, "risk_area": 0.2, "answered": 0.5, "answered_precision": None}
    told = calibration(figures, answers)
    assert sum(b["share"] * abs(b["confidence"] - b["accuracy"]) for b in told["reliability"]) == pytest.approx(
        error, abs=1e-3
    )
    # The second surest is the one that is wrong.
    assert told["risk_coverage"] == [
        {"coverage": 0.25, "risk": 0.0},
        {"coverage": 0.5, "risk": 0.5},
        {"coverage": 0.75, "risk": 0.3333},
        {"coverage": 1.0, "risk": 0.25},
    ]
