"""Explanations explained: do the methods agree, and do the words they name matter to the model?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import spearmanr

from stages.attribution import Score

SHARES = (0.05, 0.1, 0.2, 0.5)  # of the words that ERASER's scores remove or keep


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's correlation of the sizes of two attributions, over the words that both have (NaN: has not).

    Sizes, because attention knows no sign. NaN where one of them is constant.
    """
    both = np.isfinite(first) & np.isfinite(second)
    sizes = np.abs(first[both]), np.abs(second[both])
    if both.sum() < 2 or any(np.ptp(size) == 0 for size in sizes):
        return float("nan")
    return float(spearmanr(*sizes).statistic)


def top_overlap(first: np.ndarray, second: np.ndarray, top: int) -> float:
    """Share of the `top` words of largest size that two attributions have in common, over words that both have."""
    both = np.isfinite(first) & np.isfinite(second)
    count = min(top, int(both.sum()))
    if not count:
        return float("nan")
    sets = [set(np.argsort(-np.abs(values[both]), kind="stable")[:count].tolist()) for values in (first, second)]
    return len(sets[0] & sets[1]) / count


def eraser(
    score: Score, words: Sequence[str], tail: Sequence[str], rankings: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Comprehensiveness and sufficiency (DeYoung et al. 2020, https://aclanthology.org/2020.acl-main.408), one each a
    ranking of the words.

    The drop of the score when the words that speak most for the class are removed (higher is better), or alone are
    kept (lower is better); mean over SHARES of the words. rankings: attributions [words]; words without one (NaN) come
    last. tail: words after them that no method ranks, so that they stay, or go, with the rest.
    """
    texts = [" ".join([*words, *tail])]
    for ranking in rankings:
        order = np.argsort(-np.nan_to_num(ranking, nan=-np.inf), kind="stable")
        for share in SHARES:
            chosen = set(order[: max(1, round(share * len(words)))].tolist())
            texts.append(" ".join([*(word for i, word in enumerate(words) if i not in chosen), *tail]))
            texts.append(" ".join(word for i, word in enumerate(words) if i in chosen))
    scores = score(texts)
    drops = (scores[0] - scores[1:]).reshape(len(rankings), len(SHARES), 2).mean(axis=1)
    return drops[:, 0], drops[:, 1]
