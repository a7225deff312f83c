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
from handlers.timings import Timings

# Of the stages; a worker has its own from serve/newsgroups.yaml.
TOKEN_BUDGET = 1024


class Engine(Protocol):
    """Runs the transformer: PyTorch or ONNX Runtime behind one method."""

    labels: tuple[str, ...]
    max_tokens: int
    # What a call costs besides its padded tokens, in tokens, mostly for reading the weights.
    call_tokens: int

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

    def __init__(self, bundle: Path, engine: Engine, token_budget: int = TOKEN_BUDGET) -> None:
        """bundle: a folder with tokenizer, cleaning, linear part and fusion. token_budget: padded tokens of one
        transformer call, unless a single post has more. Raises FileNotFoundError where a file is missing and ValueError
        where the linear part was trained for other classes."""
        self.engine = engine
        self.token_budget = token_budget
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

    def predict(
        self,
        texts: Sequence[str],
        fast_path: bool | Sequence[bool] = True,
        threshold: float | Sequence[float] | None = None,
        timings: Timings | None = None,
    ) -> list[Answer]:
        """Answer raw posts, in order.

        fast_path: False asks the transformer, whatever the wide part says. threshold: the probability under which an
        answer abstains, None for the bundle's own. Both for all posts, or a value each. timings: where the seconds of
        the steps "tokenize" and "infer" are added.
        """
        timings = timings or Timings()
        with timings.step("tokenize"):
            cleaned = [self.cleaning(text) for text in texts]
        with timings.step("infer"):
            scores = self.linear.scores(cleaned)
            counts = [self.linear.unknown(text) for text in cleaned]
            sure = self.fusion.sure(scores) & np.asarray(fast_path, dtype=bool)
            probabilities = self.fusion.alone(scores)
        tokens = np.zeros(len(texts), dtype=int)
        truncated = np.zeros(len(texts), dtype=bool)
        unsure = np.flatnonzero(~sure)
        if len(unsure):
            with timings.step("tokenize"):
                encoded = self.encoder([cleaned[i] for i in unsure])
            with timings.step("infer"):
                logits = self.finite_logits([item.ids for item in encoded])
                probabilities[unsure] = self.fusion.full(logits, scores[unsure])
            tokens[unsure] = [len(item.ids) for item in encoded]
            truncated[unsure] = [item.truncated for item in encoded]
        # Of no posts at all there is no best probability.
        abstained = probabilities.max(axis=1, initial=0) < (self.fusion.reject if threshold is None else threshold)
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
                abstained=bool(abstained[i]),
            )
            for i in range(len(texts))
        ]

    def logits(self, ids: Sequence[Sequence[int]]) -> np.ndarray:
        """The transformer's logits float32 [posts, classes], batched by length so that little is padding."""
        logits = np.empty((len(ids), len(self.labels)), dtype=np.float32)
        for batch in pack_by_length([len(item) for item in ids], self.token_budget, self.engine.call_tokens):
            logits[batch] = self.engine.logits([ids[i] for i in batch])
        return logits

    def finite_logits(self, ids: Sequence[Sequence[int]]) -> np.ndarray:
        """The same, for what is answered. Raises FloatingPointError where one is infinite or no number, as where half
        precision overflows: nothing compares with such a one, so that an answer would be given all the same."""
        logits = self.logits(ids)
        if not np.isfinite(logits).all():
            raise FloatingPointError("the transformer's logits are no numbers")
        return logits
