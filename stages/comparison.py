"""The methods of explanation held against each other: each post's judgement, and the figures over many posts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from handlers.explaining import DEFAULT
from handlers.explaining import METHODS as SERVED
from handlers.predictor import Predictor
from stages import attribution
from stages.attention import attention
from stages.explanation import METHODS, UNSIGNED, Effort, Explanation, Scorer, attribute
from stages.faithfulness import eraser, rank_correlation, top_overlap, without_some
from stages.metrics import interval

RANDOM_RANKINGS = 2  # a post, whose mean is the measure to beat
NOISE = 0.1  # share of the words that is dropped to see whether the explanation of the others stays
REFERENCE = "ig"
# Whose difference is of interest, post by post: attention's, and that of the default of what is served, the slowest.
GAINS = (
    *(("attention", other) for other in ("random", REFERENCE)),
    *((DEFAULT, other) for other in SERVED if other != DEFAULT),
)
RESAMPLES = 1000


@dataclass(frozen=True)
class Judgement:
    """Scores of one post's explanations of its predicted class.

    comprehensiveness, sufficiency: ERASER's, by method and of `random`. agreement: Spearman's correlation and overlap
    of the top words, by pair of these. heads: Spearman's correlation of each head of the last layer with the reference.
    """

    comprehensiveness: dict[str, float]
    sufficiency: dict[str, float]
    agreement: dict[tuple[str, str], tuple[float, float]]
    heads: list[float]


def judge(predictor: Predictor, explanation: Explanation, top: int, seed: int) -> Judgement:
    """Score the explanations of one post; top: words compared by overlap."""
    words, label = explanation.words, explanation.predicted
    values = explanation.attributions[label]
    random = np.random.default_rng(seed)
    chance = [random.random(len(words)) for _ in range(RANDOM_RANKINGS)]
    scorer = Scorer(predictor, explanation.tail)
    scores = eraser(lambda texts: np.exp(scorer(texts))[:, label], words, [*values.values(), *chance])
    comprehensiveness, sufficiency = (
        dict(zip(values, score, strict=False)) | {"random": float(score[len(values) :].mean())} for score in scores
    )
    ranked = values | {"random": chance[0]}
    return Judgement(
        comprehensiveness,
        sufficiency,
        agreement={
            (one, other): (correlation(one, other, ranked), top_overlap(ranked[one], ranked[other], top))
            for one, other in itertools.combinations(ranked, 2)
        },
        heads=[rank_correlation(head, np.abs(values[REFERENCE])) for head in explanation.attended.heads],
    )


def correlation(one: str, other: str, values: dict[str, np.ndarray]) -> float:
    """Spearman's correlation of two methods; of the sizes of their values, where one of them knows no sign."""
    first, second = values[one], values[other]
    if {one, other} & {*UNSIGNED}:
        first, second = np.abs(first), np.abs(second)
    return rank_correlation(first, second)


def stability(predictor: Predictor, explanation: Explanation, effort: Effort) -> tuple[dict[str, float], float]:
    """How far an explanation of the predicted class stays the same, as Spearman's correlation over the words.

    Returns, by method, that with an explanation of the post less a random tenth of its words; and LIME's with another
    seed, the only one to draw at random.
    """
    words, tail, label = explanation.words, explanation.tail, explanation.predicted
    before = explanation.attributions[label]
    kept = without_some(len(words), NOISE, np.random.default_rng(effort.seed))
    fewer = [words[i] for i in kept]
    values = attribute(predictor, fewer, tail, [label], effort)[0]
    after = {name: rows[0] for name, rows in values.items()} | attention(predictor, fewer).by_method
    noise = {name: rank_correlation(before[name][kept], after[name]) for name in before}
    odds = Scorer(predictor, tail).odds([label])
    again = attribution.lime(odds, words, 1, effort.samples, effort.seed + 1)[0]
    return noise, rank_correlation(before["lime"], again)


