"""What this machine computes fast: device and precision are measured or asked for, never assumed."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from handlers.cores import usable_cores

# The shape of an encoder's products; large enough that the rate, not the call, is timed.
_ROWS, _WIDTH = 512, 512
# For which each precision is tried.
_TRIED_S = 0.5
# Without native bf16 a CPU is about a hundred times slower in it, with it several times faster: no close call.
_WORTHWHILE = 1.5


def choose_device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def use_own_cores() -> None:
    """Let PyTorch have a thread for each core that this process may use, or fewer where it was told so.

    By itself it counts the machine's: in a container with two of 64, each of so many threads would wait for the others.
    """
    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))


def choose_precision(asked: str, device: torch.device) -> str:
    """The precision of the encoder's products: `asked`, or for `auto` what the hardware is fast in.

    On CUDA bf16 where it is native, else fp16; on a CPU whichever of bf16 and float32 one timed product favours.
    """
    if asked != "auto":
        return asked
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if _seconds(torch.float32) > _WORTHWHILE * _seconds(torch.bfloat16) else "float32"


def _seconds(dtype: torch.dtype) -> float:
    """Of one product, at best."""
    left = torch.randn(_ROWS, _WIDTH).to(dtype)
    right = torch.randn(_WIDTH, _WIDTH).to(dtype)
    return shortest(lambda: left @ right, _TRIED_S)


def shortest(call: Callable[[], object], seconds: float) -> float:
    """Seconds of the fastest of the calls that `seconds` have room for, or of the first two.

    On a busy machine nearly every call has to wait, but not all of so many.
    """
    took: list[float] = []
    end = time.perf_counter() + seconds
    while len(took) < 2 or time.perf_counter() < end:
        started = time.perf_counter()
        call()
        took.append(time.perf_counter() - started)
    return min(took)
