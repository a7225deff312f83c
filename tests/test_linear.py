"""The wide part gives scikit-learn's numbers without scikit-learn."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.svm import LinearSVC

from handlers.linear import TERMS_FILE, WEIGHTS_FILE, Linear
from handlers.words import TOKEN

WORDS = ["the", "car", "engine", "Moon", "PUCK", "orbit", "of", "a", "don't", "x2", "ıİé", "हिन्दी"]
TEXTS = st.lists(st.text() | st.lists(st.sampled_from(WORDS)).map(" ".join), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def fitted(corpus: tuple[list[str], list[int]]) -> tuple[TfidfVectorizer, LinearSVC, Linear]:
    """scikit-learn's pair, and ours with the same weights."""
    texts, labels = corpus
    vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=TOKEN.pattern)
    model = LinearSVC(random_state=0).fit(vectorizer.fit_transform(texts), labels)
    ours = Linear(
        vectorizer.get_feature_names_out().tolist(),
        vectorizer.idf_.astype(np.float32),
        np.ascontiguousarray(model.coef_.T, dtype=np.float32),
        model.intercept_.astype(np.float32),
    )
    return vectorizer, model, ours


@given(TEXTS)
def test_scores_are_scikit_learns(fitted: tuple[TfidfVectorizer, LinearSVC, Linear], texts: Sequence[str]) -> None:
    vectorizer, model, ours = fitted
    expected = model.decision_function(vectorizer.transform(texts))
    np.testing.assert_allclose(ours.scores(texts), expected, rtol=0, atol=1e-5)


def test_it_comes_back_from_disk_without_pickle(
    fitted: tuple[TfidfVectorizer, LinearSVC, Linear], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was pickled")

    for name in ("dump", "dumps", "load", "loads", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    ours = fitted[2]
    ours.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {TERMS_FILE, WEIGHTS_FILE}
    loaded = Linear.load(tmp_path)
    assert loaded.terms == ours.terms
    texts = ["the car has an engine", "", "nasa launched"]
    np.testing.assert_array_equal(loaded.scores(texts), ours.scores(texts))


def test_a_missing_file_is_an_error(fitted: tuple[TfidfVectorizer, LinearSVC, Linear], tmp_path: Path) -> None:
    fitted[2].save(tmp_path)
    (tmp_path / WEIGHTS_FILE).unlink()
    with pytest.raises(FileNotFoundError):
        Linear.load(tmp_path)
