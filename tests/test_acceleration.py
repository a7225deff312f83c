"""Which kernels attention runs on, and that they compute the same."""

from __future__ import annotations

import pytest
import torch

from stages.acceleration import attention, build_accelerator


def products() -> tuple[torch.Tensor, torch.Tensor, set[str]]:
    """Attention over fixed vectors, the gradient of their sum, and the names of the operations that computed them."""
    torch.manual_seed(0)
    query = torch.randn(2, 3, 5, 8, requires_grad=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        output = torch.nn.functional.scaled_dot_product_attention(query, query, query)
        output.sum().backward()
    return output.detach(), query.grad, {event.key for event in profile.key_averages()}


@pytest.mark.parametrize(("precision", "fused"), [("float32", True), ("bf16", False)])
def test_bf16_on_a_cpu_does_without_the_fused_kernel(
    precision: str, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.hardware.torch.cuda.is_available", lambda: False)
    output, gradient, _ = products()
    with attention(build_accelerator(precision)):
        same, same_gradient, operations = products()
    assert any("flash_attention" in name for name in operations) == fused
    torch.testing.assert_close(same, output)
    torch.testing.assert_close(same_gradient, gradient)
