"""What the transformer attends to, by word: of its last layer, and rolled out through all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Encoding

from handlers.model import Classifier
from handlers.predictor import Predictor
from handlers.text import pad
from handlers.torch_engine import TorchEngine


@dataclass(frozen=True)
class Attention:
    """Attention among a post's words.

    last, rollout: share of attention that each word receives, [words]. heads: the same of each head of the last layer,
    [heads, words]. matrices: those heads from a word (row) to a word (column), [heads, words, words].
    """

    last: np.ndarray
    rollout: np.ndarray
    heads: np.ndarray
    matrices: np.ndarray

    @property
    def by_method(self) -> dict[str, np.ndarray]:
        """What a word receives, under the names of the methods of explanation."""
        return {"attention": self.last, "rollout": self.rollout}


def attention(predictor: Predictor, words: Sequence[str]) -> Attention:
    """Attention of the transformer over words that it reads.

    Rows are averaged as the pooling reads them: the first token alone where it is `cls`, all tokens otherwise. Special
    tokens are left out and what remains is scaled to sum to one.
    Raises TypeError where the predictor's engine is not PyTorch's, the only one that shows its attention.
    """
    engine = torch_engine(predictor)
    encoding, owners = encode_words(predictor, words)
    layers = probabilities(engine.model, encoding.ids, engine.device)
    rows = slice(0, 1) if engine.model.config.pooling == "cls" else slice(None)

    def received(weights: np.ndarray) -> np.ndarray:
        shares = merge(weights[..., rows, :].mean(axis=-2), owners, len(words))
        return shares / shares.sum(axis=-1, keepdims=True)

    pieces = np.maximum(merge(np.ones(len(owners)), owners, len(words)), 1)
    matrices = merge(merge(layers[-1], owners, len(words)), owners, len(words), axis=1) / pieces[:, None]
    means = layers.mean(axis=1)
    return Attention(received(means[-1]), received(rollout(means)), received(layers[-1]), matrices)


def torch_engine(predictor: Predictor) -> TorchEngine:
    """The engine of a predictor, whose insides only PyTorch shows. Raises TypeError for another one."""
    if not isinstance(predictor.engine, TorchEngine):
        raise TypeError(f"attention and gradients need the PyTorch engine, not {type(predictor.engine).__name__}")
    return predictor.engine


def probabilities(model: Classifier, ids: Sequence[int], device: torch.device) -> np.ndarray:
    """Attention probabilities of one post: [layers, heads, tokens, tokens]."""
    batch = (torch.from_numpy(array).to(device) for array in pad([ids], model.config.pad_id))
    with torch.inference_mode():
        return model.attentions(*batch)[:, 0].double().cpu().numpy()


def rollout(layers: np.ndarray) -> np.ndarray:
    """Attention rollout (Abnar & Zuidema 2020, https://arxiv.org/abs/2005.00928): [tokens, tokens].

    layers: attention averaged over heads, [layers, tokens, tokens]. Half of each layer's weight is its residual.
    """
    tokens = layers.shape[1]
    rolled = np.eye(tokens)
    for layer in layers:
        rolled = (layer + np.eye(tokens)) / 2 @ rolled
    return rolled


def encode_words(predictor: Predictor, words: Sequence[str]) -> tuple[Encoding, np.ndarray]:
    """Words joined by single spaces as tokens, and the index of the word that each is a piece of: int [tokens].

    Special tokens belong to no word: -1.
    """
    encoding = predictor.encoder.tokenizer.encode(" ".join(words))
    ends = np.cumsum([len(word) + 1 for word in words])
    # By a piece's last character: in byte-level vocabularies a piece may begin with the space before its word.
    owners = np.searchsorted(ends, [end - 1 for _, end in encoding.offsets], side="right")
    return encoding, np.where(np.array(encoding.special_tokens_mask) == 1, -1, owners)


def merge(values: np.ndarray, owners: np.ndarray, words: int, axis: int = -1) -> np.ndarray:
    """Sum the pieces of each word along `axis`, dropping special tokens; a word without a piece gets zero."""
    values = np.moveaxis(values, axis, 0)
    merged = np.zeros((words, *values.shape[1:]))
    np.add.at(merged, owners[owners >= 0], values[owners >= 0])
    return np.moveaxis(merged, 0, axis)
