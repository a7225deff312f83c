"""Metrics against scikit-learn, against their definitions, and by property."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from stages import metrics


def answers(posts: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities that are right more often than chance."""
    random = np.random.default_rng(seed)
    actual = random.integers(classes, size=posts)
    scores = random.normal(size=(posts, classes)) + 1.5 * np.eye(classes)[actual]
    return actual, np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)


systems = st.tuples(st.integers(1, 200), st.integers(4, 20), st.integers(0, 2**32 - 1)).map(lambda args: answers(*args))


@settings(deadline=None, max_examples=40)
@given(systems)
def test_summary_is_scikit_learns(answer: tuple[np.ndarray, np.ndarray]) -> None:
    actual, probabilities = answer
    predicted = probabilities.argmax(axis=1)
    values = metrics.summary(actual, probabilities)
    assert values["accuracy"] == pytest.approx(sk.accuracy_score(actual, predicted))
    for average in ("macro", "weighted"):
        for name, score in (("precision", sk.precision_score), ("recall", sk.recall_score), ("f1", sk.f1_score)):
            expected = score(actual, predicted, average=average, zero_division=0)
            assert values[f"{average}_{name}"] == pytest.approx(expected)
    expected = sk.top_k_accuracy_score(actual, probabilities, k=3, labels=range(probabilities.shape[1]))
    assert values["top3"] == pytest.approx(expected)


@settings(deadline=None, max_examples=40)
@given(systems, st.integers(1, 20))
def test_calibration_error_is_its_definition(answer: tuple[np.ndarray, np.ndarray], bins: int) -> None:
    actual, probabilities = answer
    confidence, hit = probabilities.max(axis=1), probabilities.argmax(axis=1) == actual
    expected = 0.0
    for low, high in zip(np.linspace(0, 1, bins + 1)[:-1], np.linspace(0, 1, bins + 1)[1:], strict=True):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            expected += inside.mean() * abs(confidence[inside].mean() - hit[inside].mean())
    assert metrics.calibration_error(actual, probabilities, bins) == pytest.approx(expected)


def test_calibration_error_of_the_certain_is_their_error_rate() -> None:
    certain = np.eye(2)[[0, 0, 0, 1]]
    assert metrics.calibration_error(np.array([0, 0, 1, 1]), certain) == pytest.approx(0.25)


def test_reliability_raises_no_warning_over_empty_bins() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        curve = metrics.reliability(*answers(5, 3, 0))
    assert curve["share"].sum() == pytest.approx(1)
    assert np.isnan(curve["accuracy"]).sum() == (curve["share"] == 0).sum()


def test_per_class_and_confusions() -> None:
    actual, predicted = np.array([0, 0, 1, 2, 2]), np.array([0, 1, 1, 0, 0])
    rows = metrics.per_class(actual, predicted, ["a", "b", "c", "d"])
    assert rows[0] == {
        "name": "a",
        "precision": pytest.approx(1 / 3),
        "recall": 0.5,
        "f1": pytest.approx(0.4),
        "posts": 2,
    }
    assert rows[3] == {"name": "d", "precision": 0, "recall": 0, "f1": 0, "posts": 0}
    matrix = metrics.confusion(actual, predicted, 4)
    assert matrix.shape == (4, 4)
    assert matrix.sum() == 5
    assert metrics.most_confused(matrix, ["a", "b", "c", "d"]) == [["c", "a", 2], ["a", "b", 1]]


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 40), st.integers(0, 2**32 - 1))
def test_bootstrap_of_the_perfect_and_the_hopeless(posts: int, seed: int) -> None:
    actual, probabilities = answers(posts, 4, seed)
    predicted = probabilities.argmax(axis=1)
    draws = metrics.bootstrap(actual, actual, (actual + 1) % 4, classes=4, seed=seed, resamples=50)
    assert draws["macro_f1"][:, 0] == pytest.approx(1)
    assert draws["macro_f1"][:, 1] == pytest.approx(0)
    assert draws["accuracy"][:, 1] == pytest.approx(0)
    between = metrics.bootstrap(actual, predicted, classes=4, seed=seed, resamples=50)["macro_f1"]
    assert between.min() >= 0
    assert between.max() <= 1 + 1e-12


def test_bootstrap_agrees_with_the_loop_that_it_replaces() -> None:
    actual, probabilities = answers(400, 5, 3)
    predicted = probabilities.argmax(axis=1)
    draws = metrics.bootstrap(actual, predicted, classes=5, seed=1)
    random = np.random.default_rng(2)
    loop = []
    for _ in range(600):
        picked = random.integers(400, size=400)
        loop.append(sk.f1_score(actual[picked], predicted[picked], average="macro"))
    assert draws["macro_f1"].mean() == pytest.approx(np.mean(loop), abs=0.005)
    assert draws["macro_f1"].std() == pytest.approx(np.std(loop), rel=0.15)
    low, high = metrics.interval(draws["macro_f1"])
    assert low < sk.f1_score(actual, predicted, average="macro") < high


def test_bootstrap_is_paired_and_seeded() -> None:
    actual, probabilities = answers(300, 4, 5)
    predicted = probabilities.argmax(axis=1)
    draws = metrics.bootstrap(actual, predicted, predicted, classes=4, seed=7)["accuracy"]
    assert (draws[:, 0] == draws[:, 1]).all()
    again = metrics.bootstrap(actual, predicted, predicted, classes=4, seed=7)["accuracy"]
    assert (draws == again).all()
    other = metrics.bootstrap(actual, predicted, predicted, classes=4, seed=8)["accuracy"]
    assert (draws != other).any()


def test_mcnemar_by_hand() -> None:
    actual = np.zeros(20, dtype=int)
    first, second = actual.copy(), actual.copy()
    assert metrics.mcnemar(actual, first, second) == 1.0
    second[:5] = 1
    # Five posts that only the first gets right: two-sided binomial, 2 * 0.5 ** 5.
    assert metrics.mcnemar(actual, first, second) == pytest.approx(0.0625)
    first[10:15] = 1
    assert metrics.mcnemar(actual, first, second) == pytest.approx(1.0)


def test_rounded_reaches_every_float_and_nothing_else() -> None:
    tree = {"a": 0.123456, "b": [1, 0.99999, {"c": "x"}], "d": (2.00001, True, None)}
    assert metrics.rounded(tree) == {"a": 0.1235, "b": [1, 1.0, {"c": "x"}], "d": [2.0, True, None]}
