"""Posts in, labelled and calibrated answers out. Knows nothing of a server, so that it outlives any one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from handlers.fusion import Fusion
from handlers.linear import Linear
from handlers.text import Cleaning, Encoder, pack_by_length

# Padded tokens of one transformer call: large enough to fill a few cores, small enough to stay in their caches.
TOKEN_BUDGET = 4096


class Engine(Protocol):
    """Runs the transformer: PyTorch or ONNX Runtime behind one method."""

    labels: tuple[str, ...]
    max_tokens: int

    def logits(self, ids: Sequence[Sequence[int]]) -> np.ndarray:
        """Logits float32 [posts, classes] of one batch of token ids, padded here."""
        ...


@dataclass(frozen=True)
class Answer:
    """What is known of one post.

    probabilities: float64 [classes], in the order of the predictor's labels. path: "linear" where the wide part was
    sure enough to answer alone, else "full". tokens, windows: read by the transformer, and its passes; 0 where it was
    not asked. words, unknown: of the cleaned post, and how many of them the wide part does not know. abstained: whether
    the answer is too unsure to be relied on.
    """

    label: str
    probabilities: np.ndarray
    path: str
    tokens: int
    windows: int
    truncated: bool
    words: int
    unknown: int
    abstained: bool


class Predictor:
    """The model as it ships: cleaning, the cascade, the transformer where it is needed, fusion."""

    def __init__(self, bundle: Path, engine: Engine) -> None:
        """bundle: a folder with tokenizer, cleaning, linear part and fusion. Raises FileNotFoundError where a file is
        missing and ValueError where the linear part was trained for other classes."""
        self.engine = engine
        self.labels = engine.labels
        self.cleaning = Cleaning.load(bundle)
        self.encoder = Encoder(bundle, engine.max_tokens)
        self.linear = Linear.load(bundle)
        self.fusion = Fusion.load(bundle)
        if len(self.linear.bias) != len(self.labels):
            raise ValueError(
                f"{bundle}: the linear part knows {len(self.linear.bias)} classes, the transformer {len(self.labels)}: "
                "the bundle mixes two runs, build it again"
            )

    def predict(self, texts: Sequence[str], fast_path: bool = True) -> list[Answer]:
        """Answer raw posts, in order. `fast_path=False` asks the transformer for every one of them."""
        cleaned = [self.cleaning(text) for text in texts]
        scores = self.linear.scores(cleaned)
        sure = self.fusion.sure(scores) if fast_path else np.zeros(len(texts), dtype=bool)
        probabilities = self.fusion.alone(scores)
        tokens = np.zeros(len(texts), dtype=int)
        truncated = np.zeros(len(texts), dtype=bool)
        counts = [self.linear.unknown(text) for text in cleaned]
        unsure = np.flatnonzero(~sure)
        if len(unsure):
            encoded = self.encoder([cleaned[i] for i in unsure])
            logits = self.logits([item.ids for item in encoded])
            probabilities[unsure] = self.fusion.full(logits, scores[unsure])
            tokens[unsure] = [len(item.ids) for item in encoded]
            truncated[unsure] = [item.truncated for item in encoded]
        return [
            Answer(
                label=self.labels[int(probabilities[i].argmax())],
                probabilities=probabilities[i],
                path="linear" if sure[i] else "full",
                tokens=int(tokens[i]),
                windows=int(not sure[i]),
                truncated=bool(truncated[i]),
                words=counts[i][0],
                unknown=counts[i][1],
                abstained=False,
            )
            for i in range(len(texts))
        ]

    def probabilities(self, texts: Sequence[str], fast_path: bool = True) -> np.ndarray:
        """Calibrated probabilities float64 [posts, classes] of raw posts."""
        if not texts:
            return np.empty((0, len(self.labels)))
        return np.stack([answer.probabilities for answer in self.predict(texts, fast_path)])

    def logits(self, ids: Sequence[Sequence[int]]) -> np.ndarray:
        """The transformer's logits float32 [posts, classes], batched by length so that little is padding."""
        logits = np.empty((len(ids), len(self.labels)), dtype=np.float32)
        for batch in pack_by_length([len(item) for item in ids], TOKEN_BUDGET):
            logits[batch] = self.engine.logits([ids[i] for i in batch])
        return logits
