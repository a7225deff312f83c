"""How important each word of a post is, so that augmentation deletes what matters least."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix
from scipy.special import softmax
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import SGDClassifier

from handlers.words import TOKEN
from stages.tfidf import fit_transform


class Importance:
    """Importance of words within a post, by a model of all training posts.

    tfidf: the word's TF-IDF value. gradient: how much, to first order, the log-probability of the post's own class
    changes when that value goes to zero, under logistic regression on the TF-IDF values (gradient times input;
    Simonyan et al. 2014, https://arxiv.org/abs/1312.6034, and Shrikumar et al. 2017, https://arxiv.org/abs/1704.02685).
    """

    def __init__(self, texts: Sequence[str], labels: Sequence[int], how: str, seed: int) -> None:
        """Raises StageError where no post has a word."""
        self._vectorizer = TfidfVectorizer(sublinear_tf=True, token_pattern=TOKEN.pattern)
        vectors = fit_transform(self._vectorizer, texts, "augment")
        self._analyze = self._vectorizer.build_analyzer()
        self._model = None
        if how == "gradient":
            self._model = SGDClassifier(loss="log_loss", alpha=1e-5, random_state=seed).fit(vectors, labels)

    def __call__(self, words: Sequence[str], label: int) -> list[float]:
        """Importance, zero or more, of each word of a post of class `label`; zero for what is not counted as a word."""
        row = self._vectorizer.transform([" ".join(words)])
        weights = row.data if self._model is None else np.abs(row.data * self._gradient(row, label))
        values = dict(zip(row.indices.tolist(), weights.tolist(), strict=True))
        terms = self._vectorizer.vocabulary_
        return [max((values.get(terms.get(term), 0.0) for term in self._analyze(word)), default=0.0) for word in words]

    def _gradient(self, row: csr_matrix, label: int) -> np.ndarray:
        """Of log softmax(scores)[label] by each value of the row, [values]."""
        coefficients, scores = self._model.coef_, self._model.decision_function(row)
        if len(coefficients) == 1:
            # Of two classes scikit-learn keeps one score, that of the second.
            coefficients, scores = np.vstack([-coefficients, coefficients]) / 2, np.array([[-scores[0], scores[0]]]) / 2
        own = coefficients[:, row.indices]
        return own[label] - softmax(scores[0]) @ own
