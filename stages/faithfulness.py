"""Explanations explained: do two methods agree, do the words they name matter to the model, do they stay the same?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import spearmanr

SHARES = (0.05, 0.1, 0.2, 0.5)  # of the words that ERASER's scores remove or keep


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's correlation of two attributions; NaN where one of them is constant or there are fewer than two words.

    Give sizes where one of the methods knows no sign.
    """
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(spearmanr(first, second).statistic)


def top_overlap(first: np.ndarray, second: np.ndarray, top: int) -> float:
    """Share of the `top` words of largest size that two attributions share; of few words, of half of them."""
    count = min(top, max(1, len(first) // 2))
    sets = [set(np.argsort(-np.abs(values), kind="stable")[:count].tolist()) for values in (first, second)]
    return len(sets[0] & sets[1]) / count


def eraser(
    probability: Callable[[Sequence[str]], np.ndarray], words: Sequence[str], rankings: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Comprehensiveness and sufficiency (DeYoung et al. 2020, https://aclanthology.org/2020.acl-main.408), one each a
    ranking of the words.

    The drop of the probability [texts] when the words that speak most for the class are removed (higher is better), or
    alone are kept (lower is better); mean over SHARES of the words. rankings: attributions [words].
    """
    texts = [" ".join(words)]
    for ranking in rankings:
        order = np.argsort(-ranking, kind="stable")
        for share in SHARES:
            chosen = set(order[: max(1, round(share * len(words)))].tolist())
            texts.append(" ".join(word for i, word in enumerate(words) if i not in chosen))
            texts.append(" ".join(word for i, word in enumerate(words) if i in chosen))
    whole, *others = probability(texts)
    drops = (whole - np.array(others)).reshape(len(rankings), len(SHARES), 2).mean(axis=1)
    return drops[:, 0], drops[:, 1]


def without_some(words: int, share: float, random: np.random.Generator) -> np.ndarray:
    """Which words are left when a random share of them, at least one and not all, is dropped: indices in order."""
    dropped = random.choice(words, size=min(max(1, round(share * words)), words - 1), replace=False)
    return np.setdiff1d(np.arange(words), dropped)
