"""Device, precision and processes of a training run, by accelerate."""

from __future__ import annotations

import contextlib

from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list
from transformers import PreTrainedModel

from handlers.memory import keep_few_kernels, keep_freed_memory
from handlers.model import avoid_planned_attention, plain_attention
from stages.hardware import choose_device, choose_precision, use_own_cores
from stages.stage import StageError


def processes() -> PartialState:
    """This process among those that `accelerate launch` or `torchrun` started, alone without them."""
    # Without the hint, accelerate would take several processes on a machine without a GPU for so many single ones.
    return PartialState(cpu=choose_device().type == "cpu")


def build_accelerator(asked: str) -> Accelerator:
    """The device and the processes that there are, and the precision of `train.precision`.

    This process then has a thread for each core that it may use, keeps the memory that it frees, few kernels, and does
    without cuDNN's attention. Raises StageError for fp16 on a CPU.
    """
    use_own_cores()
    keep_freed_memory()
    keep_few_kernels()
    avoid_planned_attention()
    state = processes()
    # One measures for all: processes that differ in precision would not train the same model.
    precision = broadcast_object_list([choose_precision(asked, state.device)])[0]
    if precision == "fp16" and state.device.type == "cpu":
        # accelerate would take it, and train in float32.
        raise StageError("train.precision fp16 needs a GPU: set auto")
    return Accelerator(
        mixed_precision="no" if precision == "float32" else precision,
        cpu=state.device.type == "cpu",
        # Logs nothing until `init_trackers` says where to.
        log_with="dvclive",
    )


def precision_of(accelerator: Accelerator) -> str:
    """Its precision, as `train.precision` names it."""
    return "float32" if accelerator.mixed_precision == "no" else accelerator.mixed_precision


def attention(accelerator: Accelerator, encoder: PreTrainedModel) -> contextlib.AbstractContextManager[None]:
    """Within it, `encoder` computes attention the way that trains fastest: by PyTorch's fused kernels, but for bf16 on
    a CPU.

    There the plain products and softmax that they stand for are faster, backwards above all: for 32 x 128 tokens a
    layer of MiniLM takes 40 ms of one core, with the fused kernel 140, with PyTorch's own unfused form 92.
    """
    if accelerator.device.type == "cpu" and precision_of(accelerator) == "bf16":
        return plain_attention(encoder)
    return contextlib.nullcontext()
