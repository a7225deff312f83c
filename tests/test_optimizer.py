"""Decay, schedules, weights of classes, and the precision of the products."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from handlers.model import Classifier
from stages.acceleration import build_accelerator
from stages.hardware import choose_precision
from stages.optimizer import build_optimizer, build_schedule, class_weights
from stages.stage import StageError

CPU = torch.device("cpu")


def test_biases_and_norms_are_not_decayed(tiny_bundle: Path) -> None:
    model = Classifier.load(tiny_bundle)
    decayed, plain = build_optimizer(model, 1e-3, 0.1).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert all(p.ndim >= 2 for p in decayed["params"])
    assert len(decayed["params"]) + len(plain["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize(("name", "after_a_third"), [("linear", 2 / 3), ("cosine", 3 / 4)])
def test_schedule_rises_then_falls_to_zero(name: str, after_a_third: float) -> None:
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
    # Of the fall; at its half the two are the same.
    assert rates[40] == pytest.approx(after_a_third)
    assert schedule.get_last_lr()[0] == pytest.approx(0.0, abs=1e-9)


def test_rare_classes_weigh_more() -> None:
    labels = [0, 0, 0, 1, 2, 2]
    expected = compute_class_weight("balanced", classes=np.arange(3), y=np.array(labels))
    assert class_weights(labels, 3, balanced=True).tolist() == pytest.approx(expected)
    assert class_weights(labels, 3, balanced=False).tolist() == [1.0, 1.0, 1.0]


def test_precision_is_what_was_asked_or_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_precision("fp16", CPU) == "fp16"
    speeds = {torch.float32: 1.0, torch.bfloat16: 100.0}
    monkeypatch.setattr("stages.hardware._seconds", lambda dtype: speeds[dtype])
    assert choose_precision("auto", CPU) == "float32"
    speeds[torch.bfloat16] = 0.2
    assert choose_precision("auto", CPU) == "bf16"


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "fp16")])
def test_a_gpu_without_native_bf16_has_fp16(native: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: native or including_emulation)
    assert choose_precision("auto", torch.device("cuda")) == expected


def test_a_precision_that_the_device_lacks_names_the_mend() -> None:
    with pytest.raises(StageError, match=r"train\.precision fp16 needs a GPU: set auto"):
        build_accelerator("fp16")
