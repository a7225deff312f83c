"""Which kernels attention runs on, and that they compute the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from handlers.torch_engine import TorchEngine
from stages.acceleration import attention, build_accelerator


def passed(encoder: BertModel) -> tuple[torch.Tensor, torch.Tensor, set[str]]:
    """Vectors of two posts, a gradient of their sum, and the names of the operations that computed them."""
    ids = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]])
    weight = encoder.encoder.layer[0].attention.self.query.weight
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        output = encoder(input_ids=ids, attention_mask=(ids > 0).long()).last_hidden_state
        (gradient,) = torch.autograd.grad((output * ids.unsqueeze(-1)).sum(), weight)
    # Of PyTorch itself: where there is a GPU, calls of CUDA are among the events, now and then.
    return output.detach(), gradient, {event.key for event in profile.key_averages() if event.key.startswith("aten::")}


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


@pytest.mark.parametrize("start", [lambda _: build_accelerator("float32"), TorchEngine], ids=["training", "serving"])
def test_a_gpu_does_without_attention_that_is_planned_for_each_shape(
    start: Callable[[Path], object], tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.hardware.torch.cuda.is_available", lambda: False)
    torch.backends.cuda.enable_cudnn_sdp(True)
    start(tiny_bundle)
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    # The others stay, faster than the plain products there.
    assert torch.backends.cuda.flash_sdp_enabled() and torch.backends.cuda.mem_efficient_sdp_enabled()
