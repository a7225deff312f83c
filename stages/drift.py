"""The reference of the drift figures: what posts that the model was not trained on look like when it is built."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from handlers.drift import Bins, features
from handlers.predictor import Answer


def reference(answers: Sequence[Answer], labels: Sequence[str]) -> dict[str, Bins]:
    """Count each feature of answered validation posts: numbers between their deciles, labels by class.

    Of validation, because what a worker sees is new to it too: the vocabulary of the wide part was made of the training
    posts, which therefore know nearly all of it. And of answers, not of true labels: a worker can count only what it
    predicts, and a model that favours a class does so in both counts.
    """
    values = features(answers, labels)
    edges = {name: np.unique(np.quantile(values[name], np.linspace(0.1, 0.9, 9))) for name in ("length", "unknown")}
    edges["label"] = np.arange(len(labels) - 1)
    return {name: Bins.of(values[name], edges[name]) for name in values}
