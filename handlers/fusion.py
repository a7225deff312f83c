"""How the deep and the wide part become one calibrated answer, when the wide part answers alone, when none is given."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

FUSION_FILE = "fusion.json"
FLATTER = 1 / 3


@dataclass(frozen=True)
class Fusion:
    """Log-linear fusion, `z = deep * log p_deep + wide * d_wide`, and a cascade in front of it.

    deep, wide: weights of the two parts, fitted by likelihood, so that the answer is calibrated.
    flat: the share that a softmax FLATTER as steep has in the answer, p = (1 - flat) softmax(z) + flat softmax(z / 3).
    One temperature cannot do both, be steep for posts of which little is known and doubt the surest ones; a mixture of
    two can, and leaves the order of the classes alone (ensemble temperature scaling; Zhang et al. 2020,
    https://arxiv.org/abs/2003.07329). With `flat` and `wide` zero this is temperature scaling (Guo et al. 2017,
    https://arxiv.org/abs/1706.04599).
    margin: where the wide part's best score leads its second by at least this, it answers alone; None for never.
    fast, fast_flat: the wide part's own inverse temperature, and the share of the flatter softmax, on that path.
    reject: an answer whose best probability is below this abstains, on either path; 0 for never.
    """

    deep: float
    wide: float
    fast: float
    margin: float | None
    reject: float = 0.0
    flat: float = 0.0
    fast_flat: float = 0.0

    def full(self, logits: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Probabilities [posts, classes] from the transformer's logits and the linear scores, same shape."""
        return mixed(self.joint(logits, scores), self.flat)

    def joint(self, logits: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """z, [posts, classes], from the same: what both parts add up to, before it becomes probabilities."""
        return self.deep * log_softmax(logits) + self.wide * scores

    def log_full(self, joint: np.ndarray) -> np.ndarray:
        """Logarithms of the full model's probabilities [posts, classes], from z."""
        return log_mixed(joint, self.flat)

    def alone(self, scores: np.ndarray) -> np.ndarray:
        """Probabilities [posts, classes] of the wide part alone."""
        return mixed(self.fast * scores, self.fast_flat)

    def sure(self, scores: np.ndarray) -> np.ndarray:
        """Which posts the wide part answers alone: bool [posts]."""
        if self.margin is None:
            return np.zeros(len(scores), dtype=bool)
        return margins(scores) >= self.margin

    def shipped(self, logits: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Probabilities [posts, classes] of the cascade: the wide part's own where it is sure, else of both."""
        return np.where(self.sure(scores)[:, None], self.alone(scores), self.full(logits, scores))

    def abstains(self, probabilities: np.ndarray) -> np.ndarray:
        """Which of the answers, probabilities [posts, classes], are too unsure to be given: bool [posts]."""
        return probabilities.max(axis=1) < self.reject

    def save(self, folder: Path) -> None:
        """Write `fusion.json` into `folder`."""
        (folder / FUSION_FILE).write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Fusion:
        """Read what `save` wrote. Raises FileNotFoundError where it is missing."""
        return cls(**json.loads((folder / FUSION_FILE).read_text()))


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Row-wise log-softmax in float64, so that serving and training agree to the last printed digit."""
    shifted = scores.astype(np.float64) - scores.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def softmax(scores: np.ndarray) -> np.ndarray:
    """Row-wise softmax in float64."""
    return np.exp(log_softmax(scores))


def mixed(scores: np.ndarray, flat: float) -> np.ndarray:
    """Probabilities [posts, classes]: of two softmaxes, the share `flat` from the one that is FLATTER as steep."""
    return np.exp(log_mixed(scores, flat))


def log_mixed(scores: np.ndarray, flat: float) -> np.ndarray:
    """The logarithms of `mixed`, which a probability near zero still has."""
    with np.errstate(divide="ignore"):
        steep, flatter = np.log([1 - flat, flat])
    return np.logaddexp(steep + log_softmax(scores), flatter + log_softmax(FLATTER * scores))


def margins(scores: np.ndarray) -> np.ndarray:
    """Lead of the best score over the second, [posts] from [posts, classes >= 2]."""
    top = np.partition(scores, -2, axis=1)[:, -2:]
    return top[:, 1] - top[:, 0]
