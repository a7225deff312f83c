"""The loop on a tiny model: it learns, repeats itself and fails with a word of advice. See also test_resuming.py"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer

from handlers.model import Classifier
from handlers.text import Encoder
from stages import checkpoint
from stages.acceleration import build_accelerator
from stages.batches import Split
from stages.params import Train
from stages.stage import StageError
from stages.training import Progress, Trainer
from tests.two_processes import without_dropout

ROOT = Path(__file__).parent.parent
RUN = {"run": "this"}
SETTINGS = Train(
    candidates=("minilm",),
    max_tokens=32,
    pooling="mean",
    head=(8,),
    head_norm=False,
    activation="gelu",
    dropout=0.1,
    encoder_dropout=0.0,
    epochs=6,
    batch_size=4,
    accumulation=1,
    lr=1e-2,
    weight_decay=0.01,
    schedule="linear",
    warmup=0.1,
    class_weights=False,
    label_smoothing=0.0,
    clip_norm=1.0,
    probe_epochs=2,
    evaluations=1,
    patience=100,
    precision="float32",
    overrides={},
)


class Hooked(Trainer):
    """A trainer to which something happens before the step of a given number, counted from this start."""

    def __init__(self, *arguments: Any, at: int, happens: Any) -> None:
        super().__init__(*arguments)
        self.at, self.happens, self.steps = at, happens, 0

    def step(self, batch: list[int], optimizer: AcceleratedOptimizer) -> float:
        self.steps += 1
        if self.steps == self.at:
            self.happens(self)
        return super().step(batch, optimizer)


@pytest.fixture(scope="session")
def split(tiny_bundle: Path, corpus: tuple[list[str], list[int]]) -> Split:
    return posts(tiny_bundle, *corpus)


def posts(bundle: Path, texts: list[str], labels: list[int]) -> Split:
    return Split([item.ids for item in Encoder(bundle, 32)(texts)], labels)


def trainer(bundle: Path, split: Split, settings: Train = SETTINGS, kind: type[Trainer] = Trainer, **more: Any) -> Any:
    model = Classifier.load(bundle) if settings.dropout else without_dropout(bundle)
    return kind(model, split, split, settings, 0, build_accelerator("float32"), **more)


def run(bundle: Path, split: Split, path: Path, settings: Train = SETTINGS) -> tuple[Trainer, Progress]:
    made = trainer(bundle, split, settings)
    return made, made.fit(path, RUN)


def weights(made: Trainer) -> dict[str, torch.Tensor]:
    return made.model.state_dict()


def assert_same(left: Trainer, right: Trainer) -> None:
    for (name, a), b in zip(weights(left).items(), weights(right).values(), strict=True):
        assert torch.equal(a, b), name


def test_it_learns_and_keeps_the_best(
    tiny_bundle: Path, split: Split, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, progress = run(tiny_bundle, split, tmp_path / "c.pt", replace(SETTINGS, epochs=30))
    # The bar: all steps, time gone and left, loss, score and rate.
    [shown] = re.findall(r"train: 100%\|.*", capsys.readouterr().err.rpartition("\r")[2])
    told = r"(\d+)/\1 \[\d+:\d+<\d+:\d+, .*step.*, f1=[01]\.\d{3}, loss=\d+\.\d{3}, tokens_s=\d+\]"
    assert re.search(told, shown), shown
    assert progress.history[-1]["loss"] < progress.history[0]["loss"]
    assert progress.best_f1 == pytest.approx(max(row["validation_macro_f1"] for row in progress.history), abs=1e-4)
    logits = made.run(made.model, split.ids)
    assert np.mean(logits.argmax(axis=1) == split.labels) > 0.9


def test_what_is_kept_is_the_best_evaluation_and_not_the_last(
    tiny_bundle: Path, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, seen = iter([0.2, 0.9, 0.1]), []
    usual = Trainer.evaluate

    def evaluate(self: Trainer, lr: float) -> bool:
        seen.append({name: value.clone() for name, value in self.model.state_dict().items()})
        return usual(self, lr)

    monkeypatch.setattr("stages.training.f1_score", lambda *_arguments, **_more: next(scores))
    monkeypatch.setattr(Trainer, "evaluate", evaluate)
    made = trainer(tiny_bundle, split, replace(SETTINGS, epochs=3, evaluations=1, patience=3))
    assert made.fit().best_f1 == 0.9
    _, best, last = seen
    assert all(torch.equal(value, best[name]) for name, value in weights(made).items())
    assert not all(torch.equal(value, last[name]) for name, value in best.items())


def test_the_same_seed_gives_the_same_weights(tiny_bundle: Path, split: Split, tmp_path: Path) -> None:
    assert_same(run(tiny_bundle, split, tmp_path / "a.pt")[0], run(tiny_bundle, split, tmp_path / "b.pt")[0])


def test_two_processes_reach_the_loss_of_one(
    tiny_bundle: Path, corpus: tuple[list[str], list[int]], tmp_path: Path
) -> None:
    # The odd post makes the processes' shares unequal.
    settings = replace(SETTINGS, dropout=0.0, class_weights=True)
    texts, labels = [*corpus[0], "the moon and the orbit of the moon, seen from the moon"], [*corpus[1], 2]
    alone = run(tiny_bundle, posts(tiny_bundle, texts, labels), tmp_path / "alone.pt", settings)[1]
    content = {"bundle": str(tiny_bundle), "folder": str(tmp_path), "texts": texts, "labels": labels}
    (tmp_path / "run.json").write_text(json.dumps(content | {"settings": vars(settings)}))
    # On a machine without a GPU too it is this flag that starts several processes.
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command += ["--module", "tests.two_processes", str(tmp_path / "run.json")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    together = [json.loads((tmp_path / f"{process}.json").read_text()) for process in range(2)]
    assert [run["processes"] for run in together] == [2, 2]
    assert together[0]["weights"] == together[1]["weights"]
    assert together[0]["history"] == together[1]["history"]
    for ours, theirs in zip(alone.history, together[0]["history"], strict=True):
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=0.01)
        assert theirs["validation_loss"] == pytest.approx(ours["validation_loss"], rel=0.01)


def test_a_batch_in_passes_is_the_same_update(tiny_bundle: Path, split: Split) -> None:
    updates = []
    for parts in (1, 3):
        settings = replace(SETTINGS, dropout=0.0, batch_size=9, accumulation=parts, max_tokens=max(split.lengths))
        made = trainer(tiny_bundle, split, replace(settings, class_weights=True))
        seen: list[torch.Size] = []
        made.network = made.model
        made.model.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0].shape))
        optimizer = made.accelerator.prepare_optimizer(torch.optim.SGD(made.model.parameters(), lr=0.1))
        loss = made.step(list(range(9)), optimizer)
        updates.append((len(seen), loss, weights(made)))
        assert sum(shape[0] for shape in seen) == 9
        assert max(shape.numel() for shape in seen) <= made.token_budget
    (once, loss, expected), (often, other, found) = updates
    assert once == 1 and often >= 3
    assert other == pytest.approx(loss, rel=1e-5)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)


def test_the_loss_is_the_usual_mean(tiny_bundle: Path, split: Split) -> None:
    made = trainer(tiny_bundle, split, replace(SETTINGS, dropout=0.0, batch_size=9, label_smoothing=0.2))
    logits = torch.from_numpy(made.run(made.model, split.ids))
    made.network = made.model
    optimizer = made.accelerator.prepare_optimizer(torch.optim.SGD(made.model.parameters(), lr=0.0))
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(split.labels), label_smoothing=0.2)
    assert made.step(list(range(9)), optimizer) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_no_number_stops_with_advice_and_leaves_the_checkpoint(
    tiny_bundle: Path, split: Split, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.training.CHECKPOINT_STEPS", 1)

    def spoil(made: Trainer) -> None:
        if what == "loss":
            torch.nn.init.constant_(made.model.head[-1].bias, math.nan)
        else:
            made.model.head[-1].weight.register_hook(lambda gradient: gradient * math.inf)

    with pytest.raises(StageError, match=r"lower train\.lr, .* and delete .*c\.pt$"):
        trainer(tiny_bundle, split, kind=Hooked, at=6, happens=spoil).fit(tmp_path / "c.pt", RUN)
    content = checkpoint.load(tmp_path / "c.pt", RUN)
    assert content["progress"]["step"] == 5
    assert all(value.isfinite().all() for value in content["model"].values())


def test_a_run_without_a_checkpoint_is_the_same_run_and_writes_nothing(
    tiny_bundle: Path, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = trainer(tiny_bundle, split)
    progress = made.fit()
    assert not list(tmp_path.iterdir())
    kept, expected = run(tiny_bundle, split, tmp_path / "c.pt")
    assert_same(kept, made)
    assert progress == expected


@pytest.mark.parametrize(
    ("evaluations", "expected"), [(1, [5, 10]), (3, [2, 3, 5, 7, 8, 10]), (100, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10])]
)
def test_evaluations_are_spread_over_each_epoch(
    tiny_bundle: Path, split: Split, tmp_path: Path, evaluations: int, expected: list[int]
) -> None:
    settings = replace(SETTINGS, batch_size=2, epochs=2, evaluations=evaluations)
    progress = run(tiny_bundle, split, tmp_path / "c.pt", settings)[1]
    assert [row["step"] for row in progress.history] == expected


def test_a_batch_may_be_one_post_for_one_process_alone(
    tiny_bundle: Path, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = run(tiny_bundle, split, tmp_path / "c.pt", replace(SETTINGS, batch_size=1, epochs=1))[1]
    assert progress.step == len(split.ids)
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    with pytest.raises(StageError, match=r"2 processes cannot share batches of 1 posts: set train\.batch_size to 4"):
        trainer(tiny_bundle, split, replace(SETTINGS, batch_size=3))
    assert trainer(tiny_bundle, split, replace(SETTINGS, batch_size=4))


def test_a_class_without_posts_is_named(tiny_bundle: Path, split: Split) -> None:
    without = Split(split.ids[:6], split.labels[:6])
    with pytest.raises(StageError, match=r"no post of space to train on"):
        trainer(tiny_bundle, without)


def test_patience_stops_early(tiny_bundle: Path, split: Split, tmp_path: Path) -> None:
    settings = replace(SETTINGS, lr=1e-7, probe_epochs=0, patience=2, epochs=50)
    progress = run(tiny_bundle, split, tmp_path / "c.pt", settings)[1]
    assert progress.stale == 2
    assert progress.step < 50 * 3


def test_probe_moves_the_head_alone(tiny_bundle: Path, split: Split) -> None:
    made = trainer(tiny_bundle, split)
    before = {name: value.clone() for name, value in weights(made).items()}
    made.probe()
    moved = {name for name, value in weights(made).items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if name.startswith("head.")}


def test_probe_reads_no_more_posts_than_it_needs(
    tiny_bundle: Path, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, read = trainer(tiny_bundle, split), []
    compute = made.model.features
    monkeypatch.setattr(made.model, "features", lambda ids, mask: read.append(len(ids)) or compute(ids, mask))
    monkeypatch.setattr("stages.training.PROBE_POSTS", 5)
    made.probe()
    assert len(split.ids) > 5
    assert sum(read) == 5


@pytest.mark.parametrize(
    "change",
    [
        {"label_smoothing": 0.3},
        {"class_weights": True},
        {"schedule": "cosine"},
        {"warmup": 0.5},
        {"weight_decay": 0.5},
        {"lr": 5e-3},
        {"batch_size": 3},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_setting_changes_what_is_learned(
    tiny_bundle: Path, corpus: tuple[list[str], list[int]], tmp_path: Path, change: dict[str, Any]
) -> None:
    # The loss that is reported differs by its formula alone, and the probe weighs classes for itself.
    unequal, settings = posts(tiny_bundle, corpus[0][:7], corpus[1][:7]), replace(SETTINGS, probe_epochs=0)
    plain = weights(run(tiny_bundle, unequal, tmp_path / "a.pt", settings)[0])
    changed = weights(run(tiny_bundle, unequal, tmp_path / "b.pt", replace(settings, **change))[0])
    assert any(not torch.equal(plain[name], changed[name]) for name in plain)


@pytest.mark.parametrize("bound", [0.01, 1e6])
def test_gradients_are_clipped_to_the_norm(tiny_bundle: Path, split: Split, tmp_path: Path, bound: float) -> None:
    made, _ = run(tiny_bundle, split, tmp_path / "c.pt", replace(SETTINGS, clip_norm=bound))
    last = torch.nn.utils.get_total_norm([value.grad for value in made.model.parameters() if value.grad is not None])
    if bound == 0.01:
        assert float(last) == pytest.approx(bound, rel=1e-3)
    else:
        assert 0.01 < float(last) < bound
