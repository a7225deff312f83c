"""Dense layers by oneDNN where that is much faster than MKL, which PyTorch takes for float32 on a CPU.

MKL does without AVX-512 on a processor that Intel did not make.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from handlers.timings import shortest

# The shape of an encoder's products, and for how long each way is tried: long enough that some are not interrupted.
_ROWS, _WIDTH = 512, 512
_TRIED_S = 0.05
# On a Zen 5 oneDNN is 2.2 times as fast; held to AVX2, 1.1 times. No close call, so that a machine always has the same.
_WORTHWHILE = 1.5


class OneDnnLinear(nn.Linear):
    """A dense layer whose product is oneDNN's, but where gradients are wanted, which oneDNN's operator has none of."""

    def forward(self, inputs: Tensor) -> Tensor:
        """float32 [..., in] to [..., out], on a CPU."""
        return super().forward(inputs) if torch.is_grad_enabled() else _product(inputs, self.weight, self.bias)


def onednn_pays() -> bool:
    """Whether this machine shows it to be much faster, with the threads that PyTorch has now."""
    inputs, weight = torch.ones(_ROWS, _WIDTH), torch.ones(_WIDTH, _WIDTH)
    with torch.inference_mode():
        usual = shortest(lambda: nn.functional.linear(inputs, weight), _TRIED_S)
        return usual > _WORTHWHILE * shortest(lambda: _product(inputs, weight, None), _TRIED_S)


def use_onednn(model: nn.Module) -> None:
    """Let the dense layers of `model` be OneDnnLinear, with the weights that they have: the same numbers but for
    rounding."""
    for layer in model.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = OneDnnLinear


def _product(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """By the operator that torch.compile puts in place of a dense layer on a CPU (torch/_inductor/mkldnn_ir.py)."""
    return torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
