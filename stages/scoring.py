"""A bundle's transformer and linear part run apart, so that each can be measured from one pass over the posts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from handlers.predictor import Predictor
from handlers.torch_engine import TorchEngine
from stages.files import replacing
from stages.hardware import choose_device, use_own_cores
from stages.inputs import require
from stages.stage import StageError

LOGITS_FILE = "logits.npy"


def load_predictor(bundle: Path) -> Predictor:
    """The predictor of a bundle, on a CUDA device where there is one, else on all cores that this process may use.

    Raises StageError where a file is missing.
    """
    use_own_cores()
    try:
        return Predictor(bundle, TorchEngine(bundle, choose_device()))
    except (FileNotFoundError, ValueError) as error:
        raise StageError(f"{bundle} is no complete bundle ({error}): run dvc repro") from error


def raw_scores(predictor: Predictor, cleaned: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The transformer's logits and the linear scores of cleaned posts, float32 [posts, classes] each."""
    ids = [item.ids for item in predictor.encoder(cleaned)]
    return predictor.logits(ids), predictor.linear.scores(cleaned)


def save_logits(logits: np.ndarray, folder: Path) -> None:
    """Keep the transformer's logits float32 [posts, classes], whole: one pass over a split is expensive."""
    with replacing(folder / LOGITS_FILE) as temporary, temporary.open("wb") as file:
        np.save(file, logits)


def load_logits(folder: Path, posts: int) -> np.ndarray:
    """What `save_logits` wrote. Raises StageError where it is missing or is not of that many posts."""
    path = require(folder / LOGITS_FILE, "run the evaluate stage")
    logits = np.load(path)
    if len(logits) != posts:
        raise StageError(f"{path} is of {len(logits)} posts, the split has {posts}: run the evaluate stage again")
    return logits
