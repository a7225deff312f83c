"""Contributions of words: exact where exactness is promised, aligned word by word."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from handlers import explaining
from handlers.predictor import Predictor
from handlers.text import Encoded, Encoder
from stages import attribution
from stages.attention import encode_words
from stages.explanation import METHODS, Effort, Explanation, Scorer, attribute, explain_text
from stages.stage import StageError
from tests import explanations
from tests.conftest import answer_probabilities
from tests.explanations import EFFORT, TEXT, TRUE, WORDS, car_score

explanation = explanations.explanation


def test_lime_and_shap_find_an_additive_model() -> None:
    np.testing.assert_allclose(attribution.lime(car_score, WORDS, 2, 400, seed=0), [TRUE, 2 * TRUE], atol=0.04)
    np.testing.assert_allclose(attribution.shap_values(car_score, WORDS, 400), [TRUE, 2 * TRUE], atol=1e-9)


def test_shap_values_sum_to_the_score_when_calls_run_out() -> None:
    words = ["car", "moon", *["of"] * 60, "car"]
    values = attribution.shap_values(car_score, words, samples=20)
    np.testing.assert_allclose(values.sum(axis=1), [0.3, 0.6])


def test_a_word_alone_has_the_whole_difference() -> None:
    np.testing.assert_allclose(
        attribution.shap_values(car_score, ["car"], 20), (car_score(["car"]) - car_score([""])).T
    )


def test_lime_is_seeded() -> None:
    first, again, other = (attribution.lime(car_score, WORDS, 2, 50, seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_integrated_gradients_sum_to_the_difference_of_the_ends(predictor: Predictor) -> None:
    words, tail = predictor.cleaning(TEXT).split(), ["hockey", "game"]
    labels = [0, 1, 2]
    values = attribution.integrated_gradients(predictor, words, tail, labels, steps=40)
    end = Scorer(predictor, tail)([" ".join(words)])[0]
    # The other end, built apart: padding in the place of every piece, and no linear share of these words.
    encoding, owners = encode_words(predictor, words)
    pad = predictor.engine.model.config.pad_id
    padded = [pad if owner >= 0 else token for owner, token in zip(owners, encoding.ids, strict=True)]
    engine = predictor.engine
    # Padding as a token to read, not one to mask.
    with torch.inference_mode():
        deep = engine.model(torch.tensor([padded]), torch.ones(1, len(padded), dtype=torch.long)).log_softmax(-1)[0]
    every = explaining.linear_shares(predictor.linear, [*words, *tail])[len(words) :].sum(axis=0)
    joint = predictor.fusion.deep * deep.numpy() + predictor.fusion.wide * (every + predictor.linear.bias)
    start = predictor.fusion.log_full(joint[None])[0]
    for row, label in zip(values, labels, strict=True):
        fall = explaining.log_odds(end, label) - explaining.log_odds(start, label)
        assert row.sum() == pytest.approx(fall, abs=2e-3)


def test_explanation_is_of_the_full_model_on_raw_text(predictor: Predictor, explanation: Explanation) -> None:
    full = answer_probabilities(predictor, [TEXT], fast_path=False)[0]
    np.testing.assert_allclose(explanation.probabilities, full, atol=1e-6)
    assert explanation.predicted == full.argmax()
    assert explanation.words == ["the", "car", "has", "a", "new", "engine", "oil", "brakes", "and", "the", "car"]
    assert list(explanation.attributions) == [explanation.predicted, (explanation.predicted + 1) % 3]
    empty = answer_probabilities(predictor, [""], fast_path=False)[0]
    for label, values in explanation.attributions.items():
        assert set(values) == set(METHODS) == set(explanation.seconds) == set(explanation.texts)
        assert {len(row) for row in values.values()} == {11}
        gain = np.diff(explaining.log_odds(np.log([empty, full]), label))
        assert values["shap"].sum() == pytest.approx(gain, abs=1e-4)


def test_the_served_explanation_is_the_offline_one(predictor: Predictor, explanation: Explanation) -> None:
    for method in explaining.METHODS:
        for label, values in explanation.attributions.items():
            served = explaining.explain(predictor, TEXT, label, method, budget=100)
            np.testing.assert_allclose([value for _, value in served], values[method], atol=1e-5)


def test_texts_scored_are_counted(explanation: Explanation) -> None:
    assert explanation.texts["lime"] == EFFORT.samples
    assert 2 < explanation.texts["shap"] <= EFFORT.samples + 2
    assert explanation.texts["occlusion"] == 12
    assert explanation.texts["linear"] == 0


def test_long_posts_keep_their_tail(predictor: Predictor) -> None:
    text = "car " * 40 + "moon " * 50
    explained = explain_text(predictor, text, Effort(20, 4, 0))
    assert len(explained.words) == 30  # the tiny transformer reads 32 tokens, two of them special
    assert explained.tail == ["car"] * 10 + ["moon"] * 50
    np.testing.assert_allclose(
        explained.probabilities, answer_probabilities(predictor, [text], fast_path=False)[0], atol=1e-6
    )


def test_every_text_scored_is_one_that_cleaning_could_give(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[str] = []
    usual = Encoder.__call__

    def noted(encoder: Encoder, texts: Sequence[str]) -> list[Encoded]:
        scored.extend(texts)
        return usual(encoder, texts)

    monkeypatch.setattr(Encoder, "__call__", noted)
    attribute(predictor, predictor.cleaning(TEXT).split(), ["game"], [0], EFFORT)
    assert len(scored) > EFFORT.samples
    assert scored == [predictor.cleaning(text) for text in scored]


def test_a_post_of_one_word_is_explained(predictor: Predictor) -> None:
    explained = explain_text(predictor, "Hockey!", EFFORT)
    assert explained.words == ["hockey"]
    whole, empty = np.log(answer_probabilities(predictor, ["hockey", ""], fast_path=False))
    values = explained.attributions[explained.predicted]
    assert set(values) == set(METHODS)
    gain = explaining.log_odds(whole, explained.predicted) - explaining.log_odds(empty, explained.predicted)
    for method in ("shap", "occlusion", "spans"):
        assert values[method] == pytest.approx([gain], abs=1e-4)
    assert values["attention"] == values["rollout"] == [1.0]


@pytest.mark.parametrize("text", ["", "42 !!"])
def test_a_post_without_words_is_a_clear_error(predictor: Predictor, text: str) -> None:
    with pytest.raises(StageError, match="leaves no word of the post"):
        explain_text(predictor, text, EFFORT)
