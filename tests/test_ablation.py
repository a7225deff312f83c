"""The ablation's arithmetic and its memory; the tables themselves come from real training."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from scipy import stats

from stages.ablation import Cells, mean_interval, plot, sample
from stages.corpus import features


def test_finished_cells_are_kept_for_the_same_parameters(tmp_path: Path) -> None:
    path = tmp_path / "cells.json"
    calls = []

    def measure(value: float) -> dict[str, float]:
        calls.append(value)
        return {"validation": value}

    assert Cells(path, "a").measure("cell", lambda: measure(1)) == {"validation": 1}
    assert Cells(path, "a").measure("cell", lambda: measure(2)) == {"validation": 1}
    assert Cells(path, "b").measure("cell", lambda: measure(3)) == {"validation": 3}
    assert calls == [1, 3]


def test_sample_is_of_each_class_and_seeded() -> None:
    names = [f"post-{i}" for i in range(60)]
    columns = {"id": names, "text": names, "clean": names, "label": [min(i // 20, 1) for i in range(60)]}
    whole = Dataset.from_dict(columns, features(["a", "b"]))
    chosen = sample(whole, 5, seed=1)
    assert Counter(chosen["label"]) == {0: 5, 1: 5}
    assert chosen["id"][:] == sample(whole, 5, seed=1)["id"][:] != sample(whole, 5, seed=2)["id"][:]
    assert Counter(sample(whole, 30, seed=1)["label"]) == {0: 20, 1: 30}


def test_interval_is_students() -> None:
    values = [0.70, 0.72, 0.77]
    mean, low, high = mean_interval(values)
    expected = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert (mean, low, high) == pytest.approx((0.73, *expected), abs=1e-4)
    assert mean_interval([0.5, 0.5, 0.5]) == [0.5, 0.5, 0.5]


def test_plot_shows_every_table(tmp_path: Path) -> None:
    tables = {
        "cleaning": [["as it is", 0.8, 0.7, 0.65, 0.75]],
        "augmentation": [["none", 0.7, 0.65, 0.75, 0.0, 0.0, 0.0], ["both", 0.7, 0.65, 0.75, 0.01, -0.02, 0.04]],
    }
    plot(tmp_path / "ablation.png", tables)
    assert (tmp_path / "ablation.png").read_bytes().startswith(b"\x89PNG")
