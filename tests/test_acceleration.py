"""Which kernels attention runs on, and that they compute the same."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import torch
from transformers import BertConfig, BertModel

from stages.acceleration import attention, build_accelerator


def passed(encoder: BertModel) -> tuple[torch.Tensor, torch.Tensor, set[str]]:
    """Vectors of two posts, a gradient of their sum, and the names of the operations that computed them."""
    ids = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]])
    weight = encoder.encoder.layer[0].attention.self.query.weight
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        output = encoder(input_ids=ids, attention_mask=(ids > 0).long()).last_hidden_state
        (gradient,) = torch.autograd.grad((output * ids.unsqueeze(-1)).sum(), weight)
    return output.detach(), gradient, {event.key for event in profile.key_averages()}


@pytest.mark.parametrize(("precision", "fused"), [("float32", True), ("bf16", False)])
def test_bf16_on_a_cpu_does_without_the_fused_kernel(
    precision: str, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.hardware.torch.cuda.is_available", lambda: False)
    torch.manual_seed(0)
    shape = BertConfig(vocab_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
    encoder = BertModel(shape, add_pooling_layer=False).eval()
    output, gradient, before = passed(encoder)
    with attention(build_accelerator(precision), encoder):
        same, same_gradient, operations = passed(encoder)
    assert any("scaled_dot_product" in name for name in operations) == fused
    torch.testing.assert_close(same, output)
    torch.testing.assert_close(same_gradient, gradient)
    assert passed(encoder)[2] == before, "what it was is put back"


# A convolution of this size is oneDNN's on every CPU. Its log says of each kernel whether it was kept from before.
SHAPES = """
import torch
from stages.acceleration import build_accelerator
build_accelerator("float32")
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


# Between the freed blocks lie some that are in use: nothing at the end of the heap could simply be cut off.
GAPS = """
import numpy as np
import psutil
from handlers.memory import keep_freed_memory
from stages.acceleration import give_back_freed_memory
keep_freed_memory()
pairs = [(np.ones(24 * 2**20, np.uint8), np.ones(2**20, np.uint8)) for _ in range(8)]
used = [small for _, small in pairs]
del pairs
before = psutil.Process().memory_info().rss
give_back_freed_memory()
print((before - psutil.Process().memory_info().rss) / 2**20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps memory here")
def test_freed_memory_between_used_blocks_is_given_back() -> None:
    given = float(subprocess.run([sys.executable, "-c", GAPS], capture_output=True, text=True, check=True).stdout)
    assert given > 0.9 * 8 * 24