def compare(
    explained: Sequence[Explanation],
    judged: Sequence[Judgement],
    stable: Sequence[tuple[dict[str, float], float]],
    seed: int,
) -> dict[str, Any]:
    """Means over posts with 95% bootstrap intervals; seconds are medians, because the first post also pays for warm-up.

    stable: what `stability` gives of some of the posts. Intervals, pairs and heads are lists, so that they stay in the
    file and out of the table of `dvc metrics show`.
    """

    def figures(name: str, pick: Callable[[Judgement], float]) -> dict[str, Any]:
        return summary(name, [pick(post) for post in judged], seed)

    methods: dict[str, dict[str, Any]] = {}
    for method in (*METHODS, "random"):
        row = figures("comprehensiveness", lambda post, method=method: post.comprehensiveness[method])
        row |= figures("sufficiency", lambda post, method=method: post.sufficiency[method])
        for other in ("attention", REFERENCE):
            if method != other:
                row |= figures(f"spearman_{other}", lambda post, m=method, o=other: _pair(post, m, o)[0])
                row |= figures(f"overlap_{other}", lambda post, m=method, o=other: _pair(post, m, o)[1])
        if method != "random":
            row |= summary("noise", [noise[method] for noise, _ in stable], seed)
            row["seconds"] = float(np.median([post.seconds[method] for post in explained]))
            row["texts"] = float(np.mean([post.texts[method] for post in explained]))
        methods[method] = row
    methods["lime"] |= summary("seeds", [seeds for _, seeds in stable], seed)
    gains = {
        f"{one}_over_{other}": figures(
            "comprehensiveness", lambda post, o=one, p=other: post.comprehensiveness[o] - post.comprehensiveness[p]
        )
        for one, other in GAINS
    }
    return {
        "posts": len(explained),
        "stability_posts": len(stable),
        "methods": methods,
        **gains,
        "pairs": [
            [one, other, *(_mean([post.agreement[one, other][i] for post in judged]) for i in range(2))]
            for one, other in judged[0].agreement
        ],
        "heads": [_mean(head) for head in zip(*(post.heads for post in judged), strict=True)],
    }


def verdict(report: dict[str, Any]) -> str:
    """One sentence on what the figures say about attention as an explanation."""
    attention, reference, chance = (report["methods"][name] for name in ("attention", REFERENCE, "random"))
    over_chance, over_reference = (_side(report[f"attention_over_{name}"]) for name in ("random", REFERENCE))
    return (
        "Removing the words that attention (last layer) ranks highest costs the predicted class "
        f"{attention['comprehensiveness']:.3f} of its probability, against {reference['comprehensiveness']:.3f} with "
        f"integrated gradients and {chance['comprehensiveness']:.3f} for a random ranking, and its ranking agrees "
        f"with that of integrated gradients at Spearman {attention[f'spearman_{REFERENCE}']:.2f}: as an explanation of "
        f"these posts attention is {over_chance} a random ranking and {over_reference} integrated gradients, and it "
        "never says for or against which class a word speaks."
    )


def _side(gain: dict[str, Any]) -> str:
    """What the interval of a difference allows to say."""
    low, high = gain["comprehensiveness_95"]
    return "better than" if low > 0 else "worse than" if high < 0 else "not told apart from"


def summary(name: str, values: Sequence[float], seed: int) -> dict[str, Any]:
    """Mean over posts and its 95% bootstrap interval, of what is defined; None where nothing is."""
    defined = np.array([value for value in values if np.isfinite(value)])
    if not len(defined):
        return {name: None, f"{name}_95": None}
    draws = np.random.default_rng(seed).choice(defined, size=(RESAMPLES, len(defined))).mean(axis=1)
    return {name: float(defined.mean()), f"{name}_95": interval(draws)}


def _mean(values: Sequence[float]) -> float | None:
    """Mean of what is defined; None, which JSON knows, where nothing is."""
    defined = [value for value in values if np.isfinite(value)]
    return float(np.mean(defined)) if defined else None


def _pair(post: Judgement, one: str, other: str) -> tuple[float, float]:
    return post.agreement[(one, other) if (one, other) in post.agreement else (other, one)]
