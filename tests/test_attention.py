"""Attention by word: pieces find their words, heads and layers are the model's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from handlers.model import Classifier
from handlers.predictor import Predictor
from stages.attention import attention, encode_words, merge, probabilities, rollout


def test_pieces_merge_into_their_words(predictor: Predictor) -> None:
    words = ["car", "unheardof", "moon's", "x"]
    encoding, owners = encode_words(predictor, words)
    for word, piece in zip(owners, encoding.tokens, strict=True):
        assert (
            word == -1 if piece in ("[CLS]", "[SEP]") else piece == "[UNK]" or piece.removeprefix("##") in words[word]
        )
    assert merge(np.arange(4.0), np.array([-1, 0, 0, 1]), 3).tolist() == [3, 3, 0]


def test_attention_of_whole_words_is_the_models(predictor: Predictor) -> None:
    words = ["my", "old", "car", "needs", "brakes", "and", "oil"]
    result = attention(predictor, words)
    for shares in (result.last, result.rollout, *result.heads):
        assert shares.sum() == pytest.approx(1)
    assert result.matrices.shape == (2, len(words), len(words))
    encoding, _ = encode_words(predictor, words)
    assert encoding.tokens[1:-1] == words  # the tiny vocabulary has them all, so nothing is merged
    last = probabilities(predictor.engine.model, encoding.ids, "cpu")[-1]
    np.testing.assert_allclose(result.matrices, last[:, 1:-1, 1:-1])
    for shares, weights in ((result.last, last.mean(axis=0)), (result.heads[1], last[1])):
        received = weights.mean(axis=0)[1:-1]
        np.testing.assert_allclose(shares, received / received.sum())


def test_rollout_of_a_layer_that_copies_is_the_identity() -> None:
    np.testing.assert_allclose(rollout(np.stack([np.eye(4)] * 3)), np.eye(4))


def test_rollout_rows_stay_distributions(predictor: Predictor, tiny_bundle: Path) -> None:
    ids = predictor.encoder(["engine oil for the car"])[0].ids
    layers = probabilities(Classifier.load(tiny_bundle), ids, "cpu")
    assert layers.shape == (2, 2, len(ids), len(ids))
    np.testing.assert_allclose(rollout(layers.mean(axis=1)).sum(axis=1), 1, atol=1e-6)
