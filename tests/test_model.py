"""The deep part on tiny random encoders of three families."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertConfig, MPNetConfig, PretrainedConfig, RobertaConfig

from handlers.config import ACTIVATIONS, POOLINGS, ModelConfig
from handlers.model import Classifier
from handlers.text import pad
from handlers.torch_engine import TorchEngine

FAMILIES: dict[str, tuple[type[PretrainedConfig], int]] = {
    "bert": (BertConfig, 0),
    "roberta": (RobertaConfig, 1),
    "mpnet": (MPNetConfig, 1),
}
IDS = [[5, 6, 7], [8, 9, 10, 11, 12, 13, 14], [15]]


def tiny(family: str = "bert", pooling: str = "mean", dropout: float = 0.1) -> Classifier:
    """A random classifier of two layers and three classes, in evaluation mode."""
    kind, pad_id = FAMILIES[family]
    encoder = kind(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
        pad_token_id=pad_id,
    )
    torch.manual_seed(0)
    return Classifier(
        ModelConfig(
            encoder=json.loads(encoder.to_json_string(use_diff=False)),
            labels=("a", "b", "c"),
            pooling=pooling,
            head=(8,),
            activation="gelu",
            dropout=dropout,
            max_tokens=32,
            pad_id=pad_id,
        )
    ).eval()


def batch(model: Classifier, ids: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    input_ids, mask = pad(ids, model.config.pad_id)
    return torch.from_numpy(input_ids), torch.from_numpy(mask)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", POOLINGS)
@torch.inference_mode()
def test_padding_never_counts(family: str, pooling: str) -> None:
    model = tiny(family, pooling)
    together = model(*batch(model, IDS))
    assert together.shape == (3, 3)
    alone = torch.cat([model(*batch(model, [item])) for item in IDS])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-4), "the answer depends on the text"


def test_poolings_differ() -> None:
    with torch.inference_mode():
        vectors = [tiny(pooling=pooling).features(*batch(tiny(), IDS)) for pooling in POOLINGS]
    assert not torch.allclose(vectors[0], vectors[1], atol=1e-3)
    assert not torch.allclose(vectors[1], vectors[2], atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_logits_are_identical_after_a_trip_to_disk(
    family: str, pooling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was pickled")

    model = tiny(family, pooling)
    monkeypatch.setattr(pickle, "Unpickler", refuse)
    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(torch, "save", refuse)
    model.save(tmp_path)
    loaded = Classifier.load(tmp_path)
    assert loaded.config == model.config
    assert not loaded.training
    with torch.inference_mode():
        torch.testing.assert_close(loaded(*batch(model, IDS)), model(*batch(model, IDS)), rtol=0, atol=0)


def test_engine_runs_the_saved_model(tmp_path: Path) -> None:
    model = tiny()
    model.save(tmp_path)
    engine = TorchEngine(tmp_path)
    assert (engine.labels, engine.max_tokens) == (("a", "b", "c"), 32)
    with torch.inference_mode():
        expected = model(*batch(model, IDS)).numpy()
    # By other kernels (handlers/dense.py), which round otherwise.
    np.testing.assert_allclose(engine.logits(IDS), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_attentions_are_distributions_over_real_tokens(family: str) -> None:
    model = tiny(family)
    usual = model.encoder.config._attn_implementation
    input_ids, mask = batch(model, IDS)
    attentions = model.attentions(input_ids, mask)
    assert attentions.shape == (2, 3, 2, 7, 7)
    torch.testing.assert_close(attentions.sum(-1), torch.ones(2, 3, 2, 7))
    assert attentions[:, 0, :, :, 3:].abs().max() < 1e-6, "padding is not attended to"
    assert model.encoder.config._attn_implementation == usual


def test_dropout_is_off_in_evaluation_and_on_in_training() -> None:
    model = tiny(dropout=0.9)
    inputs = batch(model, IDS)
    with torch.inference_mode():
        torch.testing.assert_close(model(*inputs), model(*inputs), rtol=0, atol=0)
        model.train()
        assert not torch.equal(model(*inputs), model(*inputs))


@pytest.mark.parametrize(("head", "head_norm"), [((), False), ((8,), True), ((8, 4, 6), True), ((8, 4), False)])
def test_heads_of_any_depth_survive_the_disk(head: tuple[int, ...], head_norm: bool, tmp_path: Path) -> None:
    model = Classifier(replace(tiny().config, head=head, head_norm=head_norm)).eval()
    widths = [(layer.in_features, layer.out_features) for layer in model.head if isinstance(layer, nn.Linear)]
    assert widths == list(pairwise((16, *head, 3)))
    norms = [layer.normalized_shape for layer in model.head if isinstance(layer, nn.LayerNorm)]
    assert norms == ([(width,) for width in head] if head_norm else [])
    model.save(tmp_path)
    with torch.inference_mode():
        assert torch.equal(Classifier.load(tmp_path)(*batch(model, IDS)), model(*batch(model, IDS)))


@pytest.mark.parametrize(("activation", "kind"), [("gelu", nn.GELU), ("relu", nn.ReLU), ("tanh", nn.Tanh)])
def test_the_activation_is_the_one_that_was_asked_for(activation: str, kind: type[nn.Module]) -> None:
    model = Classifier(replace(tiny().config, head=(8, 4), activation=activation))
    assert [type(layer) for layer in model.head if not isinstance(layer, nn.Linear | nn.Dropout)] == [kind, kind]


@pytest.mark.parametrize(("field", "allowed"), [("pooling", POOLINGS), ("activation", ACTIVATIONS)])
def test_unknown_names_are_errors_that_list_the_known(field: str, allowed: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=f"{field} 'median' is unknown.*{', '.join(allowed)}"):
        replace(tiny().config, **{field: "median"})


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_missing_file_is_an_error(file: str, tmp_path: Path) -> None:
    tiny().save(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(FileNotFoundError):
        Classifier.load(tmp_path)
