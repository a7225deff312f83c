"""The explain stage: exact where exactness is promised, aligned word by word, judged, and safe to put on a page."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers import explaining
from handlers.predictor import Predictor
from stages import attribution, explain_page
from stages.attention import encode_words
from stages.comparison import compare, correlation, judge, stability, summary, verdict
from stages.corpus import features
from stages.evaluate import systems
from stages.explain import choose_posts, explain, format_table, read_post, short
from stages.explanation import METHODS, Effort, Explanation, Scorer, best_words, explain_text
from stages.faithfulness import eraser, rank_correlation, top_overlap, without_some
from stages.scoring import load_predictor
from stages.stage import StageError
from tests.conftest import LABELS

TEXT = "The CAR has a new engine; oil & <brakes>, and the car?"
EFFORT = Effort(samples=60, steps=12, seed=0)


@pytest.fixture(scope="module")
def predictor(tiny_bundle: Path) -> Predictor:
    return load_predictor(tiny_bundle)


@pytest.fixture(scope="module")
def explanation(predictor: Predictor) -> Explanation:
    """Of the predicted class and, told that it is another one, of the actual class."""
    predicted = int(predictor.probabilities([TEXT], fast_path=False)[0].argmax())
    return explain_text(predictor, TEXT, EFFORT, actual=(predicted + 1) % len(LABELS))


def car_score(texts: list[str]) -> np.ndarray:
    """A model that one can explain by hand: each `car` adds 0.2 and each `moon` takes 0.1; its second class doubles."""
    score = np.array([0.3 + 0.2 * text.split().count("car") - 0.1 * text.split().count("moon") for text in texts])
    return np.stack([score, 2 * score], axis=1)


WORDS = ["the", "car", "near", "the", "moon", "is", "a", "car"]
TRUE = np.array([0, 0.2, 0, 0, -0.1, 0, 0, 0.2])


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


def test_a_post_of_two_words_can_be_judged_for_stability(predictor: Predictor) -> None:
    effort = Effort(samples=8, steps=2, seed=0)
    noise, seeds = stability(predictor, explain_text(predictor, "car engine", effort), effort)
    assert set(noise) == set(METHODS) and np.isnan(noise["shap"]) and np.isfinite(seeds)


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
    full = predictor.probabilities([TEXT], fast_path=False)[0]
    np.testing.assert_allclose(explanation.probabilities, full, atol=1e-6)
    assert explanation.predicted == full.argmax()
    assert explanation.words == ["the", "car", "has", "a", "new", "engine", "oil", "brakes", "and", "the", "car"]
    assert list(explanation.attributions) == [explanation.predicted, (explanation.predicted + 1) % 3]
    empty = predictor.probabilities([""], fast_path=False)[0]
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
    np.testing.assert_allclose(explained.probabilities, predictor.probabilities([text], fast_path=False)[0], atol=1e-6)


def test_stability_of_a_long_post_lets_nothing_move_up_from_its_tail(predictor: Predictor) -> None:
    explained = explain_text(predictor, "the car has a new engine " * 8, Effort(20, 4, 0))
    assert explained.tail
    noise, seeds = stability(predictor, explained, Effort(20, 4, 0))
    assert set(noise) == set(METHODS)
    assert -1 <= seeds <= 1


@pytest.mark.parametrize("text", ["", "42 !!", "word"])
def test_too_little_text_is_a_clear_error(predictor: Predictor, text: str) -> None:
    with pytest.raises(StageError, match="fewer than two words"):
        explain_text(predictor, text, EFFORT)


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


def test_posts_are_chosen_by_rule_and_class() -> None:
    random = np.random.default_rng(0)
    actual, predicted, confidence = random.integers(3, size=180), random.integers(3, size=180), random.random(180)
    eligible = random.random(180) > 0.2
    chosen = choose_posts(actual, predicted, confidence, eligible, 18, seed=4)
    assert chosen == choose_posts(actual, predicted, confidence, eligible, 18, seed=4)
    assert len({index for index, _ in chosen}) == 18
    counts = {(actual[index], rule): 0 for index, rule in chosen}
    right = actual == predicted
    for index, rule in chosen:
        counts[actual[index], rule] += 1
        assert eligible[index]
        assert right[index] == rule.startswith("right")
        alike = eligible & (right == right[index]) & (actual == actual[index])
        assert (confidence[index] < np.median(confidence[alike])) == rule.endswith("unsure")
    assert set(counts.values()) == {2}
    assert len(counts) == 9


@settings(max_examples=40)
@given(st.integers(0, 12), st.integers(1, 20))
def test_choice_takes_what_there_is(posts_there: int, posts: int) -> None:
    zeros = np.zeros(posts_there, dtype=int)
    chosen = choose_posts(zeros, zeros, np.linspace(0, 1, posts_there), np.ones(posts_there, dtype=bool), posts, 0)
    assert len({index for index, _ in chosen}) == len(chosen) == min(posts, posts_there)


def test_the_shortest_usable_posts_are_compared() -> None:
    posts = ["", "one", *("word " * length for length in range(2, 22))]
    assert np.flatnonzero(short(posts)).tolist() == [2, 3, 4]
    assert not short(["", "one"]).any()


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


class _Tags(HTMLParser):
    """Collects the tags and the addresses of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]


