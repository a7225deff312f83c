"""What each word contributes to a post's answer, for any engine: no gradients, and work that is known beforehand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from handlers.linear import Linear
from handlers.predictor import Predictor
from handlers.text import CHARACTERS_PER_TOKEN
from handlers.words import TOKEN

# Words that are left out together; each gets an equal part of what that changes in the transformer.
SPANS = {"occlusion": 1, "spans": 4}
METHODS = ("linear", *SPANS)
DEFAULT = "occlusion"
# Words whose scores are turned into log-odds at once, which takes several arrays of [words, classes].
BLOCK = 4096


class BudgetError(ValueError):
    """An explanation that would take more passes through the transformer than allowed.

    needed: how many it takes. allowed: the budget.
    """

    def __init__(self, method: str, needed: int, allowed: int) -> None:
        super().__init__(f"{method} of this post takes {needed} passes, {allowed} are allowed")
        self.needed, self.allowed = needed, allowed


def explain(predictor: Predictor, text: str, label: int, method: str, budget: int) -> list[tuple[str, float]]:
    """The words of the cleaned post, in order, and what each contributes to class `label` of the full model's answer.

    linear: the words' exact share of the fused score, from the wide part alone; no pass through the transformer.
    occlusion, spans: by how much the log-odds of the class fall without the word (Li et al. 2016,
    https://arxiv.org/abs/1612.08220). What the transformer loses is measured, one pass a word or span that it reads
    and one for the whole post; what the wide part loses is the word's exact share.
    budget: passes allowed. Raises BudgetError before any pass where they are too few, ValueError for an unknown method.
    """
    words = predictor.cleaning(text).split()
    read = words_read(predictor, words)
    return list(zip(words, contributions(predictor, words, read, [label], method, budget)[0].tolist(), strict=True))


def contributions(
    predictor: Predictor, words: Sequence[str], read: int, labels: Sequence[int], method: str, budget: int
) -> np.ndarray:
    """The same of a post that is cleaned and split already, for several classes at the cost of one: [labels, words].

    read: how many of the words the transformer is given; the linear part reads them all.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r} is unknown: choose one of {', '.join(METHODS)}")
    losses = predictor.fusion.wide * linear_shares(predictor.linear, words)
    if method == "linear" or not words:
        return losses[:, labels].T
    head = words[:read]
    spans = [range(start, min(start + SPANS[method], read)) for start in range(0, read, SPANS[method])]
    if len(spans) + 1 > budget:
        raise BudgetError(method, len(spans) + 1, budget)
    # Only what the transformer reads is left out, and nothing moves up from behind it.
    texts = [" ".join(head), *(" ".join([*head[: span.start], *head[span.stop :]]) for span in spans)]
    fusion = predictor.fusion
    logits = predictor.finite_logits([item.ids for item in predictor.encoder(texts)])
    wide = predictor.linear.scores([" ".join(words)])
    joint = fusion.joint(logits, wide)
    for span, without in zip(spans, joint[1:], strict=True):
        # The linear scores are the same in both.
        losses[span.start : span.stop] += (joint[0] - without) / len(span)
    whole = fusion.log_full(joint[:1])
    values = np.empty((len(labels), len(words)))
    # A post of a megabyte has half a million words.
    for start in range(0, len(words), BLOCK):
        fewer = fusion.log_full(joint[0] - losses[start : start + BLOCK])
        for row, label in zip(values, labels, strict=True):
            row[start : start + BLOCK] = log_odds(whole, label) - log_odds(fewer, label)
    return values


def log_odds(scores: np.ndarray, label: int) -> np.ndarray:
    """Log-odds of one class from log-probabilities [..., classes], without the rounding of a probability near one."""
    rivals = np.delete(scores, label, axis=-1)
    return scores[..., label] - np.logaddexp.reduce(rivals, axis=-1)


def words_read(predictor: Predictor, words: Sequence[str]) -> int:
    """How many of a cleaned post's words the transformer reads, the last perhaps in part."""
    limit = predictor.encoder.max_tokens
    encoding = predictor.encoder.tokenizer.encode(" ".join(words[:limit])[: limit * CHARACTERS_PER_TOKEN])
    end = max((end for _, end in encoding.offsets), default=0)
    starts = np.cumsum([0, *(len(word) + 1 for word in words)])[:-1]
    return int(np.searchsorted(starts, end))


def linear_shares(part: Linear, words: Sequence[str]) -> np.ndarray:
    """What each word adds to the linear score of every class: [words, classes]; with the bias they sum to the scores.

    A term that occurs several times, and an n-gram, divide their contribution equally among their words.
    """
    tokens = [(token, place) for place, word in enumerate(words) for token in TOKEN.findall(word.lower())]
    positions, values = part.vector(" ".join(words))
    places: dict[str, list[int]] = {part.terms[position]: [] for position in positions.tolist()}
    for size in range(1, max((term.count(" ") + 1 for term in places), default=0) + 1):
        for start in range(len(tokens) - size + 1):
            gram = tokens[start : start + size]
            term = " ".join(token for token, _ in gram)
            if term in places:
                places[term] += [place for _, place in gram]
    shares = np.zeros((len(words), len(part.bias)))
    products = values[:, None] * part.weights[positions]
    for product, owners in zip(products, places.values(), strict=True):
        np.add.at(shares, owners, product / len(owners))
    return shares
