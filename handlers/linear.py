"""The wide part: TF-IDF and linear weights, read from text and safetensors; no scikit-learn in a worker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from handlers.words import TOKEN

TERMS_FILE = "linear-terms.txt"
WEIGHTS_FILE = "linear.safetensors"


class Linear:
    """Sublinear TF-IDF over words and n-grams, then one linear score a class.

    The same numbers as scikit-learn's `TfidfVectorizer(sublinear_tf=True)` and a linear model's `decision_function`
    (https://scikit-learn.org/stable/modules/feature_extraction.html#tfidf-term-weighting).
    """

    def __init__(self, terms: Sequence[str], idf: np.ndarray, weights: np.ndarray, bias: np.ndarray) -> None:
        """terms: words and n-grams joined by a space. idf [terms], weights [terms, classes], bias [classes]."""
        self.terms = list(terms)
        self.idf = idf
        self.weights = weights
        self.bias = bias
        self._index = {term: position for position, term in enumerate(self.terms)}
        self._longest = max((term.count(" ") + 1 for term in self.terms), default=1)

    def vector(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """The known terms of a cleaned post and their TF-IDF values of unit L2 norm: (positions, values)."""
        words = TOKEN.findall(text.lower())
        index = self._index
        counts: Counter[int] = Counter()
        for size in range(1, self._longest + 1):
            grams = words if size == 1 else map(" ".join, zip(*(words[start:] for start in range(size)), strict=False))
            counts.update(index[gram] for gram in grams if gram in index)
        positions = np.fromiter(counts.keys(), dtype=np.int64, count=len(counts))
        values = 1.0 + np.log(np.fromiter(counts.values(), dtype=np.float32, count=len(counts)))
        values *= self.idf[positions]
        return positions, values / max(float(np.linalg.norm(values)), 1e-12)

    def unknown(self, text: str) -> tuple[int, int]:
        """Words of a cleaned post, and how many of them are no term: (words, unknown)."""
        words = TOKEN.findall(text.lower())
        return len(words), sum(word not in self._index for word in words)

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """Decision values [posts, classes] of cleaned posts."""
        scores = np.empty((len(texts), len(self.bias)), dtype=np.float32)
        for row, text in enumerate(texts):
            positions, values = self.vector(text)
            scores[row] = values @ self.weights[positions] + self.bias
        return scores

    def save(self, folder: Path) -> None:
        """Write the terms as text, a line each, and the numbers as safetensors."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / TERMS_FILE).write_text("\n".join(self.terms) + "\n", encoding="utf-8")
        save_file({"idf": self.idf, "weights": self.weights, "bias": self.bias}, folder / WEIGHTS_FILE)

    @classmethod
    def load(cls, folder: Path) -> Linear:
        """Read what `save` wrote. Raises FileNotFoundError where a file is missing."""
        terms = (folder / TERMS_FILE).read_text(encoding="utf-8").split("\n")[:-1]
        return cls(terms, **load_file(folder / WEIGHTS_FILE))
