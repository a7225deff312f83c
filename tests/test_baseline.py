"""The linear part as trained: it classifies, and two classes give two scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stages.baseline import fit
from stages.params import Baseline
from stages.stage import StageError

SETTINGS = Baseline(ngrams=2, min_df=1, max_terms=1000, c=1.0)


def test_fit_separates_the_tiny_corpus(corpus: tuple[list[str], list[int]]) -> None:
    texts, labels = corpus
    linear = fit(texts, labels, SETTINGS, seed=0)
    assert linear.scores(texts).argmax(axis=1).tolist() == labels


def test_max_terms_prunes(corpus: tuple[list[str], list[int]]) -> None:
    texts, labels = corpus
    small = Baseline(ngrams=2, min_df=1, max_terms=10, c=1.0)
    assert len(fit(texts, labels, small, seed=0).terms) == 10


@pytest.mark.parametrize(
    ("min_df", "texts", "message"),
    [
        (5, ["the car", "the moon"], r"no word is in 5 of 2 posts: lower baseline\.min_df"),
        (2, ["red car", "full moon"], r"no word is in 2 of 2 posts: lower baseline\.min_df"),
        (1, ["a b", "c"], r"set prepare\.letters_only or prepare\.stop_words to false"),
    ],
    ids=["min_df above the corpus", "no shared word", "one-letter words"],
)
def test_posts_without_a_term_name_the_parameter(min_df: int, texts: list[str], message: str) -> None:
    with pytest.raises(StageError, match=message):
        fit(texts, [0, 1], replace(SETTINGS, min_df=min_df), seed=0)


@pytest.mark.parametrize("flipped", [False, True])
def test_two_classes_get_a_score_each(corpus: tuple[list[str], list[int]], flipped: bool) -> None:
    texts, labels = corpus[0][:6], [label ^ flipped for label in corpus[1][:6]]
    linear = fit(texts, labels, SETTINGS, seed=0)
    scores = linear.scores(texts)
    assert scores.shape == (6, 2)
    np.testing.assert_allclose(scores[:, 0], -scores[:, 1], atol=1e-6)
    assert scores.argmax(axis=1).tolist() == labels
