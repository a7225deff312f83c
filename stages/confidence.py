"""What the probabilities of answers are worth: calibration, and what abstaining would gain. Pure functions."""

from __future__ import annotations

import numpy as np

BINS = 15


def reliability(actual: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> dict[str, np.ndarray]:
    """Mean confidence, accuracy and share of posts in equal-width bins (low, high] of confidence, [bins] each.

    actual: int [posts]; probabilities: [posts, classes]. Empty bins hold NaN for the first two.
    """
    confidence = probabilities.max(axis=1)
    hit = probabilities.argmax(axis=1) == actual
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    posts = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        return {
            "confidence": np.bincount(place, confidence, bins) / posts,
            "accuracy": np.bincount(place, hit, bins) / posts,
            "share": posts / len(actual),
        }


def calibration_error(actual: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error (Naeini et al. 2015; Guo et al. 2017, https://arxiv.org/abs/1706.04599)."""
    curve = reliability(actual, probabilities, bins)
    return float(np.nansum(curve["share"] * np.abs(curve["confidence"] - curve["accuracy"])))


def risk_coverage(actual: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of posts answered, and of these answered wrongly, as the surest 1, 2, ... posts are: [posts] each.

    El-Yaniv and Wiener 2010, https://jmlr.org/papers/v11/el-yaniv10a.html
    """
    surest = np.argsort(-probabilities.max(axis=1), kind="stable")
    wrong = (probabilities.argmax(axis=1) != actual)[surest]
    answered = np.arange(1, len(actual) + 1)
    return answered / len(actual), np.cumsum(wrong) / answered


def risk_area(actual: np.ndarray, probabilities: np.ndarray) -> float:
    """Area under the risk-coverage curve (Geifman et al. 2019, https://arxiv.org/abs/1805.08206); less is better."""
    return float(risk_coverage(actual, probabilities)[1].mean())


def precision_answered(hit: np.ndarray, abstained: np.ndarray) -> float | None:
    """Share of the given answers that are right, from bool [posts] each; None where every answer abstains."""
    return None if abstained.all() else float(hit[~abstained].mean())
