"""The methods judged and compared: faithfulness, agreement, stability, and the verdict."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.predictor import Predictor
from stages.comparison import compare, correlation, judge, stability, summary, verdict
from stages.explanation import METHODS, Effort, Explanation, explain_text
from stages.faithfulness import eraser, rank_correlation, top_overlap, without_some
from tests import explanations
from tests.explanations import EFFORT, TRUE, WORDS, car_score

explanation = explanations.explanation


def test_a_post_of_two_words_can_be_judged_for_stability(predictor: Predictor) -> None:
    effort = Effort(samples=8, steps=2, seed=0)
    noise, seeds = stability(predictor, explain_text(predictor, "car engine", effort), effort)
    assert set(noise) == set(METHODS) and np.isnan(noise["shap"]) and np.isfinite(seeds)


def test_stability_of_a_long_post_lets_nothing_move_up_from_its_tail(predictor: Predictor) -> None:
    explained = explain_text(predictor, "the car has a new engine " * 8, Effort(20, 4, 0))
    assert explained.tail
    noise, seeds = stability(predictor, explained, Effort(20, 4, 0))
    assert set(noise) == set(METHODS)
    assert -1 <= seeds <= 1


def test_rank_correlation_and_overlap() -> None:
    first = np.array([0.1, -0.9, 0.5, 0.2])
    assert rank_correlation(first, np.array([2.0, 1.0, 4.0, 3.0])) == pytest.approx(1)
    assert rank_correlation(first, -first) == pytest.approx(-1)
    assert np.isnan(rank_correlation(first, np.ones(4)))
    values = {"ig": first, "attention": np.abs(first)}
    assert correlation("ig", "attention", values) == pytest.approx(1)  # attention has sizes alone
    assert correlation("ig", "lime", values | {"lime": np.abs(first)}) < 0.5
    assert top_overlap(first, np.array([0.0, 1.0, -2.0, 0.5]), 2) == 1
    assert top_overlap(first, np.array([9.0, 0.0, 1.0, 8.0]), 2) == 0


def test_eraser_prefers_the_words_that_matter() -> None:
    comprehensive, sufficient = eraser(lambda texts: car_score(texts)[:, 0], WORDS, [TRUE, -TRUE])
    assert comprehensive[0] > comprehensive[1]
    assert sufficient[0] < sufficient[1]


@given(st.integers(2, 60), st.floats(0, 0.9), st.integers(0, 9))
def test_dropped_words_are_at_least_one_and_never_all(words: int, share: float, seed: int) -> None:
    kept = without_some(words, share, np.random.default_rng(seed))
    assert 1 <= len(kept) < words
    assert (np.diff(kept) > 0).all()


def test_a_summary_brackets_its_mean_and_leaves_out_what_is_undefined() -> None:
    values = [*np.random.default_rng(0).normal(1, 0.1, 50), float("nan")]
    result = summary("score", values, seed=0)
    low, high = result["score_95"]
    assert low < result["score"] < high
    assert high - low == pytest.approx(4 * 0.1 / np.sqrt(50), rel=0.4)
    assert summary("score", [float("nan")], seed=0) == {"score": None, "score_95": None}


@pytest.fixture(scope="module")
def report(predictor: Predictor, explanation: Explanation) -> dict:
    judged = [judge(predictor, explanation, 3, seed) for seed in (1, 2)]
    return compare([explanation] * 2, judged, [stability(predictor, explanation, EFFORT)], seed=0)


def test_comparison_has_every_method_and_pair(report: dict) -> None:
    assert list(report["methods"]) == [*METHODS, "random"]
    assert len(report["pairs"]) == 36
    assert len(report["heads"]) == 2
    for row in report["methods"].values():
        low, high = row["comprehensiveness_95"]
        assert low <= row["comprehensiveness"] <= high
    assert report["methods"]["linear"]["texts"] == 0
    assert -1 <= report["methods"]["lime"]["seeds"] <= 1
    assert "seeds" not in report["methods"]["shap"]


def test_differences_are_paired(report: dict) -> None:
    for one, other in (("attention", "random"), ("attention", "ig"), ("occlusion", "spans"), ("occlusion", "linear")):
        means = [report["methods"][name]["comprehensiveness"] for name in (one, other)]
        assert report[f"{one}_over_{other}"]["comprehensiveness"] == pytest.approx(means[0] - means[1])


def test_a_difference_is_told_post_by_post(predictor: Predictor, explanation: Explanation) -> None:
    posts = 20
    easy = np.linspace(0, 0.8, posts)
    plain = judge(predictor, explanation, 3, 1)
    judged = [
        dataclasses.replace(plain, comprehensiveness=dict.fromkeys(plain.comprehensiveness, each) | {"ig": each + 0.1})
        for each in easy
    ]
    stable = [stability(predictor, explanation, EFFORT)]
    found = compare([explanation] * posts, judged, stable, seed=0)
    low, high = found["methods"]["attention"]["comprehensiveness_95"]
    assert high - low > 0.1, "posts differ much"
    assert found["attention_over_ig"]["comprehensiveness_95"] == pytest.approx([-0.1, -0.1]), "methods always alike"


@pytest.mark.parametrize(
    ("over_random", "over_ig", "words"),
    [
        ([0.1, 0.2], [-0.3, -0.1], "is better than a random ranking and worse than integrated gradients"),
        ([-0.1, 0.2], [-0.3, -0.1], "is not told apart from a random ranking and worse than integrated gradients"),
        ([-0.2, -0.1], [-0.1, 0.1], "is worse than a random ranking and not told apart from integrated gradients"),
        ([0.1, 0.2], [0.1, 0.2], "is better than a random ranking and better than integrated gradients"),
    ],
)
def test_the_verdict_follows_the_figures(report: dict, over_random: list, over_ig: list, words: str) -> None:
    gains = {"attention_over_random": over_random, "attention_over_ig": over_ig}
    changed = report | {name: {"comprehensiveness_95": bounds} for name, bounds in gains.items()}
    assert words.replace("is ", "attention is ", 1) in verdict(changed)
