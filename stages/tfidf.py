"""TF-IDF vectors of the training posts, or one line that says why there are none."""

from __future__ import annotations

from collections.abc import Sequence

from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer

from stages.stage import StageError


def fit_transform(terms: TfidfVectorizer, texts: Sequence[str], section: str) -> csr_matrix:
    """Fit `terms` on cleaned posts: their vectors, [posts, terms].

    section: of params.yaml, where min_df stands. Raises StageError where no term is left.
    """
    try:
        return terms.fit_transform(texts)
    except ValueError as error:
        if any(map(terms.build_analyzer(), texts)):
            raise StageError(f"no word is in {terms.min_df} of {len(texts)} posts: lower {section}.min_df") from error
        raise StageError(
            "no post has a word of two letters: set prepare.letters_only or prepare.stop_words to false, or add posts"
        ) from error
