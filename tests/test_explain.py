"""Explanations: exact where exactness is promised, aligned word by word, and safe to put on a page."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.model import Classifier
from handlers.predictor import Predictor
from stages import attribution
from stages.attention import attention, head_means, merge, piece_words, rollout
from stages.corpus import features
from stages.evaluate import predictions, systems
from stages.explain import choose_posts, compare, explain, format_table
from stages.explain_page import page
from stages.explanation import MAX_WORDS, Explanation, best_words, explain_text
from stages.faithfulness import eraser, rank_correlation, top_overlap
from stages.scoring import load_predictor
from stages.stage import StageError
from tests.conftest import LABELS


@pytest.fixture(scope="module")
def predictor(tiny_bundle: Path) -> Predictor:
    return load_predictor(tiny_bundle)


@pytest.fixture(scope="module")
def explanation(predictor: Predictor) -> Explanation:
    return explain_text(predictor, "The CAR has a new engine; oil & <brakes>, and the car?", samples=120, seed=0)


def car_score(texts: list[str]) -> np.ndarray:
    """A model that one can explain by hand: each `car` adds 0.2, each `moon` takes 0.1."""
    return np.array([0.3 + 0.2 * text.split().count("car") - 0.1 * text.split().count("moon") for text in texts])


WORDS = ["the", "car", "near", "the", "moon", "is", "a", "car"]
TRUE = np.array([0, 0.2, 0, 0, -0.1, 0, 0, 0.2])


def test_lime_and_shap_find_an_additive_model() -> None:
    np.testing.assert_allclose(attribution.lime(car_score, WORDS, 400, seed=0), TRUE, atol=0.02)
    np.testing.assert_allclose(attribution.shap_values(car_score, WORDS, 400), TRUE, atol=1e-9)


def test_shap_values_sum_to_the_score_when_calls_run_out() -> None:
    words = ["car", "moon", *["of"] * 60, "car"]
    values = attribution.shap_values(car_score, words, samples=20)
    assert values.sum() == pytest.approx(0.3)


def test_lime_is_seeded() -> None:
    first, again, other = (attribution.lime(car_score, WORDS, 50, seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from(["the", "car", "a", "moon", "engine", "ice", "unknown", "Orbit"]), max_size=30))
def test_linear_words_sum_to_the_score(predictor: Predictor, words: list[str]) -> None:
    for label in range(len(LABELS)):
        total = attribution.linear(predictor.linear, words, label).sum() + predictor.linear.bias[label]
        assert total == pytest.approx(float(predictor.linear.scores([" ".join(words)])[0, label]), abs=1e-5)


def test_pieces_merge_into_their_words(predictor: Predictor) -> None:
    words = ["car", "unheardof", "moon's", "x"]
    encoding = predictor.encoder.tokenizer.encode(" ".join(words))
    owners = piece_words(words, encoding)
    for word, piece in zip(owners, encoding.tokens, strict=True):
        assert (
            word == -1 if piece in ("[CLS]", "[SEP]") else piece == "[UNK]" or piece.removeprefix("##") in words[word]
        )
    assert merge(np.arange(4.0), np.array([-1, 0, 0, 1])).tolist() == [3, 3]


def test_attention_of_whole_words_is_the_models(predictor: Predictor) -> None:
    words = ["my", "old", "car", "needs", "brakes", "and", "oil"]
    result = attention(predictor, words)
    assert result.last.sum() == pytest.approx(1)
    assert result.rollout.sum() == pytest.approx(1)
    assert result.matrix.shape == (len(words), len(words))
    encoding = predictor.encoder.tokenizer.encode(" ".join(words))
    assert encoding.tokens[1:-1] == words  # the tiny vocabulary has them all, so nothing is merged
    last = head_means(predictor.engine.model, encoding.ids, "cpu")[-1]
    np.testing.assert_allclose(result.matrix, last[1:-1, 1:-1])
    received = last.mean(axis=0)[1:-1]
    np.testing.assert_allclose(result.last, received / received.sum())


def test_rollout_of_a_layer_that_copies_is_the_identity() -> None:
    np.testing.assert_allclose(rollout(np.stack([np.eye(4)] * 3)), np.eye(4))


def test_rollout_rows_stay_distributions(predictor: Predictor, tiny_bundle: Path) -> None:
    ids = predictor.encoder(["engine oil for the car"])[0].ids
    layers = head_means(Classifier.load(tiny_bundle), ids, "cpu")
    assert layers.shape == (2, len(ids), len(ids))
    np.testing.assert_allclose(rollout(layers).sum(axis=1), 1, atol=1e-6)


def test_explanation_is_of_the_full_model_on_raw_text(predictor: Predictor, explanation: Explanation) -> None:
    text = "The CAR has a new engine; oil & <brakes>, and the car?"
    full = predictor.probabilities([text], fast_path=False)[0]
    assert explanation.probability == pytest.approx(full.max(), abs=1e-6)
    assert explanation.label == LABELS[full.argmax()]
    assert explanation.words == ["the", "car", "has", "a", "new", "engine", "oil", "brakes", "and", "the", "car"]
    assert set(explanation.attributions) == {"lime", "shap", "attention", "rollout", "linear"}
    assert all(len(values) == len(explanation.words) for values in explanation.attributions.values())
    empty = predictor.probabilities([""], fast_path=False)[0]
    gain = full[LABELS.index(explanation.label)] - empty[LABELS.index(explanation.label)]
    assert explanation.attributions["shap"].sum() == pytest.approx(gain, abs=1e-5)


def test_long_posts_keep_their_tail(predictor: Predictor) -> None:
    explained = explain_text(predictor, "car " * 150 + "moon " * 150, samples=20, seed=0)
    assert len(explained.words) == MAX_WORDS
    assert explained.tail == 100
    read = np.isfinite(explained.attributions["attention"])
    assert 0 < read.sum() < MAX_WORDS  # the tiny transformer reads 32 tokens
    assert not read[-1]
    assert np.isfinite(explained.attributions["shap"]).all()


@pytest.mark.parametrize("text", ["", "42 !!", "word"])
def test_too_little_text_is_a_clear_error(predictor: Predictor, text: str) -> None:
    with pytest.raises(StageError, match="fewer than two words"):
        explain_text(predictor, text, samples=20, seed=0)


def test_rank_correlation_and_overlap() -> None:
    first = np.array([0.1, -0.9, 0.5, np.nan])
    assert rank_correlation(first, np.array([1.0, 3.0, 2.0, 9.0])) == pytest.approx(1)
    assert rank_correlation(first, np.array([3.0, 1.0, 2.0, 9.0])) == pytest.approx(-1)
    assert np.isnan(rank_correlation(first, np.ones(4)))
    assert top_overlap(first, np.array([0.0, 1.0, 2.0, 9.0]), 2) == 1
    assert top_overlap(first, np.array([9.0, 1.0, 2.0, 9.0]), 1) == 0


def test_eraser_prefers_the_words_that_matter() -> None:
    comprehensive, sufficient = eraser(car_score, WORDS, ["car"], [TRUE, -TRUE])
    assert comprehensive[0] > comprehensive[1]
    assert sufficient[0] < sufficient[1]


def test_posts_are_chosen_by_rule() -> None:
    random = np.random.default_rng(0)
    actual, predicted, confidence = random.integers(3, size=90), random.integers(3, size=90), random.random(90)
    eligible = random.random(90) > 0.2
    chosen = choose_posts(actual, predicted, confidence, eligible, 6, seed=4)
    assert chosen == choose_posts(actual, predicted, confidence, eligible, 6, seed=4)
    assert len({index for index, _ in chosen}) == 6
    assert [rule for _, rule in chosen] == ["right and sure", "right and unsure", "wrong and sure"] * 2
    right = actual == predicted
    for index, rule in chosen:
        assert eligible[index]
        assert right[index] == rule.startswith("right")
        middle = np.median(confidence[eligible & (right == right[index])])
        assert (confidence[index] < middle) == rule.endswith("unsure")


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 12), st.integers(1, 20))
def test_choice_takes_what_there_is(posts_there: int, posts: int) -> None:
    zeros = np.zeros(posts_there, dtype=int)
    chosen = choose_posts(zeros, zeros, np.linspace(0, 1, posts_there), np.ones(posts_there, dtype=bool), posts, 0)
    assert len({index for index, _ in chosen}) == len(chosen) <= posts
    assert bool(chosen) == bool(posts_there)


class _Tags(HTMLParser):
    """Collects the tags and the addresses of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=6))
