"""Stage `wide`: the wide part of what ships, a linear SVM over TF-IDF scaled by log-count ratios."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse
from sklearn.svm import LinearSVC

from handlers.linear import Linear
from stages.corpus import load_split
from stages.files import replacing, write_json
from stages.fitting import scored, vectorizer
from stages.params import Wide, load
from stages.paths import LINEAR, METRICS, PREPARED
from stages.stage import stage
from stages.tfidf import fit_transform


def fit(texts: Sequence[str], labels: Sequence[int], settings: Wide, seed: int) -> Linear:
    """Train on cleaned texts, one class against the rest, with each term scaled by its log-count ratio (NBSVM: Wang and
    Manning 2012, https://aclanthology.org/P12-2018, on TF-IDF in place of presence).

    The ratios go into the weights, so that serving is that of any other linear model. Raises StageError where min_df
    leaves no term.
    """
    terms = vectorizer(settings)
    vectors = fit_transform(terms, texts, "wide")
    presence = (vectors > 0).astype(np.float64)
    actual = np.asarray(labels)
    weights, bias = [], []
    for label in np.unique(actual):
        inside = actual == label
        ratio = log_count_ratio(presence, inside, settings.smoothing)
        model = LinearSVC(C=settings.c, random_state=seed).fit(vectors @ sparse.diags(ratio), inside)
        weights.append(ratio * model.coef_[0])
        bias.append(model.intercept_[0])
    return Linear(
        terms.get_feature_names_out().tolist(),
        terms.idf_.astype(np.float32),
        np.stack(weights, axis=1).astype(np.float32),
        np.array(bias, dtype=np.float32),
    )


def log_count_ratio(presence: sparse.csr_matrix, inside: np.ndarray, smoothing: float) -> np.ndarray:
    """How much likelier each term is in a class than outside of it, as a logarithm, [terms].

    presence: 0 or 1, [posts, terms]. inside: bool [posts]. smoothing: added to every term's count of posts.
    """
    shares = []
    for posts in (presence[inside], presence[~inside]):
        counts = smoothing + np.asarray(posts.sum(axis=0)).ravel()
        shares.append(np.log(counts / counts.sum()))
    return shares[0] - shares[1]


def main() -> None:
    with stage("wide"):
        params = load()
        train = load_split(PREPARED, "train")
        linear = fit(list(train["clean"]), list(train["label"]), params.wide, params.seed)
        with replacing(LINEAR) as folder:
            linear.save(folder)
        write_json(METRICS / "wide.json", {"terms": len(linear.terms), **scored(linear, PREPARED)})


if __name__ == "__main__":
    main()
