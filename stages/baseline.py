"""Stage `baseline`: TF-IDF and a linear SVM, the measure to beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.svm import LinearSVC

from handlers.linear import Linear
from stages.corpus import load_split
from stages.files import replacing, write_json
from stages.fitting import scored, vectorizer
from stages.params import Baseline, load
from stages.paths import BASELINE, METRICS, PREPARED
from stages.stage import stage
from stages.tfidf import fit_transform


def fit(texts: Sequence[str], labels: Sequence[int], settings: Baseline, seed: int) -> Linear:
    """Train on cleaned texts (one-versus-rest LinearSVC, as scikit-learn's own 20 Newsgroups example).

    Raises StageError where min_df leaves no term.
    """
    terms = vectorizer(settings)
    vectors = fit_transform(terms, texts, "baseline")
    model = LinearSVC(C=settings.c, random_state=seed).fit(vectors, labels)
    coefficients, intercept = model.coef_, model.intercept_
    if len(intercept) == 1:
        # Of two classes scikit-learn keeps one score, that of the second.
        coefficients, intercept = np.vstack([-coefficients, coefficients]), np.hstack([-intercept, intercept])
    return Linear(
        terms.get_feature_names_out().tolist(),
        terms.idf_.astype(np.float32),
        np.ascontiguousarray(coefficients.T, dtype=np.float32),
        intercept.astype(np.float32),
    )


def main() -> None:
    with stage("baseline"):
        params = load()
        train = load_split(PREPARED, "train")
        linear = fit(list(train["clean"]), list(train["label"]), params.baseline, params.seed)
        with replacing(BASELINE) as folder:
            linear.save(folder)
        write_json(METRICS / "baseline.json", {"terms": len(linear.terms), **scored(linear, PREPARED)})


if __name__ == "__main__":
    main()
