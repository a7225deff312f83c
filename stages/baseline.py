"""Stage `baseline`: TF-IDF and a linear SVM, the measure to beat and the wide part of the model that ships."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import accuracy_score, f1_score
from sklearn.svm import LinearSVC

from handlers.linear import TOKEN_PATTERN, Linear
from stages.corpus import load_split
from stages.files import replacing, write_json
from stages.params import Baseline, load
from stages.paths import LINEAR, METRICS, PREPARED
from stages.stage import stage

log = logging.getLogger(__name__)


def fit(texts: Sequence[str], labels: Sequence[int], settings: Baseline, seed: int) -> Linear:
    """Train on cleaned texts (one-versus-rest LinearSVC, as scikit-learn's own 20 Newsgroups example)."""
    vectorizer = TfidfVectorizer(
        sublinear_tf=True,
        ngram_range=(1, settings.ngrams),
        min_df=settings.min_df,
        max_features=settings.max_terms,
        token_pattern=TOKEN_PATTERN,
    )
    vectors = vectorizer.fit_transform(texts)
    model = LinearSVC(C=settings.c, random_state=seed).fit(vectors, labels)
    coefficients, intercept = model.coef_, model.intercept_
    if len(intercept) == 1:
        # Of two classes scikit-learn keeps one score, that of the second.
        coefficients, intercept = np.vstack([-coefficients, coefficients]), np.hstack([-intercept, intercept])
    return Linear(
        vectorizer.get_feature_names_out().tolist(),
        vectorizer.idf_.astype(np.float32),
        np.ascontiguousarray(coefficients.T, dtype=np.float32),
        intercept.astype(np.float32),
    )


def main() -> None:
    with stage("baseline"):
        params = load()
        train = load_split(PREPARED, "train")
        linear = fit(list(train["clean"]), list(train["label"]), params.baseline, params.seed)
        scores = {}
        for name in ("validation", "test"):
            split = load_split(PREPARED, name)
            predicted = linear.scores(list(split["clean"])).argmax(axis=1)
            scores[name] = {
                "accuracy": round(accuracy_score(split["label"], predicted), 4),
                "macro_f1": round(f1_score(split["label"], predicted, average="macro"), 4),
            }
            log.info("%s: %s", name, scores[name])
        with replacing(LINEAR) as folder:
            linear.save(folder)
        write_json(METRICS / "baseline.json", {"terms": len(linear.terms), **scores})


if __name__ == "__main__":
    main()
