"""One post explained by every method, word by word, and what each method cost and was worth."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from handlers.predictor import Predictor
from stages import attribution
from stages.attention import attention
from stages.faithfulness import eraser
from stages.scoring import fused_probabilities
from stages.stage import StageError

# LIME and SHAP spread a fixed number of model calls over the words: more words than this and each gets too few.
MAX_WORDS = 200
RANDOM_RANKINGS = 5


@dataclass(frozen=True)
class Explanation:
    """Why the model, both parts together, gives `label` to a post.

    words: the first MAX_WORDS of the cleaned post; tail: how many follow, kept in place and not attributed.
    probability: of `label`. path: who answers this post as shipped, "linear" or "full"; the explanation is of the full
    model in either case, so that it is of one function.
    attributions: method to [words], NaN where the transformer read no further. seconds: method to wall time.
    comprehensiveness, sufficiency: method (and "random") to ERASER's scores.
    attended: attention among the first words, [words read, words read].
    """

    label: str
    probability: float
    path: str
    words: list[str]
    tail: int
    attributions: dict[str, np.ndarray]
    seconds: dict[str, float]
    comprehensiveness: dict[str, float]
    sufficiency: dict[str, float]
    attended: np.ndarray


def explain_text(predictor: Predictor, text: str, samples: int, seed: int) -> Explanation:
    """Explain the full model's answer to a raw post.

    samples: model calls of LIME and of SHAP, each. Methods: `lime`, `shap`, `attention` (last layer), `rollout`, and
    `linear`, exact, where the answer has a linear share (its part of the fused log score).
    Raises StageError where cleaning leaves fewer than two words.
    """
    every = predictor.cleaning(text).split()
    if len(every) < 2:
        raise StageError(
            "cleaning leaves fewer than two words of the post: there is nothing to compare, give more text"
        )
    words, tail = every[:MAX_WORDS], every[MAX_WORDS:]
    label = int(fused_probabilities(predictor, [" ".join(every)])[0].argmax())

    def score(texts: Sequence[str]) -> np.ndarray:
        return fused_probabilities(predictor, texts)[:, label]

    def with_tail(texts: Sequence[str]) -> np.ndarray:
        return score([" ".join([head, *tail]) for head in texts])

    attributions, seconds = {}, {}

    def timed(method: str, work: Callable[[], np.ndarray]) -> None:
        started = time.perf_counter()
        attributions[method] = work()
        seconds[method] = time.perf_counter() - started

    timed("lime", lambda: attribution.lime(with_tail, words, samples, seed))
    timed("shap", lambda: attribution.shap_values(with_tail, words, samples))
    started = time.perf_counter()
    attended = attention(predictor, every)
    # One pass gives both, and the second costs next to nothing on top of it.
    seconds["attention"] = seconds["rollout"] = time.perf_counter() - started
    attributions["attention"] = _filled(attended.last, len(words))
    attributions["rollout"] = _filled(attended.rollout, len(words))
    if predictor.fusion.wide:
        share = predictor.fusion.wide
        timed("linear", lambda: share * attribution.linear(predictor.linear, every, label)[: len(words)])

    random = np.random.default_rng(seed)
    rankings = [*attributions.values(), *(random.random(len(words)) for _ in range(RANDOM_RANKINGS))]
    erased = [
        dict(zip(attributions, values, strict=False)) | {"random": values[len(attributions) :].mean()}
        for values in eraser(score, words, tail, rankings)
    ]
    answer = predictor.predict([text])[0]
    return Explanation(
        label=predictor.labels[label],
        probability=float(score([" ".join(every)])[0]),
        path=answer.path,
        words=words,
        tail=len(tail),
        attributions=attributions,
        seconds=seconds,
        comprehensiveness=erased[0],
        sufficiency=erased[1],
        attended=attended.matrix,
    )


def best_words(words: Sequence[str], values: np.ndarray, top: int) -> list[tuple[str, float]]:
    """The words of largest size and their values, the largest first; words without a value (NaN) never come."""
    order = np.argsort(-np.abs(np.nan_to_num(values)), kind="stable")[:top]
    return [(words[i], float(values[i])) for i in order if np.isfinite(values[i])]


def _filled(values: np.ndarray, length: int) -> np.ndarray:
    """As long as the attributed words: cut, or NaN for the words that were not read."""
    filled = np.full(length, np.nan)
    filled[: len(values)] = values[:length]
    return filled
