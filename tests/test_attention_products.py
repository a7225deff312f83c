"""Attention as plain products: the encoder's own numbers, in engines that compute in bf16 on a CPU."""

import copy
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel

from handlers.attention import PRODUCTS
from handlers.torch_engine import TorchEngine

SHAPE = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 64}


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize("padded", [True, False])
@torch.inference_mode()
def test_the_numbers_are_those_of_the_fused_kernel(family: str, padded: bool) -> None:
    torch.manual_seed(0)
    usual = AutoModel.from_config(AutoConfig.for_model(family, **SHAPE)).eval()
    products = copy.deepcopy(usual)
    products.set_attn_implementation(PRODUCTS)
    ids, mask = torch.randint(5, 100, (3, 11)), torch.ones(3, 11, dtype=torch.long)
    if padded:
        mask[1, 7:] = 0
    found, expected = (model(input_ids=ids, attention_mask=mask).last_hidden_state for model in (products, usual))
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()])


@pytest.mark.parametrize(("precision", "used"), [("float32", False), ("bf16", True)])
def test_an_engine_in_bf16_uses_it(tiny_bundle: Path, precision: str, used: bool) -> None:
    encoder = TorchEngine(tiny_bundle, "cpu", precision).model.encoder
    assert (encoder.config._attn_implementation == PRODUCTS) == used