@settings(max_examples=40)
@given(st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=6))
def test_section_escapes_and_needs_no_network(explanation: Explanation, words: list[str]) -> None:
    nasty = ["<script>alert(1)</script>", '"><img/src=http://x>', *words]
    values = dict.fromkeys(METHODS, np.linspace(-1, 1, len(nasty)))
    hostile = dataclasses.replace(explanation, words=nasty, attributions={0: values, 1: values})
    html = explain_page.post(1, "wrong & <sure>", 1, hostile, ["<b>", "<i>", "<u>"], (b"png", b"png"), top=3)
    tags = _Tags()
    tags.feed(html)
    assert not {"script", "i", "u"} & set(tags.tags)
    assert tags.tags.count("img") == 2
    assert all(address.startswith("data:") for address in tags.addresses)
    assert "&lt;script&gt;" in html


def test_stage_writes_section_plot_and_metrics(
    predictor: Predictor, corpus: tuple[list[str], list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    texts, labels = corpus
    columns = {"id": [str(i) for i in range(len(texts))], "text": texts, "clean": texts, "label": labels}
    test = Dataset.from_dict(columns, features(list(LABELS)))
    _, _, logits = systems(predictor, texts, "test")
    arguments = {"posts": 2, "shown": 1, "top": 5, "effort": EFFORT}
    explain(predictor, test, logits, **arguments, plot=tmp_path / "p.png", metrics_file=tmp_path / "m.json")
    section = (tmp_path / "outputs/sections/explanation.html").read_text()
    assert section.count("<article") == 1
    assert verdict(json.loads((tmp_path / "m.json").read_text())) in section.replace("&#x27;", "'")
    assert (tmp_path / "p.png").stat().st_size > 1000
    report = json.loads((tmp_path / "m.json").read_text(), parse_constant=pytest.fail)
    assert report["posts"] == 2
    assert report["stability_posts"] == 1
    # A cascade whose linear part is always sure, and of the least likely class: right and wrong stay the full model's.
    contrary = copy.copy(predictor)
    contrary.fusion = dataclasses.replace(predictor.fusion, margin=0.0, fast=-predictor.fusion.fast)
    arguments |= {"shown": 2}
    explain(contrary, test, logits, **arguments, plot=tmp_path / "p.png", metrics_file=tmp_path / "m.json")
    section = (tmp_path / "outputs/sections/explanation.html").read_text()
    told = re.findall(r"<h3>\d+\. (right|wrong) and \w+: ([^<]+)</h3>.*?of class <strong>([^<]+)<", section, re.DOTALL)
    assert len(told) == 2 and all((rule == "right") == (named == actual) for rule, named, actual in told)


def test_a_file_that_is_no_text_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes("café".encode("latin-1"))
    with pytest.raises(StageError, match="not UTF-8 text"):
        read_post(tmp_path / "latin")
    with pytest.raises(StageError, match="cannot be read: No such file"):
        read_post(tmp_path / "missing")
    (tmp_path / "post").write_text("The café", encoding="utf-8")
    assert read_post(tmp_path / "post") == "The café"


def test_table_names_the_answer_and_the_strongest_words(explanation: Explanation) -> None:
    lines = format_table(explanation, LABELS, 3).splitlines()
    assert lines[0].startswith(f"{LABELS[explanation.predicted]} with probability")
    assert len(lines) == 5
    values = explanation.attributions[explanation.predicted][explaining.DEFAULT]
    strongest, value = best_words(explanation.words, values, 1)[0]
    assert re.match(rf"{strongest} {re.escape(f'{value:+.3f}')}", lines[2])
