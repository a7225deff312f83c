"""Metrics against scikit-learn, against their definitions, and by property."""

from __future__ import annotations

import itertools

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


@settings(max_examples=40)
@given(systems)
def test_summary_is_scikit_learns(answer: tuple[np.ndarray, np.ndarray]) -> None:
    actual, probabilities = answer
    predicted = probabilities.argmax(axis=1)
    values = metrics.summary(metrics.count(actual, probabilities))
    assert values["accuracy"] == pytest.approx(sk.accuracy_score(actual, predicted))
    for average in ("macro", "weighted"):
        for name, score in (("precision", sk.precision_score), ("recall", sk.recall_score), ("f1", sk.f1_score)):
            expected = score(actual, predicted, average=average, zero_division=0)
            assert values[f"{average}_{name}"] == pytest.approx(expected)
    expected = sk.top_k_accuracy_score(actual, probabilities, k=3, labels=range(probabilities.shape[1]))
    assert values["top3"] == pytest.approx(expected)


@settings(max_examples=40)
@given(systems)
def test_class_scores_are_scikit_learns(answer: tuple[np.ndarray, np.ndarray]) -> None:
    actual, probabilities = answer
    counts = metrics.count(actual, probabilities)
    classes = range(probabilities.shape[1])
    expected = sk.precision_recall_fscore_support(actual, probabilities.argmax(axis=1), labels=classes, zero_division=0)
    for found, column in zip([*metrics.class_scores(counts).values(), counts.present], expected, strict=True):
        np.testing.assert_allclose(found, column)


def test_per_class_rows_carry_intervals_around_their_values() -> None:
    actual, probabilities = answers(500, 4, 9)
    names = ["a", "b", "c", "d"]
    (draws,) = metrics.bootstrap(actual, probabilities, seed=0)
    rows = metrics.per_class(metrics.count(actual, probabilities), draws, names)
    assert [row["name"] for row in rows] == names
    assert sum(row["posts"] for row in rows) == 500
    for row in rows:
        low, high = row["f1_95"]
        assert low < row["f1"] < high


def test_confusions() -> None:
    actual, predicted = np.array([0, 0, 1, 2, 2]), np.array([0, 1, 1, 0, 0])
    matrix = metrics.confusion(actual, predicted, 4)
    assert matrix.shape == (4, 4)
    assert matrix.sum() == 5
    assert metrics.most_confused(matrix, ["a", "b", "c", "d"]) == [["c", "a", 2], ["a", "b", 1]]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.integers(1, 8))
def test_groups_by_length_part_the_posts(lengths: list[int], groups: int) -> None:
    hits = {"even": np.array(lengths) % 2 == 0}
    rows = metrics.by_length(np.array(lengths), hits, groups)
    assert len(rows) <= groups
    assert sum(row["posts"] for row in rows) == len(lengths)
    assert all(first["to"] < second["from"] for first, second in itertools.pairwise(rows))
    for row in rows:
        inside = [length for length in lengths if row["from"] <= length <= row["to"]]
        assert len(inside) == row["posts"]
        assert row["even"] == pytest.approx(np.mean([length % 2 == 0 for length in inside]))


def test_bootstrap_of_the_perfect_and_the_hopeless() -> None:
    actual = np.arange(40) % 4
    right, wrong = np.eye(4)[actual], np.eye(4)[(actual + 1) % 4]
    draws = [metrics.summary(counts) for counts in metrics.bootstrap(actual, right, wrong, seed=0, resamples=50)]
    for name in ("accuracy", "macro_f1", "weighted_precision"):
        assert draws[0][name] == pytest.approx(1)
        assert draws[1][name] == pytest.approx(0)


def test_bootstrap_agrees_with_the_loop_that_it_replaces() -> None:
    actual, probabilities = answers(400, 5, 3)
    (counts,) = metrics.bootstrap(actual, probabilities, seed=1)
    draws = metrics.summary(counts)
    random = np.random.default_rng(2)
    loop: dict[str, list[float]] = {"macro_f1": [], "top3": []}
    for _ in range(600):
        picked = random.integers(400, size=400)
        loop["macro_f1"].append(sk.f1_score(actual[picked], probabilities[picked].argmax(axis=1), average="macro"))
        loop["top3"].append(sk.top_k_accuracy_score(actual[picked], probabilities[picked], k=3, labels=range(5)))
    for name, values in loop.items():
        assert draws[name].mean() == pytest.approx(np.mean(values), abs=0.005)
        assert draws[name].std() == pytest.approx(np.std(values), rel=0.15)
    low, high = metrics.interval(draws["macro_f1"])
    assert low < sk.f1_score(actual, probabilities.argmax(axis=1), average="macro") < high


def test_bootstrap_is_paired_and_seeded() -> None:
    actual, probabilities = answers(300, 4, 5)
    first, second = metrics.bootstrap(actual, probabilities, probabilities, seed=7)
    assert (first.hits == second.hits).all()
    (again,) = metrics.bootstrap(actual, probabilities, seed=7)
    assert (first.hits == again.hits).all()
    (other,) = metrics.bootstrap(actual, probabilities, seed=8)
    assert (first.hits != other.hits).any()


def test_a_paired_gain_is_the_difference_and_its_interval_is_narrower_than_an_unpaired_one() -> None:
    actual, probabilities = answers(600, 4, 11)
    worse = probabilities.copy()
    worse[:60] = np.eye(4)[(actual[:60] + 1) % 4]
    gain = metrics.paired_gain(actual, probabilities, worse, seed=0)
    better, lesser = (metrics.summary(metrics.count(actual, system)) for system in (probabilities, worse))
    assert gain["accuracy"] == pytest.approx(better["accuracy"] - lesser["accuracy"])
    low, high = gain["accuracy_95"]
    assert 0 < low < gain["accuracy"] < high
    unpaired = metrics.interval(metrics.summary(metrics.bootstrap(actual, worse, seed=0)[0])["accuracy"])
    assert high - low < unpaired[1] - unpaired[0]
    assert gain["mcnemar_p"] < 0.001


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
