"""How good are the answers, and how sure are we of that: pure functions of labels and probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest
from sklearn import metrics as sk

DIGITS = 4
BINS = 15


def summary(actual: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Scores of one system. actual: int [posts]; probabilities: [posts, classes].

    Macro averages run over the classes that occur, as scikit-learn's do; a class that is never answered has precision
    zero. Only the order of the probabilities counts here.
    """
    predicted = probabilities.argmax(axis=1)
    values = {"accuracy": float(sk.accuracy_score(actual, predicted))}
    for average in ("macro", "weighted"):
        scores = sk.precision_recall_fscore_support(actual, predicted, average=average, zero_division=0)
        values |= {
            f"{average}_{name}": float(v) for name, v in zip(("precision", "recall", "f1"), scores, strict=False)
        }
    values["top3"] = top_accuracy(actual, probabilities, 3)
    return values


def top_accuracy(actual: np.ndarray, probabilities: np.ndarray, k: int) -> float:
    """Share of posts whose class is among the `k` most probable; between equals, the higher index counts first."""
    best = np.argsort(probabilities, axis=1, kind="stable")[:, -k:]
    return float((best == actual[:, None]).any(axis=1).mean())


def per_class(actual: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """Precision, recall, F1 and number of posts of every class, in the order of `names`."""
    columns = sk.precision_recall_fscore_support(actual, predicted, labels=range(len(names)), zero_division=0)
    return [
        {"name": name, "precision": float(p), "recall": float(r), "f1": float(f), "posts": int(n)}
        for name, p, r, f, n in zip(names, *columns, strict=True)
    ]


def confusion(actual: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Posts of each actual (row) and predicted (column) class, int [classes, classes]."""
    return sk.confusion_matrix(actual, predicted, labels=range(classes))


def most_confused(matrix: np.ndarray, names: Sequence[str], top: int = 10) -> list[list[Any]]:
    """The commonest mistakes, [actual, predicted, posts] each, from a confusion matrix."""
    mistakes = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-mistakes, axis=None, kind="stable")[:top]
    pairs = zip(*np.unravel_index(order, matrix.shape), strict=True)
    return [[names[a], names[p], int(mistakes[a, p])] for a, p in pairs if mistakes[a, p]]


def reliability(actual: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> dict[str, np.ndarray]:
    """Mean confidence, accuracy and share of posts in equal-width bins (low, high] of confidence, [bins] each.

    Empty bins hold NaN for the first two.
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


def bootstrap(
    actual: np.ndarray, *systems: np.ndarray, classes: int, seed: int, resamples: int = 2000
) -> dict[str, np.ndarray]:
    """Accuracy and macro-F1 of the predictions of each system on resampled posts: [resamples, systems] each.

    All systems meet the same resamples, so the difference of two columns is the paired bootstrap (Koehn 2004,
    https://aclanthology.org/W04-3250).
    """
    # Posts with the same class and the same predictions are alike, so drawing posts with replacement is one
    # multinomial draw over the distinct combinations: exact, and a matrix product instead of a loop.
    kinds, counts = np.unique(np.column_stack([actual, *systems]), axis=0, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(actual), counts / len(actual), size=resamples).astype(float)
    one_hot = np.eye(classes)[kinds]
    is_actual = one_hot[:, 0]
    accuracy, macro_f1 = [], []
    for column in range(1, kinds.shape[1]):
        is_predicted = one_hot[:, column]
        hits = drawn @ (is_actual * is_predicted)
        seen = drawn @ (is_actual + is_predicted)
        accuracy.append(hits.sum(axis=1) / len(actual))
        macro_f1.append((2 * hits / np.maximum(seen, 1)).sum(axis=1) / (seen > 0).sum(axis=1))
    return {"accuracy": np.stack(accuracy, axis=1), "macro_f1": np.stack(macro_f1, axis=1)}


def interval(draws: np.ndarray) -> list[float]:
    """The central 95% of bootstrap draws: [low, high]."""
    return [float(value) for value in np.quantile(draws, [0.025, 0.975])]


def mcnemar(actual: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """Two-sided p-value of McNemar's exact test that two systems are right equally often (McNemar 1947)."""
    only_first = int(((first == actual) & (second != actual)).sum())
    only_second = int(((first != actual) & (second == actual)).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second).pvalue)


def rounded(value: Any) -> Any:
    """A tree of metrics with every float rounded to DIGITS, so that git sees a change only where it means something."""
    if isinstance(value, dict):
        return {key: rounded(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(member) for member in value]
    return round(value, DIGITS) if isinstance(value, float) else value
