"""Posts in, answers out: order, batches, the cascade, and posts that nobody should send."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.fusion import Fusion
from handlers.linear import Linear
from handlers.predictor import Answer, Predictor
from handlers.text import FEWEST_BATCHES, Cleaning
from handlers.torch_engine import TorchEngine
from tests.conftest import answer_probabilities

# The first three reach the margin of the tiny bundle's cascade, the last three do not.
POSTS = [
    "My old CAR needs brakes and oil!",
    "engine oil for the car",
    "The rocket reached orbit around the moon.",
    "",
    "a word that nobody knows",
    "car moon puck " * 40,
]


@pytest.fixture(scope="module")
def predictor(tiny_bundle: Path) -> Predictor:
    return Predictor(tiny_bundle, TorchEngine(tiny_bundle))


@pytest.fixture(scope="module")
def alone(predictor: Predictor) -> dict[bool, list[Answer]]:
    """Every post answered by itself, with and without the fast path."""
    return {fast_path: [predictor.predict([post], fast_path)[0] for post in POSTS] for fast_path in (True, False)}


def assert_same(answers: Sequence[Answer], expected: Sequence[Answer]) -> None:
    for one, other in zip(answers, expected, strict=True):
        assert (one.label, one.path, one.tokens, one.truncated) == (
            other.label,
            other.path,
            other.tokens,
            other.truncated,
        )
        np.testing.assert_allclose(one.probabilities, other.probabilities, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("call_tokens", "expected"), [(8, [[3, 3, 3], [31]]), (FEWEST_BATCHES, [[3, 3, 3, 31]])], ids=["cheap", "dear"]
)
def test_short_posts_share_a_call_with_a_long_one_only_where_a_call_costs_more_than_their_padding(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch, call_tokens: int, expected: list[list[int]]
) -> None:
    calls: list[list[int]] = []
    logits = predictor.engine.logits

    def counted(ids: Sequence[Sequence[int]]) -> np.ndarray:
        calls.append([len(item) for item in ids])
        return logits(ids)

    monkeypatch.setattr(predictor.engine, "logits", counted)
    monkeypatch.setattr(predictor.engine, "call_tokens", call_tokens)
    long, short = [2, *[5] * 29, 3], [2, 5, 3]
    together = predictor.logits([short, long, short, short])
    assert calls == expected
    np.testing.assert_allclose(together, [logits([item])[0] for item in (short, long, short, short)], atol=1e-5)


@pytest.mark.parametrize("fast_path", [True, False])
@settings(max_examples=20, deadline=None)
@given(order=st.lists(st.integers(0, len(POSTS) - 1), max_size=12))
def test_order_and_batchmates_change_no_answer(
    predictor: Predictor, alone: dict[bool, list[Answer]], fast_path: bool, order: list[int]
) -> None:
    together = predictor.predict([POSTS[index] for index in order], fast_path)
    assert_same(together, [alone[fast_path][index] for index in order])


def test_small_batches_change_no_answer(
    predictor: Predictor, alone: dict[bool, list[Answer]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor, "token_budget", 8)
    assert_same(predictor.predict(POSTS, fast_path=False), alone[False])


def test_logits_that_are_no_numbers_are_no_answer(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    def overflow(ids: Sequence[Sequence[int]]) -> np.ndarray:
        return np.full((len(ids), len(predictor.labels)), np.nan, dtype=np.float32)

    monkeypatch.setattr(predictor.engine, "logits", overflow)
    with pytest.raises(FloatingPointError, match="no numbers"):
        predictor.predict(POSTS, fast_path=False)


def test_sure_posts_never_reach_the_transformer(predictor: Predictor) -> None:
    paths = [(answer.path, answer.tokens > 0) for answer in predictor.predict(POSTS)]
    assert paths == [("linear", False)] * 3 + [("full", True)] * 3
    assert {answer.path for answer in predictor.predict(POSTS, fast_path=False)} == {"full"}


def test_both_paths_follow_the_fusion(predictor: Predictor) -> None:
    cleaned = [predictor.cleaning(post) for post in POSTS]
    scores = predictor.linear.scores(cleaned)
    logits = predictor.logits([item.ids for item in predictor.encoder(cleaned)])
    full = predictor.fusion.full(logits, scores)
    np.testing.assert_allclose(answer_probabilities(predictor, POSTS, fast_path=False), full, atol=1e-6)
    mixed = np.concatenate([predictor.fusion.alone(scores)[:3], full[3:]])
    np.testing.assert_allclose(answer_probabilities(predictor, POSTS), mixed, atol=1e-6)


def test_answers_hold_together(predictor: Predictor) -> None:
    for answer in predictor.predict(POSTS):
        assert answer.label == predictor.labels[int(answer.probabilities.argmax())]
        assert answer.probabilities.sum() == pytest.approx(1)
    assert predictor.predict(["car moon puck " * 40], fast_path=False)[0].truncated


@pytest.mark.parametrize("fast_path", [True, False])
@pytest.mark.parametrize(
    "post",
    ["", " \n\t", "\x00\x01", "\u0301", "a" * 2**20, "car " * 2**18, "\U0001f680" * 1000, "lone \ud800 surrogate"],
    ids=["empty", "blank", "control", "mark", "one word of 1 MB", "1 MB of words", "rockets", "surrogate"],
)
@pytest.mark.parametrize("letters_only", [True, False])
def test_any_post_is_answered(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch, post: str, fast_path: bool, letters_only: bool
) -> None:
    monkeypatch.setattr(predictor, "cleaning", Cleaning(letters_only))
    [odd, usual] = predictor.predict([post, POSTS[0]], fast_path)
    assert np.isfinite(odd.probabilities).all()
    assert usual.label == predictor.predict([POSTS[0]], fast_path)[0].label


def test_no_posts_give_no_answers(predictor: Predictor) -> None:
    assert predictor.predict([]) == []


def test_a_bundle_mixed_from_two_runs_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    two_classes = Linear(["car"], np.ones(1, "f4"), np.ones((1, 2), "f4"), np.zeros(2, "f4"))
    two_classes.save(bundle)
    with pytest.raises(ValueError, match="2 classes, the transformer 3"):
        Predictor(bundle, TorchEngine(tiny_bundle))


@pytest.mark.parametrize(
    "file", ["tokenizer.json", "cleaning.json", "linear-terms.txt", "linear.safetensors", "fusion.json"]
)
def test_an_incomplete_bundle_is_refused(tiny_bundle: Path, tmp_path: Path, file: str) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    (bundle / file).unlink()
    with pytest.raises(FileNotFoundError):
        Predictor(bundle, TorchEngine(tiny_bundle))


def test_without_a_margin_every_post_is_read_in_full(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    Fusion(deep=0.5, wide=2.0, fast=3.0, margin=None).save(bundle)
    answers = Predictor(bundle, TorchEngine(tiny_bundle)).predict(POSTS)
    assert {answer.path for answer in answers} == {"full"}
