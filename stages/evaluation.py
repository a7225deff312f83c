"""What is measured of one split: the systems that a bundle holds, their figures, and the mistakes worth reading."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from handlers.fusion import Fusion, softmax
from stages import metrics
from stages.confidence import calibration_error, precision_answered, risk_area

REPORTED = ("baseline", "wide", "deep", "fused", "shipped")
LINEAR = ("baseline", "wide")  # whose scores are no probabilities
EXAMPLES = 2  # posts shown of each confused pair


def probabilities(fusion: Fusion, logits: np.ndarray, scores: np.ndarray) -> dict[str, np.ndarray]:
    """Probabilities [posts, classes] from each part of a bundle and from the whole.

    deep: the transformer as trained, uncalibrated. wide: the linear part, whose scores are no log-probabilities: read
    only their order. fused: both for every post. shipped: the cascade, what a server answers.
    """
    return {
        "deep": softmax(logits),
        "wide": softmax(scores),
        "fused": fusion.full(logits, scores),
        "shipped": fusion.shipped(logits, scores),
    }


def measure(
    actual: np.ndarray,
    answers: dict[str, np.ndarray],
    fast: np.ndarray,
    abstained: np.ndarray,
    lengths: np.ndarray,
    names: tuple[str, ...],
    seed: int,
) -> dict[str, Any]:
    """The figures of one split: every system with 95% bootstrap intervals, what ships in detail and what it gains.

    answers: `probabilities`, and of the `baseline`, probabilities [posts, classes]. fast: which posts the linear part
    answers alone; abstained: which get no answer, bool [posts]. lengths: words of each post. Intervals, classes,
    confusions and groups are lists: they stay in the file, and out of the table of `dvc metrics show`.
    """
    shipped = answers["shipped"]
    hits = {name: values.argmax(axis=1) == actual for name, values in answers.items()}
    draws = dict(zip(answers, metrics.bootstrap(actual, *answers.values(), seed=seed), strict=True))
    report: dict[str, Any] = {"posts": len(actual), "fast_share": float(fast.mean())}
    for name in REPORTED:
        scores, resampled = (metrics.summary(counts) for counts in (metrics.count(actual, answers[name]), draws[name]))
        report[name] = metrics.with_intervals(scores if name == "shipped" else metrics.headline(scores), resampled)
        if name not in LINEAR:
            report[name]["ece"] = calibration_error(actual, answers[name])
    report["shipped"] |= {
        "risk_area": risk_area(actual, shipped),
        "answered": float(1 - abstained.mean()),
        "answered_precision": precision_answered(hits["shipped"], abstained),
    }
    report["over_baseline"] = metrics.paired_gain(actual, shipped, answers["baseline"], seed)
    matrix = metrics.confusion(actual, shipped.argmax(axis=1), len(names))
    report["per_class"] = metrics.per_class(metrics.count(actual, shipped), draws["shipped"], names)
    report["most_confused"] = metrics.most_confused(matrix, names)
    report["by_length"] = metrics.by_length(lengths, {name: hits[name] for name in ("wide", "deep", "shipped")})
    report["by_path"] = [
        {
            "path": path,
            "posts": int(taken.sum()),
            "accuracy": float(hits["shipped"][taken].mean()),
            "ece": calibration_error(actual[taken], shipped[taken]),
        }
        for path, taken in (("linear", fast), ("full", ~fast))
        if taken.any()
    ]
    return report


def examples(
    pairs: Sequence[tuple[int, int]],
    actual: np.ndarray,
    predicted: np.ndarray,
    confidence: np.ndarray,
    texts: Sequence[str],
) -> list[list[tuple[str, float]]]:
    """For each (actual, predicted) pair of classes the surest mistakes, as (text, confidence), EXAMPLES at most."""
    found = []
    for pair in pairs:
        posts = np.flatnonzero((actual == pair[0]) & (predicted == pair[1]))
        surest = posts[np.argsort(-confidence[posts], kind="stable")][:EXAMPLES]
        found.append([(texts[int(post)], float(confidence[post])) for post in surest])
    return found
