"""Device, precision and processes of a training run, by accelerate."""

from __future__ import annotations

import contextlib

from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list
from torch.nn.attention import SDPBackend, sdpa_kernel

from stages.hardware import choose_device, choose_precision
from stages.stage import StageError


def processes() -> PartialState:
    """This process among those that `accelerate launch` or `torchrun` started, alone without them."""
    # Without the hint, accelerate would take several processes on a machine without a GPU for so many single ones.
    return PartialState(cpu=choose_device().type == "cpu")


def build_accelerator(asked: str) -> Accelerator:
    """The device and the processes that there are, and the precision of `train.precision`.

    Raises StageError for fp16 on a CPU.
    """
    state = processes()
    # One measures for all: processes that differ in precision would not train the same model.
    precision = broadcast_object_list([choose_precision(asked, state.device)])[0]
    if precision == "fp16" and state.device.type == "cpu":
        # accelerate would take it, and train in float32.
        raise StageError("train.precision fp16 needs a GPU: set auto")
    return Accelerator(mixed_precision="no" if precision == "float32" else precision, cpu=state.device.type == "cpu")


def precision_of(accelerator: Accelerator) -> str:
    """Its precision, as `train.precision` names it."""
    return "float32" if accelerator.mixed_precision == "no" else accelerator.mixed_precision


def attention(accelerator: Accelerator) -> contextlib.AbstractContextManager[None]:
    """Within it, attention is computed by the kernels that train fastest: PyTorch's own choice but for bf16 on a CPU.

    There the backward pass of its fused attention is slower than the plain products and softmax that it stands for.
    """
    if accelerator.device.type == "cpu" and precision_of(accelerator) == "bf16":
        return sdpa_kernel(SDPBackend.MATH)
    return contextlib.nullcontext()
