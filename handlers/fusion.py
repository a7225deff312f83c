"""How the deep and the wide part become one calibrated answer, and when the wide part answers alone."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

FUSION_FILE = "fusion.json"


@dataclass(frozen=True)
class Fusion:
    """Log-linear fusion, `z = deep * log p_deep + wide * d_wide`, and a cascade in front of it.

    deep, wide: weights of the two parts, fitted by likelihood, so that softmax(z) is calibrated. With `wide` zero this
    is temperature scaling (Guo et al. 2017, https://arxiv.org/abs/1706.04599).
    margin: where the wide part's best score leads its second by at least this, it answers alone; None for never.
    fast: the wide part's own inverse temperature on that path.
    reject: an answer whose probability is under it is called too unsure to be relied on; 0 for never.
    """

    deep: float
    wide: float
    fast: float
    margin: float | None
    reject: float = 0.0

    def full(self, logits: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Probabilities [posts, classes] from the transformer's logits and the linear scores, same shape."""
        return softmax(self.deep * log_softmax(logits) + self.wide * scores)

    def alone(self, scores: np.ndarray) -> np.ndarray:
        """Probabilities [posts, classes] of the wide part alone."""
        return softmax(self.fast * scores)

    def sure(self, scores: np.ndarray) -> np.ndarray:
        """Which posts the wide part answers alone: bool [posts]."""
        if self.margin is None:
            return np.zeros(len(scores), dtype=bool)
        return margins(scores) >= self.margin

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


def margins(scores: np.ndarray) -> np.ndarray:
    """Lead of the best score over the second, [posts] from [posts, classes >= 2]."""
    top = np.partition(scores, -2, axis=1)[:, -2:]
    return top[:, 1] - top[:, 0]
