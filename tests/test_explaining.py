"""Word contributions as they are served: exact where exactness is promised, and never more work than allowed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.explaining import DEFAULT, METHODS, SPANS, BudgetError, explain, linear_shares, log_odds, words_read
from handlers.fusion import softmax
from handlers.predictor import Predictor
from handlers.torch_engine import TorchEngine
from tests.conftest import LABELS, answer_probabilities

POST = "The CAR has a new engine; oil & <brakes>, and the car?"


@pytest.fixture(scope="module")
def predictor(tiny_bundle: Path) -> Predictor:
    return Predictor(tiny_bundle, TorchEngine(tiny_bundle))


@pytest.fixture
def scored(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Posts of every call of the transformer, in order."""
    calls: list[int] = []
    logits = predictor.engine.logits

    def counted(ids: Sequence[Sequence[int]]) -> np.ndarray:
        calls.append(len(ids))
        return logits(ids)

    monkeypatch.setattr(predictor.engine, "logits", counted)
    return calls


@settings(max_examples=40)
@given(st.lists(st.sampled_from(["the", "car", "a", "moon", "engine", "ice", "unknown", "Orbit"]), max_size=30))
def test_linear_words_sum_to_the_scores(predictor: Predictor, words: list[str]) -> None:
    total = linear_shares(predictor.linear, words).sum(axis=0) + predictor.linear.bias
    np.testing.assert_allclose(total, predictor.linear.scores([" ".join(words)])[0], atol=1e-5)


def test_linear_is_the_wide_parts_share_of_the_fused_score(predictor: Predictor, scored: list[int]) -> None:
    explained = explain(predictor, POST, 0, "linear", budget=0)
    assert [word for word, _ in explained] == predictor.cleaning(POST).split()
    share = predictor.linear.scores([predictor.cleaning(POST)])[0, 0] - predictor.linear.bias[0]
    assert sum(value for _, value in explained) == pytest.approx(predictor.fusion.wide * share, abs=1e-5)
    assert scored == []


def test_occlusion_of_the_transformer_alone_is_the_fall_of_the_log_odds(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    fusion = type(predictor.fusion)(deep=0.7, wide=0.0, fast=1.0, margin=None, flat=0.6)
    monkeypatch.setattr(predictor, "fusion", fusion)
    words = predictor.cleaning(POST).split()
    without = [" ".join(words[:i] + words[i + 1 :]) for i in range(len(words))]
    whole, *rest = np.log(odds := answer_probabilities(predictor, [POST, *without])[:, 1]) - np.log1p(-odds)
    values = [value for _, value in explain(predictor, POST, 1, "occlusion", budget=100)]
    np.testing.assert_allclose(values, whole - np.array(rest), atol=1e-5)


def test_a_span_divides_its_loss_equally(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor, "fusion", type(predictor.fusion)(deep=0.7, wide=0.0, fast=1.0, margin=None))
    values = np.array([value for _, value in explain(predictor, POST, 1, "spans", budget=100)])
    length = SPANS["spans"]
    for start in range(0, len(values), length):
        assert np.ptp(values[start : start + length]) < 1e-12
    assert len(np.unique(values.round(9))) == -(-len(values) // length)


@pytest.mark.parametrize("method", SPANS)
def test_work_is_known_beforehand_and_bounded(predictor: Predictor, scored: list[int], method: str) -> None:
    needed = 1 + -(-11 // SPANS[method])
    with pytest.raises(BudgetError, match=f"takes {needed} passes, {needed - 1} are allowed"):
        explain(predictor, POST, 0, method, needed - 1)
    assert scored == []
    assert len(explain(predictor, POST, 0, method, needed)) == 11
    assert sum(scored) == needed


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "post", ["", "42 !!", "car", "a" * 2**20, "car " * 2**15, "\ud800", "\U0001f680 moon"], ids=lambda post: post[:6]
)
def test_any_post_is_explained(predictor: Predictor, method: str, post: str) -> None:
    explained = explain(predictor, post, 2, method, budget=200)
    assert [word for word, _ in explained] == predictor.cleaning(post).split()
    assert all(np.isfinite(value) for _, value in explained)


def test_words_that_are_not_read_keep_their_linear_share(predictor: Predictor, scored: list[int]) -> None:
    post = "car " * 40 + "moon"
    read = words_read(predictor, post.split())
    assert read == predictor.encoder.max_tokens - 2  # every word is one piece, and there are two special tokens
    explained = explain(predictor, post, LABELS.index("space"), DEFAULT, budget=100)
    assert sum(scored) <= read + 1
    word, value = explained[-1]
    assert word == "moon"
    assert value > 0


def test_an_unknown_method_is_named(predictor: Predictor) -> None:
    with pytest.raises(ValueError, match="'magic' is unknown: choose one of linear"):
        explain(predictor, POST, 0, "magic", budget=1)


@given(st.lists(st.floats(-8, 8), min_size=2, max_size=6), st.data())
def test_log_odds_are_those_of_the_probability(scores: list[float], data: st.DataObject) -> None:
    label = data.draw(st.integers(0, len(scores) - 1))
    probability = softmax(np.array([scores]))[0, label]
    assert log_odds(np.array(scores), label) == pytest.approx(np.log(probability) - np.log1p(-probability), abs=1e-6)


def test_a_worker_needs_nothing_of_the_explain_stage() -> None:
    code = "import sys, handlers.explaining; assert not {'torch', 'shap', 'lime', 'stages'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)
