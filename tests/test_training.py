"""The loop on a tiny model: it learns, repeats itself, resumes to the same bits and fails with a word of advice."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from handlers.model import Classifier
from handlers.text import Encoder
from stages import checkpoint
from stages.hardware import choose_precision
from stages.params import Train
from stages.stage import StageError
from stages.training import Progress, Split, Trainer, build_optimizer, build_schedule, epoch_batches

CPU = torch.device("cpu")
SETTINGS = Train(
    candidates=("minilm",),
    max_tokens=32,
    pooling="mean",
    head=(8,),
    activation="gelu",
    dropout=0.1,
    encoder_dropout=0.0,
    epochs=6,
    batch_size=2,
    lr=1e-2,
    weight_decay=0.01,
    schedule="linear",
    warmup=0.1,
    label_smoothing=0.0,
    clip_norm=1.0,
    probe_epochs=2,
    evaluations=1,
    patience=100,
    precision="float32",
)


@pytest.fixture
def split(tiny_bundle: Path, corpus: tuple[list[str], list[int]]) -> Split:
    texts, labels = corpus
    return Split([item.ids for item in Encoder(tiny_bundle, 32)(texts)], labels)


def run(
    bundle: Path, split: Split, path: Path, settings: Train = SETTINGS, **hooks: object
) -> tuple[Trainer, Progress]:
    trainer = Trainer(Classifier.load(bundle), settings, 0, CPU, settings.precision)
    for name, hook in hooks.items():
        setattr(trainer, name, hook)
    return trainer, trainer.fit(split, split, path, "run")


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return trainer.model.state_dict()


def assert_same(left: Trainer, right: Trainer) -> None:
    for (name, a), b in zip(weights(left).items(), weights(right).values(), strict=True):
        assert torch.equal(a, b), name


def test_it_learns_and_keeps_the_best(tiny_bundle: Path, split: Split, tmp_path: Path) -> None:
    trainer, progress = run(tiny_bundle, split, tmp_path / "c.pt", replace(SETTINGS, epochs=20))
    assert progress.history[-1]["loss"] < progress.history[0]["loss"]
    assert progress.best_f1 == pytest.approx(max(row["validation_macro_f1"] for row in progress.history), abs=1e-4)
    logits = trainer.run(trainer.model, split.ids, "again")
    assert np.mean(logits.argmax(axis=1) == split.labels) > 0.9


def test_the_same_seed_gives_the_same_weights(tiny_bundle: Path, split: Split, tmp_path: Path) -> None:
    assert_same(run(tiny_bundle, split, tmp_path / "a.pt")[0], run(tiny_bundle, split, tmp_path / "b.pt")[0])


@pytest.mark.parametrize("killed_at", [1, 7, 13])
def test_a_killed_run_resumes_to_the_same_bits(
    tiny_bundle: Path, split: Split, tmp_path: Path, killed_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.training.CHECKPOINT_STEPS", 3)
    whole, expected = run(tiny_bundle, split, tmp_path / "whole.pt")
    steps = 0

    class KilledError(Exception):
        pass

    def step(*arguments: object) -> float:
        nonlocal steps
        steps += 1
        if steps > killed_at:
            raise KilledError
        return Trainer.step(killed, *arguments)

    killed = Trainer(Classifier.load(tiny_bundle), SETTINGS, 0, CPU, "float32")
    killed.step = step
    with pytest.raises(KilledError):
        killed.fit(split, split, tmp_path / "killed.pt", "run")
    torch.manual_seed(12345)  # whatever the next process starts with
    resumed, progress = run(tiny_bundle, split, tmp_path / "killed.pt")
    assert_same(whole, resumed)
    assert progress == expected


def test_interruption_leaves_a_checkpoint(tiny_bundle: Path, split: Split, tmp_path: Path) -> None:
    def interrupted(*_: object) -> float:
        raise KeyboardInterrupt

    with pytest.raises(StageError, match="goes on from there"):
        run(tiny_bundle, split, tmp_path / "c.pt", step=interrupted)
    assert checkpoint.load(tmp_path / "c.pt", "run") is not None


def test_a_checkpoint_of_another_run_is_not_resumed(tiny_bundle: Path, split: Split, tmp_path: Path) -> None:
    run(tiny_bundle, split, tmp_path / "c.pt")
    assert checkpoint.load(tmp_path / "c.pt", "run") is not None
    assert checkpoint.load(tmp_path / "c.pt", "other settings") is None
    (tmp_path / "c.pt").write_bytes(b"half a file")
    with pytest.raises(StageError, match="delete it"):
        checkpoint.load(tmp_path / "c.pt", "run")


def test_a_loss_that_is_no_number_stops_with_advice(tiny_bundle: Path, split: Split, tmp_path: Path) -> None:
    trainer = Trainer(Classifier.load(tiny_bundle), SETTINGS, 0, CPU, "float32")
    torch.nn.init.constant_(trainer.model.head[-1].bias, float("nan"))
    with pytest.raises(StageError, match=r"lower train\.lr"):
        trainer.fit(split, split, tmp_path / "c.pt", "run")


def test_patience_stops_early(tiny_bundle: Path, split: Split, tmp_path: Path) -> None:
    settings = replace(SETTINGS, lr=1e-7, probe_epochs=0, patience=2, epochs=50)
    progress = run(tiny_bundle, split, tmp_path / "c.pt", settings)[1]
    assert progress.stale == 2
    assert progress.step < 50 * 5


def test_probe_moves_the_head_alone(tiny_bundle: Path, split: Split) -> None:
    trainer = Trainer(Classifier.load(tiny_bundle), SETTINGS, 0, CPU, "float32")
    before = {name: value.clone() for name, value in weights(trainer).items()}
    trainer.probe(split)
    moved = {name for name, value in weights(trainer).items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if name.startswith("head.")}


def test_label_smoothing_changes_the_loss(tiny_bundle: Path, split: Split, tmp_path: Path) -> None:
    plain = run(tiny_bundle, split, tmp_path / "a.pt")[1].history[-1]["loss"]
    smooth = run(tiny_bundle, split, tmp_path / "b.pt", replace(SETTINGS, label_smoothing=0.3))[1].history[-1]["loss"]
    assert smooth != plain


def test_biases_and_norms_are_not_decayed(tiny_bundle: Path) -> None:
    model = Classifier.load(tiny_bundle)
    decayed, plain = build_optimizer(model, 1e-3, 0.1).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert all(p.ndim >= 2 for p in decayed["params"])
    assert len(decayed["params"]) + len(plain["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_schedule_rises_then_falls_to_zero(name: str) -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    schedule = build_schedule(optimizer, name, steps=100, warmup=0.1)
    rates = []
    for _ in range(100):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert np.argmax(rates) in (9, 10)
    assert max(rates) == pytest.approx(1.0)
    assert rates[0] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert schedule.get_last_lr()[0] == pytest.approx(0.0, abs=1e-9)


@given(
    lengths=st.lists(st.integers(2, 128), min_size=1, max_size=300),
    batch_size=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 50),
)
def test_epoch_batches_hold_every_post_once(lengths: list[int], batch_size: int, seed: int, epoch: int) -> None:
    batches = epoch_batches(lengths, batch_size, seed, epoch)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert len(batches) == -(-len(lengths) // batch_size)
    assert max(map(len, batches)) <= batch_size
    assert batches == epoch_batches(lengths, batch_size, seed, epoch)


def test_batches_of_like_length_waste_little() -> None:
    lengths = np.random.default_rng(0).integers(8, 128, 3200).tolist()
    batches = epoch_batches(lengths, 32, 0, 0)
    padded = sum(max(lengths[i] for i in batch) * len(batch) for batch in batches)
    assert sum(lengths) / padded > 0.95


def test_precision_is_what_was_asked_or_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_precision("fp16", CPU) == "fp16"
    speeds = {torch.float32: 1.0, torch.bfloat16: 100.0}
    monkeypatch.setattr("stages.hardware._seconds", lambda dtype: speeds[dtype])
    assert choose_precision("auto", CPU) == "float32"
    speeds[torch.bfloat16] = 0.2
    assert choose_precision("auto", CPU) == "bf16"
