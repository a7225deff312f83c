"""A bundle's transformer and linear part run apart, so that each can be measured from one pass over the posts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from handlers.predictor import Predictor
from handlers.torch_engine import TorchEngine
from stages.hardware import choose_device
from stages.stage import StageError


def load_predictor(bundle: Path) -> Predictor:
    """The predictor of a bundle, on a CUDA device where there is one. Raises StageError where a file is missing."""
    try:
        return Predictor(bundle, TorchEngine(bundle, choose_device()))
    except (FileNotFoundError, ValueError) as error:
        raise StageError(f"{bundle} is no complete bundle ({error}): run dvc repro") from error


def raw_scores(predictor: Predictor, cleaned: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The transformer's logits and the linear scores of cleaned posts, float32 [posts, classes] each."""
    ids = [item.ids for item in predictor.encoder(cleaned)]
    return predictor.logits(ids), predictor.linear.scores(cleaned)


def fused_probabilities(predictor: Predictor, cleaned: Sequence[str]) -> np.ndarray:
    """Probabilities float64 [posts, classes] of cleaned posts, the transformer asked for every one of them."""
    return predictor.fusion.full(*raw_scores(predictor, cleaned))
