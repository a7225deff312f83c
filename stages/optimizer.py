"""What turns a loss into steps: optimizer, learning-rate schedule and the weights of the classes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR


def build_optimizer(model: nn.Module, lr: float, weight_decay: float) -> AdamW:
    """AdamW that leaves biases and norms undecayed (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101)."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return AdamW(groups, lr=lr, fused=True)


def build_schedule(optimizer: Optimizer, name: str, steps: int, warmup: float) -> LambdaLR:
    """Linear warm-up over a share `warmup` of all steps, then a linear or cosine fall to zero."""
    rising = max(1, round(warmup * steps))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        rest = (step - rising) / max(1, steps - rising)
        return 1.0 - rest if name == "linear" else 0.5 * (1.0 + math.cos(math.pi * rest))

    return LambdaLR(optimizer, factor)


def class_weights(labels: Sequence[int], classes: int, balanced: bool) -> Tensor:
    """The weight of each class in the loss, float32 [classes]: ones, or in inverse proportion to its posts.

    Balanced as in King & Zeng 2001 and scikit-learn's `class_weight="balanced"`. Every class must have a post.
    """
    if not balanced:
        return torch.ones(classes)
    counts = np.bincount(labels, minlength=classes)
    return torch.from_numpy(len(labels) / (classes * counts)).float()