def test_page_escapes_and_needs_no_network(explanation: Explanation, words: list[str]) -> None:
    nasty = ["<script>alert(1)</script>", '"><img/src=http://x>', *words]
    values = {"lime": np.linspace(-1, 1, len(nasty)), "attention": np.full(len(nasty), np.nan)}
    hostile = Explanation(**{**vars(explanation), "words": nasty, "attributions": values, "label": "<b>"})
    html = page([("wrong & sure", "<i>", hostile, b"png")], top=3)
    tags = _Tags()
    tags.feed(html)
    assert "script" not in tags.tags
    assert "i" not in tags.tags
    assert tags.tags.count("img") == 1
    assert all(address.startswith(("#", "data:")) for address in tags.addresses)
    assert "prefers-color-scheme" in html
    assert "&lt;script&gt;" in html


def test_stage_writes_pictures_report_and_metrics(
    predictor: Predictor, corpus: tuple[list[str], list[int]], tmp_path: Path
) -> None:
    texts, labels = corpus
    columns = {"id": [str(i) for i in range(len(texts))], "text": texts, "clean": texts, "label": labels}
    test = Dataset.from_dict(columns, features(list(LABELS)))
    probabilities, fast = systems(predictor, texts, "test")
    answered = predictions(test, probabilities["shipped"], fast, list(LABELS))
    arguments = {"posts": 2, "samples": 60, "top": 5, "seed": 3}
    explain(predictor, test, answered, **arguments, plots_folder=tmp_path / "p", metrics_file=tmp_path / "m.json")
    names = {path.name for path in (tmp_path / "p").iterdir()}
    assert names == {"1.png", "1-attention.png", "2.png", "2-attention.png", "index.html"}
    assert all(path.stat().st_size < 300_000 for path in (tmp_path / "p").glob("*.png"))
    report = json.loads((tmp_path / "m.json").read_text(), parse_constant=pytest.fail)
    assert report["posts"] == 2
    assert set(report["faithfulness"]) == {"lime", "shap", "attention", "rollout", "linear", "random"}
    assert len(report["agreement"]) == 10
    assert -1 <= report["agreement"]["lime_shap"]["spearman"] <= 1
    with pytest.raises(StageError, match="evaluate stage"):
        explain(predictor, test.select([1, 0]), answered.select([0, 1]), **arguments,
                plots_folder=tmp_path / "q", metrics_file=tmp_path / "q.json")  # fmt: skip


def test_compare_of_one_constant_method_is_no_number(explanation: Explanation) -> None:
    flat = {"lime": np.ones(11), "shap": np.arange(11.0)}
    one = Explanation(**{**vars(explanation), "attributions": flat})
    assert compare([one], 3)["agreement"]["lime_shap"]["spearman"] is None


def test_table_names_the_answer_and_the_strongest_words(explanation: Explanation) -> None:
    lines = format_table(explanation, 3).splitlines()
    assert lines[0].startswith(f"{explanation.label} with probability")
    assert len(lines) == 5
    strongest, value = best_words(explanation.words, explanation.attributions["lime"], 1)[0]
    assert re.match(rf"{strongest} {re.escape(f'{value:+.3f}')}", lines[2])
