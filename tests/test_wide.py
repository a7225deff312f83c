"""The wide part as trained: its ratios by hand, and serving that knows nothing of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse
from sklearn.svm import LinearSVC

from stages.fitting import vectorizer
from stages.params import Wide
from stages.stage import StageError
from stages.wide import fit, log_count_ratio

SETTINGS = Wide(ngrams=2, min_df=1, max_terms=1000, smoothing=1.0, c=1.0)


def test_ratio_by_hand() -> None:
    presence = sparse.csr_matrix(np.array([[1, 0], [1, 1], [0, 1]], dtype=float))
    ratio = log_count_ratio(presence, np.array([True, True, False]), 1.0)
    # Counts with one added: inside 3 and 2 of 5, outside 1 and 2 of 3.
    np.testing.assert_allclose(ratio, np.log([(3 / 5) / (1 / 3), (2 / 5) / (2 / 3)]))


def test_it_classifies_and_its_scores_are_those_of_the_scaled_vectors(corpus: tuple[list[str], list[int]]) -> None:
    texts, labels = corpus
    linear = fit(texts, labels, SETTINGS, seed=0)
    assert linear.scores(texts).argmax(axis=1).tolist() == labels
    vectors = vectorizer(SETTINGS).fit_transform(texts)
    inside = np.array(labels) == 1
    scaled = vectors @ sparse.diags(log_count_ratio((vectors > 0).astype(float), inside, SETTINGS.smoothing))
    expected = LinearSVC(C=SETTINGS.c, random_state=0).fit(scaled, inside).decision_function(scaled)
    np.testing.assert_allclose(linear.scores(texts)[:, 1], expected, atol=1e-5)


def test_posts_without_a_term_name_the_parameter() -> None:
    with pytest.raises(StageError, match=r"lower wide\.min_df"):
        fit(["red car", "full moon"], [0, 1], replace(SETTINGS, min_df=2), seed=0)


@pytest.mark.parametrize("flipped", [False, True])
def test_two_classes_get_a_score_each(corpus: tuple[list[str], list[int]], flipped: bool) -> None:
    texts, labels = corpus[0][:6], [label ^ flipped for label in corpus[1][:6]]
    scores = fit(texts, labels, SETTINGS, seed=0).scores(texts)
    assert scores.shape == (6, 2)
    assert scores.argmax(axis=1).tolist() == labels
