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
    """Attention among the first words of a post, as many as the transformer reads.

    last, rollout: share of attention that each word receives, [words read]. matrix: last layer, from a word (row) to a
    word (column), [words read, words read].
    """

    last: np.ndarray
    rollout: np.ndarray
    matrix: np.ndarray


def attention(predictor: Predictor, words: Sequence[str]) -> Attention:
    """Attention of the transformer over a cleaned post, given as its words.

    Heads are averaged. Rows are averaged as the pooling reads them: the first token alone where it is `cls`, all
    tokens otherwise. Special tokens are left out and what remains is scaled to sum to one.
    Raises TypeError where the predictor's engine is not PyTorch's, the only one that shows its attention.
    """
    engine = predictor.engine
    if not isinstance(engine, TorchEngine):
        raise TypeError(f"attention needs the PyTorch engine, not {type(engine).__name__}")
    words = words[: predictor.encoder.max_tokens]  # no word is less than a token
    encoding = predictor.encoder.tokenizer.encode(" ".join(words))
    layers = head_means(engine.model, encoding.ids, engine.device)
    owners = piece_words(words, encoding)
    rows = slice(0, 1) if engine.model.config.pooling == "cls" else slice(None)
    received = {
        "last": merge(layers[-1][rows].mean(axis=0), owners),
        "rollout": merge(rollout(layers)[rows].mean(axis=0), owners),
    }
    pieces = np.maximum(merge(np.ones(len(owners)), owners), 1)
    matrix = merge(merge(layers[-1], owners), owners, axis=0) / pieces[:, None]
    return Attention(**{name: values / values.sum() for name, values in received.items()}, matrix=matrix)


def head_means(model: Classifier, ids: Sequence[int], device: torch.device) -> np.ndarray:
    """Attention probabilities of one post, averaged over heads: [layers, tokens, tokens]."""
    batch = (torch.from_numpy(array).to(device) for array in pad([ids], model.config.pad_id))
    with torch.inference_mode():
        return model.attentions(*batch)[:, 0].mean(dim=1).double().cpu().numpy()


def rollout(layers: np.ndarray) -> np.ndarray:
    """Attention rollout (Abnar & Zuidema 2020, https://arxiv.org/abs/2005.00928): [tokens, tokens].

    layers: attention averaged over heads, [layers, tokens, tokens]. Half of each layer's weight is its residual.
    """
    tokens = layers.shape[1]
    rolled = np.eye(tokens)
    for layer in layers:
        rolled = (layer + np.eye(tokens)) / 2 @ rolled
    return rolled


def piece_words(words: Sequence[str], encoding: Encoding) -> np.ndarray:
    """The index of the word that each token is a piece of, -1 for special tokens: int [tokens].

    encoding: of the words joined by single spaces.
    """
    ends = np.cumsum([len(word) + 1 for word in words])
    # By a piece's last character: in byte-level vocabularies a piece may begin with the space before its word.
    owners = np.searchsorted(ends, [end - 1 for _, end in encoding.offsets], side="right")
    return np.where(np.array(encoding.special_tokens_mask) == 1, -1, owners)


def merge(values: np.ndarray, owners: np.ndarray, axis: int = -1) -> np.ndarray:
    """Sum the pieces of each word along `axis`, dropping special tokens: as long as there are words with pieces."""
    values = np.moveaxis(values, axis, 0)
    merged = np.zeros((owners.max() + 1, *values.shape[1:]))
    np.add.at(merged, owners[owners >= 0], values[owners >= 0])
    return np.moveaxis(merged, 0, axis)
