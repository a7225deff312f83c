"""Dense layers by oneDNN: the numbers and gradients of PyTorch's own, in the layers of an engine."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from handlers.dense import OneDnnLinear, onednn_pays, use_onednn
from handlers.torch_engine import TorchEngine


@given(
    st.lists(st.integers(1, 9), max_size=2),
    st.integers(1, 70),
    st.integers(1, 70),
    st.booleans(),
    st.integers(0, 1000),
)
def test_the_numbers_are_those_of_pytorch(leading: list[int], width: int, out: int, bias: bool, seed: int) -> None:
    torch.manual_seed(seed)
    layer = nn.Linear(width, out, bias=bias)
    inputs = torch.randn(*leading, width)
    expected = layer(inputs).detach()
    use_onednn(layer)
    with torch.inference_mode():
        found = layer(inputs)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_gradients_still_flow_and_weights_keep_their_names() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 3))
    names, inputs = list(model.state_dict()), torch.randn(5, 8, requires_grad=True)
    [before] = torch.autograd.grad(model(inputs).sum(), inputs)
    use_onednn(model)
    [after] = torch.autograd.grad(model(inputs).sum(), inputs)
    assert torch.equal(before, after)
    assert list(model.state_dict()) == names and isinstance(model[2], OneDnnLinear)


@pytest.mark.parametrize(
    ("precision", "pays", "expected"),
    [("float32", True, OneDnnLinear), ("float32", False, nn.Linear), ("bf16", True, nn.Linear)],
)
def test_an_engine_in_float32_uses_it_where_it_pays(
    tiny_bundle: Path, precision: str, pays: bool, expected: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handlers.torch_engine.onednn_pays", lambda: pays)
    layers = [
        layer for layer in TorchEngine(tiny_bundle, "cpu", precision).model.modules() if isinstance(layer, nn.Linear)
    ]
    assert layers and {type(layer) for layer in layers} == {expected}


@pytest.mark.parametrize(("usual", "onednn", "pays"), [(2.2, 1.0, True), (1.1, 1.0, False), (1.0, 2.0, False)])
def test_only_a_clear_gain_pays(usual: float, onednn: float, pays: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter([usual, onednn])

    def timed(call: Callable[[], torch.Tensor], _seconds: float) -> float:
        assert call().shape == (512, 512)
        return next(found)

    monkeypatch.setattr("handlers.dense.shortest", timed)
    assert onednn_pays() is pays
