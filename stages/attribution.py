"""What each word contributes to an answer: LIME, SHAP, and the linear part's exact share."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import shap
from lime.lime_text import LimeTextExplainer

from handlers.linear import TOKEN_PATTERN, Linear

# Probabilities of one class, [texts], of cleaned texts.
Score = Callable[[Sequence[str]], np.ndarray]

_SHAP_BATCH = 64  # texts of one call, enough that batching by length has something to sort
_TOKEN = re.compile(TOKEN_PATTERN)


def lime(score: Score, words: Sequence[str], samples: int, seed: int) -> np.ndarray:
    """LIME (Ribeiro et al. 2016, https://arxiv.org/abs/1602.04938): one weight a word, by position, [words].

    samples: texts scored. Words are removed, not replaced; the local model is a ridge regression over all of them.
    """

    def both(texts: Sequence[str]) -> np.ndarray:
        chosen = score(texts)
        return np.column_stack([1 - chosen, chosen])

    explainer = LimeTextExplainer(
        split_expression=r"\s+", bow=False, mask_string="", feature_selection="none", random_state=seed
    )
    result = explainer.explain_instance(
        " ".join(words), both, labels=(1,), num_features=len(words), num_samples=samples
    )
    weights = np.zeros(len(words))
    for position, weight in result.local_exp[1]:
        weights[position] = weight
    return weights


def shap_values(score: Score, words: Sequence[str], samples: int) -> np.ndarray:
    """Owen values of SHAP's partition explainer over a balanced tree of the text: one a word, by position, [words].

    samples: texts scored at most; where it runs out, words of one branch share its value. The values sum to the score
    of the whole text less that of the empty one (Lundberg & Lee 2017, https://arxiv.org/abs/1705.07874).
    """
    # A blank as the mask is what removes a word: SHAP collapses white space after masking.
    masker = shap.maskers.Text(r"\s+", mask_token=" ")
    explainer = shap.Explainer(lambda texts: score([str(text) for text in texts]), masker, algorithm="partition")
    result = explainer([" ".join(words)], max_evals=samples, batch_size=_SHAP_BATCH, silent=True)
    return np.asarray(result.values[0], dtype=float)


def linear(part: Linear, words: Sequence[str], label: int) -> np.ndarray:
    """What each word adds to the linear score of class `label`, [words]; with the bias they sum to it.

    A term that occurs several times, and an n-gram, divide their contribution equally among their words.
    """
    tokens = [(token, place) for place, word in enumerate(words) for token in _TOKEN.findall(word.lower())]
    contributions = part.contributions(" ".join(words), label)
    places: dict[str, list[int]] = {term: [] for term in contributions}
    for size in range(1, max((term.count(" ") + 1 for term in contributions), default=0) + 1):
        for start in range(len(tokens) - size + 1):
            gram = tokens[start : start + size]
            term = " ".join(token for token, _ in gram)
            if term in places:
                places[term] += [place for _, place in gram]
    values = np.zeros(len(words))
    for term, contribution in contributions.items():
        np.add.at(values, places[term], contribution / len(places[term]))
    return values
