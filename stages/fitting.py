"""What fitting the two linear models, the baseline and the wide part, has in common."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from handlers.linear import Linear
from handlers.words import TOKEN
from stages import metrics
from stages.corpus import load_split
from stages.params import Baseline, Wide

log = logging.getLogger(__name__)


def vectorizer(settings: Baseline | Wide) -> TfidfVectorizer:
    """Sublinear TF-IDF over words and n-grams, as `handlers.linear` serves it."""
    return TfidfVectorizer(
        sublinear_tf=True,
        ngram_range=(1, settings.ngrams),
        min_df=settings.min_df,
        max_features=settings.max_terms,
        token_pattern=TOKEN.pattern,
    )


def scored(linear: Linear, prepared: Path) -> dict[str, dict[str, float]]:
    """Accuracy and macro-F1 on the validation and the test split."""
    scores = {}
    for name in ("validation", "test"):
        split = load_split(prepared, name)
        counts = metrics.count(np.array(split["label"]), linear.scores(list(split["clean"])))
        scores[name] = metrics.rounded(
            {key: float(value) for key, value in metrics.headline(metrics.summary(counts)).items()}
        )
        log.info("%s: %s", name, scores[name])
    return scores
