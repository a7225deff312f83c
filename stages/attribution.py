"""What each word contributes to an answer, for several classes at once: LIME, SHAP and integrated gradients."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence

import numba
import numpy as np
import torch
from lime.lime_text import LimeTextExplainer
from torch import Tensor

from handlers.explaining import linear_shares
from handlers.fusion import FLATTER
from handlers.predictor import Predictor
from stages.attention import encode_words, merge, torch_engine

# SHAP compiles a few small functions at first use: ten seconds for what takes milliseconds uncompiled.
numba.config.DISABLE_JIT = True
import shap  # noqa: E402 - reads the setting above when it is imported

# Log-odds of the explained classes, [texts, labels], of texts that hold some of a post's words.
Score = Callable[[Sequence[str]], np.ndarray]

_SHAP_BATCH = 64  # texts of one call, enough that batching by length has something to sort


def lime(score: Score, words: Sequence[str], labels: int, samples: int, seed: int) -> np.ndarray:
    """LIME (Ribeiro et al. 2016, https://arxiv.org/abs/1602.04938): one weight a word, by position, [labels, words].

    labels: how many `score` gives. samples: texts scored. Words are removed, not replaced; the local model is a ridge
    regression over all of them.
    """
    explainer = LimeTextExplainer(
        split_expression=r"\s+", bow=False, mask_string="", feature_selection="none", random_state=seed
    )
    result = explainer.explain_instance(
        " ".join(words), score, labels=range(labels), num_features=len(words), num_samples=samples
    )
    weights = np.zeros((labels, len(words)))
    for label in range(labels):
        for position, weight in result.local_exp[label]:
            weights[label, position] = weight
    return weights


def shap_values(score: Score, words: Sequence[str], samples: int) -> np.ndarray:
    """Owen values of SHAP's partition explainer over a balanced tree of the text, by position, [labels, words].

    samples: texts scored at most; where it runs out, words of one branch share its value. The values sum to the score
    of the whole text less that of the empty one (Lundberg & Lee 2017, https://arxiv.org/abs/1705.07874).
    """
    if len(words) == 1:
        # SHAP cannot make a tree of it.
        return np.diff(score(["", words[0]]), axis=0).T
    # A blank as the mask is what removes a word: SHAP collapses white space after masking.
    masker = shap.maskers.Text(r"\s+", mask_token=" ")
    explainer = shap.Explainer(lambda texts: score([str(text) for text in texts]), masker, algorithm="partition")
    result = explainer([" ".join(words)], max_evals=samples, batch_size=_SHAP_BATCH, silent=True)
    return np.asarray(result.values[0], dtype=float).T


def integrated_gradients(
    predictor: Predictor, words: Sequence[str], tail: Sequence[str], labels: Sequence[int], steps: int
) -> np.ndarray:
    """Integrated gradients (Sundararajan et al. 2017, https://arxiv.org/abs/1703.01365): [labels, words].

    The log-odds are followed from padding in the place of every piece, and no linear share, to the post: each word's
    share of the linear scores is an input beside its embeddings, so the values sum to the log-odds' difference between
    the two ends. steps: points of a Gauss-Legendre quadrature. tail: words that only the linear part reads; they stay.
    Raises TypeError where the predictor's engine is not PyTorch's.
    """
    engine, fusion = torch_engine(predictor), predictor.fusion
    encoding, owners = encode_words(predictor, words)
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    points, weights = (nodes + 1) / 2, weights / 2
    shares = fusion.wide * linear_shares(predictor.linear, [*words, *tail])[: len(words)]
    fixed = fusion.wide * predictor.linear.scores([" ".join([*words, *tail])])[0] - shares.sum(axis=0)

    def tensor(array: np.ndarray) -> Tensor:
        return torch.as_tensor(array, dtype=torch.float32, device=engine.device)

    model = engine.model
    ids = torch.tensor([encoding.ids], device=engine.device)
    empty = torch.where(torch.tensor(owners[None] < 0, device=engine.device), ids, model.config.pad_id)
    embed = model.encoder.get_input_embeddings()
    with torch.no_grad():
        start, end = embed(empty), embed(ids)
    at = tensor(points)[:, None]
    embedded = (start + at[:, :, None] * (end - start)).requires_grad_()
    present = at.expand(-1, len(words)).clone().requires_grad_()
    mask = ids.new_ones(1, 1).expand(steps, ids.shape[1])
    hidden = model.encoder(inputs_embeds=embedded, attention_mask=mask).last_hidden_state
    deep = model.head(model.pooling(hidden, mask)).log_softmax(-1)
    joint = fusion.deep * deep + tensor(fixed) + present @ tensor(shares)
    # As `Fusion.log_full`, with gradients.
    logs = (joint.log_softmax(-1) + math.log1p(-fusion.flat)).logaddexp(
        (FLATTER * joint).log_softmax(-1) + math.log(max(fusion.flat, sys.float_info.min))
    )
    values = []
    for label in labels:
        rivals = torch.arange(logs.shape[1], device=logs.device) != label
        odds = logs[:, label] - logs[:, rivals].logsumexp(-1)
        by_piece, by_word = torch.autograd.grad(odds.sum(), (embedded, present), retain_graph=True)
        pieces = torch.einsum("s,stw,tw->t", tensor(weights), by_piece, (end - start)[0])
        linear = tensor(weights) @ by_word
        values.append(merge(pieces.double().cpu().numpy(), owners, len(words)) + linear.double().cpu().numpy())
    return np.stack(values)
