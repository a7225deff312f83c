"""Freed memory stays with the process, measured by the page faults that this saves, but not for good."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

# Blocks large enough that glibc gives them back to the system. One round is the warm-up; what four blocks at once leave
# free is more than it keeps by itself.
FAULTS = """
import resource
import sys
import numpy as np
def work():
    blocks = [np.ones(int(sys.argv[1]) * 1024 * 1024, np.uint8) for _ in range(4)]
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
@pytest.mark.parametrize("megabytes", [24, 64])
def test_freed_memory_is_used_again(megabytes: int) -> None:
    library, version = platform.libc_ver()
    if megabytes > 32 and tuple(map(int, version.split("."))) < (2, 35):
        pytest.skip(f"{library} {version} keeps no block above 32 MiB")
    keep = "from handlers.memory import keep_freed_memory; keep_freed_memory()"
    usual, kept = (
        int(
            subprocess.run(
                [sys.executable, "-c", code, str(megabytes)], capture_output=True, text=True, check=True
            ).stdout
        )
        for code in (FAULTS, keep + FAULTS)
    )
    assert kept < usual / 10, "page faults"


# A convolution of this size is oneDNN's on every CPU. Its log says of each kernel whether it was kept from before.
SHAPES = """
import torch
from handlers.memory import keep_few_kernels
keep_few_kernels()
convolution = torch.nn.Conv2d(32, 32, 3)
for length in (8, 8, *range(9, 13), 8, *range(13, 213), 8):
    convolution(torch.zeros(2, 32, length, length))
"""


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")
def test_few_kernels_are_kept() -> None:
    environment = {**os.environ, "ONEDNN_VERBOSE": "profile_create"}
    environment.pop("ONEDNN_PRIMITIVE_CACHE_CAPACITY", None)
    command = [sys.executable, "-c", SHAPES]
    log = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    found = ["cache_hit" in line for line in log.splitlines() if "create" in line and "convolution" in line]
    assert len(found) == 208
    assert found[:2] == [False, True] and found[6], "kept for a while"
    assert not found[207], "and no longer"


# What the process holds after as many batches as kernels are kept, and what more after four times as many.
BATCHES = """
import psutil
import torch
from handlers.dense import PackedLinear
from handlers.memory import KERNELS, keep_few_kernels
keep_few_kernels()
layers = [PackedLinear(torch.nn.Linear(384, width)) for width in (384, 1536)]
def held(first, batches):
    with torch.inference_mode():
        for rows in range(first, first + batches):
            for layer in layers:
                layer(torch.zeros(rows, 384))
    return psutil.Process().memory_full_info().uss / 2**20
before = held(300, KERNELS)
print(held(16, 4 * KERNELS) - before)
"""


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")
def test_batches_of_many_lengths_do_not_add_up() -> None:
    environment = {**os.environ}
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        environment.pop(name, None)
    command = [sys.executable, "-c", BATCHES]
    grown = float(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)
    # 50 MiB where AVX-512 is; 270 where either cache keeps what it usually does.
    assert grown < 120


# Between the freed blocks lie some that are in use: nothing at the end of the heap could simply be cut off.
GAPS = """
import sys
from pathlib import Path
import numpy as np
import psutil
from handlers.torch_engine import BATCHES_UNTIL_GIVEN_BACK, TorchEngine
engine = TorchEngine(Path(sys.argv[1]))
pairs = [(np.ones(24 * 2**20, np.uint8), np.ones(2**20, np.uint8)) for _ in range(8)]
used = [small for _, small in pairs]
del pairs
sizes = []
for _ in range(BATCHES_UNTIL_GIVEN_BACK):
    sizes.append(psutil.Process().memory_info().rss / 2**20)
    engine.logits([[1, 2]])
print(sizes[0] - sizes[-1], sizes[0] - psutil.Process().memory_info().rss / 2**20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps memory here")
def test_an_engine_gives_freed_memory_back_now_and_then(tiny_bundle: Path) -> None:
    command = [sys.executable, "-c", GAPS, str(tiny_bundle)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    before, after = map(float, output.split())
    assert before < 8, "kept"
    assert after > 0.9 * 8 * 24, "given back, between used blocks too"
