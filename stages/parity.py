"""Does a graph answer like PyTorch? Logits and shipped answers of one engine held against those of another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import accuracy_score, f1_score

from handlers.explaining import DEFAULT, contributions, words_read
from handlers.fusion import Fusion
from handlers.predictor import Predictor
from stages.faithfulness import rank_correlation


@dataclass(frozen=True)
class Parity:
    """How a variant answers the posts that PyTorch answered, unrounded.

    logit: largest absolute difference; mean_logit: the mean one. deep: share of posts that the transformer alone gives
    the same class. full: the same of the fused answer with the cascade off. agreement: of the answer that ships.
    accuracy, macro_f1: of what ships, against the labels; full_macro_f1: with the cascade off. f1_loss: PyTorch's
    macro-F1 less this one.
    """

    logit: float
    mean_logit: float
    deep: float
    full: float
    agreement: float
    accuracy: float
    macro_f1: float
    full_macro_f1: float
    f1_loss: float


def compare(
    logits: np.ndarray, reference: np.ndarray, scores: np.ndarray, labels: np.ndarray, fusion: Fusion
) -> Parity:
    """Hold a variant's logits against PyTorch's; with the linear scores, all [posts, classes]. labels: int [posts]."""

    def equal(left: np.ndarray, right: np.ndarray) -> float:
        return float(np.mean(left.argmax(axis=1) == right.argmax(axis=1)))

    ours, theirs = (fusion.shipped(each, scores).argmax(axis=1) for each in (logits, reference))
    macro_f1 = float(f1_score(labels, ours, average="macro"))
    return Parity(
        logit=float(np.abs(logits - reference).max()),
        mean_logit=float(np.abs(logits - reference).mean()),
        deep=equal(logits, reference),
        full=equal(fusion.full(logits, scores), fusion.full(reference, scores)),
        agreement=float(np.mean(ours == theirs)),
        accuracy=float(accuracy_score(labels, ours)),
        macro_f1=macro_f1,
        full_macro_f1=float(f1_score(labels, fusion.full(logits, scores).argmax(axis=1), average="macro")),
        f1_loss=float(f1_score(labels, theirs, average="macro")) - macro_f1,
    )


def explained(predictor: Predictor, cleaned: Sequence[str], labels: Sequence[int]) -> list[np.ndarray]:
    """What is served as the explanation of a class of each cleaned post: contributions [words that are read]."""
    found = []
    for text, label in zip(cleaned, labels, strict=True):
        words = text.split()
        read = words_read(predictor, words)
        found.append(contributions(predictor, words, read, [label], DEFAULT, len(words) + 1)[0, :read])
    return found


def explanation_parity(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> dict[str, float]:
    """How like two variants' explanations of the same posts are: the mean over posts of Spearman's correlation, and the
    largest difference of a contribution, in log-odds."""
    pairs = list(zip(ours, theirs, strict=True))
    return {
        "explanation_spearman": round(float(np.mean([rank_correlation(*pair) for pair in pairs])), 4),
        "explanation_difference": round(max(float(np.abs(one - other).max()) for one, other in pairs), 6),
    }


def float32_faults(parity: Parity, agreement: float, tolerance: float) -> list[str]:
    """What keeps a float32 graph from shipping, in words; nothing where it passes.

    agreement: of the transformer's classes at the least. tolerance: largest difference of a logit.
    """
    faults = _broken(parity)
    if parity.deep < agreement:
        faults.append(f"its class is PyTorch's on {parity.deep:.2%} of the posts, export.float32_agreement {agreement}")
    if parity.logit > tolerance:
        faults.append(f"a logit differs by {parity.logit:.2g}, export.tolerance {tolerance}")
    return faults


def reduced_faults(parity: Parity, agreement: float, f1_loss: float) -> list[str]:
    """What keeps a graph of reduced precision from shipping, in words; nothing where it passes.

    agreement: of shipped answers at the least. f1_loss: of macro-F1, as a share of 1, at the most.
    """
    faults = _broken(parity)
    if parity.agreement < agreement:
        faults.append(f"{parity.agreement:.2%} of its answers are PyTorch's, export.reduced_agreement {agreement}")
    if parity.f1_loss > f1_loss:
        faults.append(f"it loses {parity.f1_loss:.4f} of macro-F1, export.reduced_f1_loss {f1_loss}")
    return faults


def _broken(parity: Parity) -> list[str]:
    """Nothing compares with what is no number, so that the other gates would let it pass."""
    return [] if np.isfinite(parity.logit) else ["a logit is no number"]
