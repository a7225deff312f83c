"""How good are the answers, and how sure are we of that: pure functions of labels and probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix

DIGITS = 4
HEADLINE = ("accuracy", "macro_f1")


@dataclass(frozen=True)
class Counts:
    """All that the scores need to know of one system's answers, once or for many resamples of the posts.

    hits, answered, present: posts of each class that are answered right, answered so, and really so, [..., classes].
    near: posts whose class is among the three most probable, [...].
    """

    hits: np.ndarray
    answered: np.ndarray
    present: np.ndarray
    near: np.ndarray


def count(actual: np.ndarray, probabilities: np.ndarray) -> Counts:
    """Count the answers to int [posts] of probabilities [posts, classes]; only their order matters."""
    kinds, posts = _kinds(actual, [probabilities])
    return _tally(kinds, posts, systems=1, classes=probabilities.shape[1])[0]


def bootstrap(actual: np.ndarray, *systems: np.ndarray, seed: int, resamples: int = 2000) -> list[Counts]:
    """The counts of each system's probabilities [posts, classes] on resampled posts, with `resamples` in front.

    All systems meet the same resamples, so the difference of two systems' scores is the paired bootstrap (Koehn 2004,
    https://aclanthology.org/W04-3250).
    """
    kinds, posts = _kinds(actual, systems)
    drawn = np.random.default_rng(seed).multinomial(len(actual), posts / len(actual), size=resamples)
    return _tally(kinds, drawn, len(systems), systems[0].shape[1])


def _kinds(actual: np.ndarray, systems: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The distinct (actual, predicted ..., near ...) of posts, int [kinds, 1 + 2 * systems], and how many of each.

    Posts of one kind are alike to every score, so drawing posts with replacement is one multinomial draw over the
    kinds: exact, and a matrix product instead of a loop.
    """
    predicted = [values.argmax(axis=1) for values in systems]
    near = [among_top(actual, values, 3) for values in systems]
    return np.unique(np.column_stack([actual, *predicted, *near]), axis=0, return_counts=True)


def _tally(kinds: np.ndarray, posts: np.ndarray, systems: int, classes: int) -> list[Counts]:
    """Sum the posts of each kind, [..., kinds], by class, for every system."""
    posts = posts.astype(float)
    one_hot = np.eye(classes)
    is_actual = one_hot[kinds[:, 0]]
    present = posts @ is_actual
    counts = []
    for column in range(1, systems + 1):
        is_predicted = one_hot[kinds[:, column]]
        hits, answered = posts @ (is_actual * is_predicted), posts @ is_predicted
        counts.append(Counts(hits, answered, present, near=posts @ kinds[:, systems + column]))
    return counts


def among_top(actual: np.ndarray, probabilities: np.ndarray, k: int) -> np.ndarray:
    """Whether each post's class is among its `k` most probable, bool [posts]; of equals, the higher index counts."""
    best = np.argsort(probabilities, axis=1, kind="stable")[:, -k:]
    return (best == actual[:, None]).any(axis=1)


def class_scores(counts: Counts) -> dict[str, np.ndarray]:
    """Precision, recall and F1 of every class, [..., classes] each; zero where there is nothing to divide by."""
    return {
        "precision": counts.hits / np.maximum(counts.answered, 1),
        "recall": counts.hits / np.maximum(counts.present, 1),
        "f1": 2 * counts.hits / np.maximum(counts.answered + counts.present, 1),
    }


def summary(counts: Counts) -> dict[str, np.ndarray]:
    """The scores of one system, [...] each: accuracy, macro and weighted averages, top-3 accuracy.

    Macro averages run over the classes that occur or are answered, as scikit-learn's do.
    """
    occurs = (counts.answered + counts.present) > 0
    posts = counts.present.sum(axis=-1)
    by_class = class_scores(counts)
    scores = {"accuracy": counts.hits.sum(axis=-1) / posts}
    for name, values in by_class.items():
        scores[f"macro_{name}"] = (values * occurs).sum(axis=-1) / occurs.sum(axis=-1)
    for name, values in by_class.items():
        scores[f"weighted_{name}"] = (values * counts.present).sum(axis=-1) / posts
    scores["top3"] = counts.near / posts
    return scores


def with_intervals(values: dict[str, np.ndarray], draws: dict[str, np.ndarray]) -> dict[str, Any]:
    """Plain figures for a metrics file: each scalar under its name, its bootstrap interval under `<name>_95`."""
    return {name: float(value) for name, value in values.items()} | {
        f"{name}_95": interval(draws[name]) for name in values
    }


def headline(scores: dict[str, Any]) -> dict[str, Any]:
    """The two scores that people ask for first."""
    return {name: scores[name] for name in HEADLINE}


def paired_gain(actual: np.ndarray, first: np.ndarray, second: np.ndarray, seed: int) -> dict[str, Any]:
    """What the first system's probabilities gain over the second's, with paired intervals and McNemar's p-value."""
    counts = [count(actual, system) for system in (first, second)]
    draws = bootstrap(actual, first, second, seed=seed)
    values, resampled = ([headline(summary(system)) for system in pair] for pair in (counts, draws))
    less = [{name: pair[0][name] - pair[1][name] for name in HEADLINE} for pair in (values, resampled)]
    return with_intervals(*less) | {"mcnemar_p": mcnemar(actual, first.argmax(axis=1), second.argmax(axis=1))}


def per_class(counts: Counts, draws: Counts, names: Sequence[str]) -> list[dict[str, Any]]:
    """Name, number of posts, and precision, recall and F1 with intervals, of every class in the order of `names`."""
    scores, resampled = class_scores(counts), class_scores(draws)
    rows = []
    for column, name in enumerate(names):
        one = with_intervals(
            {key: values[column] for key, values in scores.items()},
            {key: values[:, column] for key, values in resampled.items()},
        )
        rows.append({"name": name, "posts": int(counts.present[column]), **one})
    return rows


def confusion(actual: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Posts of each actual (row) and predicted (column) class, int [classes, classes]."""
    return confusion_matrix(actual, predicted, labels=range(classes))


def most_confused(matrix: np.ndarray, names: Sequence[str], top: int = 10) -> list[list[Any]]:
    """The commonest mistakes, [actual, predicted, posts] each, from a confusion matrix."""
    mistakes = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-mistakes, axis=None, kind="stable")[:top]
    pairs = zip(*np.unravel_index(order, matrix.shape), strict=True)
    return [[names[a], names[p], int(mistakes[a, p])] for a, p in pairs if mistakes[a, p]]


def by_length(lengths: np.ndarray, hits: dict[str, np.ndarray], groups: int = 6) -> list[dict[str, Any]]:
    """Accuracy of each system by length of a post, in about equally large groups, the shortest posts first.

    lengths: int [posts]. hits: system to bool [posts]. Posts of one length are never parted.
    """
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, groups + 1)[1:-1], method="lower"))
    place = np.searchsorted(edges, lengths, side="left")
    rows = []
    for group in np.unique(place):
        inside = place == group
        row = {"from": int(lengths[inside].min()), "to": int(lengths[inside].max()), "posts": int(inside.sum())}
        rows.append(row | {name: float(hit[inside].mean()) for name, hit in hits.items()})
    return rows


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
