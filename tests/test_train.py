"""What the train stage does around the loop."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from safetensors.torch import save_file

from handlers.model import Classifier
from handlers.text import Encoder
from stages.acceleration import build_accelerator
from stages.batches import Split
from stages.corpus import features, save_split
from stages.paths import AUGMENTED, PREPARED
from stages.stage import StageError
from stages.train import build, encode, identity, start_curves, train
from stages.training import Trainer
from tests.conftest import LABELS
from tests.test_model import FAMILIES, tiny
from tests.test_training import SETTINGS

SPLIT = Split([[2, 5, 3], [2, 6, 3]], [0, 1])


def test_a_post_without_text_is_named(tiny_bundle: Path) -> None:
    columns = {"id": ["train-1", "train-2"], "text": ["x", "1"], "clean": ["x", ""], "label": [0, 1]}
    with pytest.raises(StageError, match="post train-2 is empty after cleaning"):
        encode(Dataset.from_dict(columns, features(list(LABELS))), Encoder(tiny_bundle, 32))


def test_a_run_is_known_by_settings_data_model_and_code(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator, model = build_accelerator("float32"), Classifier.load(tiny_bundle)
    usual = identity(model, SETTINGS, 0, accelerator, SPLIT)

    def changed(other: dict[str, str]) -> set[str]:
        return {key for key in usual if usual[key] != other[key]}

    assert not changed(identity(model, replace(SETTINGS, candidates=("minilm", "bert")), 0, accelerator, SPLIT))
    assert changed(identity(model, replace(SETTINGS, lr=0.5), 0, accelerator, SPLIT)) == {"train.lr"}
    with monkeypatch.context() as patch:
        patch.setattr("stages.train.CODE", ("stages/training.py",))
        assert changed(identity(model, SETTINGS, 0, accelerator, SPLIT)) == {"code"}
    with monkeypatch.context() as patch:
        patch.setattr("stages.train.version", lambda _name: "0")
        assert changed(identity(model, SETTINGS, 0, accelerator, SPLIT)) == {"libraries"}
    assert changed(identity(model, SETTINGS, 1, accelerator, SPLIT)) == {"seed"}
    assert changed(identity(model, SETTINGS, 0, accelerator, Split(SPLIT.ids, [1, 0]))) == {"data"}
    on_gpu = SimpleNamespace(device=torch.device("cuda"), mixed_precision="no", num_processes=1)
    assert changed(identity(model, SETTINGS, 0, on_gpu, SPLIT)) == {"device"}
    other = Classifier(replace(model.config, head=(8, 8)))
    assert changed(identity(other, SETTINGS, 0, accelerator, SPLIT)) == {"architecture", "initial weights"}
    torch.nn.init.zeros_(model.head[-1].bias)
    assert changed(identity(model, SETTINGS, 0, accelerator, SPLIT)) == {"initial weights"}


def test_curves_are_written_while_the_run_goes_on_and_whole_where_it_was_interrupted(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    def read(folder: Path, name: str) -> list[tuple[int, float]]:
        with (folder / "plots" / "metrics" / f"{name}.tsv").open(newline="") as file:
            return [(int(row["step"]), float(row[name])) for row in csv.DictReader(file, delimiter="\t")]

    class Interrupted(Trainer):
        def evaluate(self, lr: float) -> bool:
            if self.progress.step == 2:
                # So far one evaluation has been reported.
                assert len(read(tmp_path / "first", "loss")) == 1
                raise KeyboardInterrupt
            return super().evaluate(lr)

    def made(kind: type[Trainer], folder: str) -> Trainer:
        accelerator = build_accelerator("float32")
        start_curves(accelerator, tmp_path / folder)
        model = Classifier.load(tiny_bundle)
        split = Split([[2, 5, 3], [2, 6, 3], [2, 7, 3]], [0, 1, 2])
        return kind(model, split, split, replace(SETTINGS, epochs=3), 0, accelerator)

    with pytest.raises(KeyboardInterrupt):
        made(Interrupted, "first").fit(tmp_path / "c.pt", {})
    trainer = made(Trainer, "second")
    progress = trainer.fit(tmp_path / "c.pt", {})
    trainer.accelerator.end_training()
    for name in ("loss", "validation_macro_f1"):
        assert read(tmp_path / "second", name) == [(row["step"], row[name]) for row in progress.history]
    figures = json.loads((tmp_path / "second" / "metrics.json").read_text())
    assert figures.items() <= progress.history[-1].items() and "validation_macro_f1" in figures


def test_a_candidate_that_was_not_fetched_names_the_stage_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    columns = {"id": ["train-1"], "text": ["x"], "clean": ["x"], "label": [0]}
    posts = Dataset.from_dict(columns, features(list(LABELS)))
    save_split(posts, AUGMENTED, "train")
    save_split(posts, PREPARED, "validation")
    with pytest.raises(StageError, match=r"tokenizer\.json is missing: run the fetch stage with this candidate"):
        train("mpnet", 0, SETTINGS)


def test_no_checkpoint_names_the_stage_that_brings_it(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="run the fetch stage"):
        build(tmp_path, list(LABELS), SETTINGS, 0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_dropout_in_the_encoder_is_what_was_asked_for(family: str, rate: float, tmp_path: Path) -> None:
    tiny(family).encoder.save_pretrained(tmp_path)
    model = build(tmp_path, list(LABELS), replace(SETTINGS, dropout=0.0, encoder_dropout=rate), 0).train()
    assert {module.p for module in model.encoder.modules() if isinstance(module, torch.nn.Dropout)} == {rate}
    inputs = torch.tensor([[5, 6, 7]]), torch.ones(1, 3, dtype=torch.long)
    assert torch.equal(model(*inputs), model(*inputs)) == (rate == 0)


def test_an_encoder_that_lacks_weights_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    encoder = Classifier.load(tiny_bundle).encoder
    encoder.save_pretrained(tmp_path)
    whole = build(tmp_path, list(LABELS), SETTINGS, 0)
    assert all(torch.equal(a, b) for a, b in zip(whole.encoder.parameters(), encoder.parameters(), strict=True))
    weights = {name: tensor.clone() for name, tensor in encoder.state_dict().items() if "layer.0.output" not in name}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StageError, match=r"lacks \d+ tensors of its encoder, .*layer\.0\.output"):
        build(tmp_path, list(LABELS), SETTINGS, 0)
