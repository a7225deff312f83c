"""Dense layers with weights laid out for oneDNN: the numbers and gradients of PyTorch's own, in an engine."""

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from handlers.dense import PackedLinear, can_pack, pack
from handlers.torch_engine import TorchEngine

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
needs_onednn = pytest.mark.skipif(not can_pack(torch.float32), reason="this PyTorch has no oneDNN")
needs_bf16 = pytest.mark.skipif(not can_pack(torch.bfloat16), reason="oneDNN has no bf16 on this CPU")


@needs_onednn
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
    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear(layer)(inputs), layer(inputs), rtol=1e-4, atol=1e-5)


@needs_bf16
@pytest.mark.parametrize("rows", [1, 7, 512, 1024])
def test_in_bf16_only_the_last_digit_differs(rows: int) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(48, 96, dtype=torch.bfloat16)
    inputs = torch.randn(rows, 48, dtype=torch.bfloat16)
    with torch.inference_mode():
        found = PackedLinear(layer)(inputs)
        torch.testing.assert_close(found, layer(inputs), rtol=2**-7, atol=2**-7)
    assert found.dtype == torch.bfloat16


@needs_onednn
def test_gradients_still_flow_to_the_inputs() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Sequential(nn.Linear(16, 3, bias=False)))
    packed, inputs = copy.deepcopy(model), torch.randn(5, 8, requires_grad=True)
    pack(packed)
    assert [type(layer) for layer in packed.modules() if "Linear" in type(layer).__name__] == [PackedLinear] * 2
    [expected] = torch.autograd.grad(model(inputs).sum(), inputs)
    [found] = torch.autograd.grad(packed(inputs).sum(), inputs)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("precision", "possible"),
    [
        pytest.param("float32", True, marks=needs_onednn),
        ("float32", False),
        pytest.param("bf16", True, marks=needs_bf16),
    ],
)
def test_an_engine_packs_where_it_can(
    tiny_bundle: Path, precision: str, possible: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr("handlers.torch_engine.can_pack", lambda dtype: asked.append(dtype) or possible)
    kinds = {type(layer) for layer in TorchEngine(tiny_bundle, "cpu", precision).model.modules()}
    assert asked == [DTYPES[precision]]
    assert ((PackedLinear in kinds), (nn.Linear in kinds)) == (possible, not possible)


@pytest.mark.parametrize(
    ("onednn", "native", "expected"),
    [(True, True, (True, True)), (True, False, (True, False)), (False, True, (False, False))],
)
def test_bf16_needs_a_processor_that_has_it(
    onednn: bool, native: bool, expected: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.backends.mkldnn.is_available", lambda: onednn)
    monkeypatch.setattr("torch.ops.mkldnn._is_mkldnn_bf16_supported", lambda: native)
    assert tuple(map(can_pack, DTYPES.values())) == expected
