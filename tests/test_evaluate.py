"""The evaluation of the tiny bundle: one transformer pass, four systems, and what is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from sklearn.metrics import f1_score

from handlers.predictor import Predictor
from stages.corpus import features, label_names, load_split, save_split
from stages.evaluate import check_labels, evaluate, systems
from stages.scoring import load_predictor
from stages.stage import StageError
from tests.conftest import LABELS


@pytest.fixture(scope="module")
def predictor(tiny_bundle: Path) -> Predictor:
    return load_predictor(tiny_bundle)


@pytest.fixture(scope="module")
def split(corpus: tuple[list[str], list[int]], tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    texts, labels = corpus
    # Some posts that the linear part has no opinion on, so that both paths are taken.
    texts, labels = [*(text.upper() + "!" for text in texts), "nothing known here", ""], [*labels, 0, 1]
    columns = {
        "id": [f"post-{number}" for number in range(len(texts))],
        "text": texts,
        "clean": [text.lower().rstrip("!") for text in texts],
        "label": labels,
    }
    folder = tmp_path_factory.mktemp("prepared")
    save_split(Dataset.from_dict(columns, features(list(LABELS))), folder, "test")
    return load_split(folder, "test")


@pytest.fixture(scope="module")
def written(predictor: Predictor, split: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated")
    evaluate(predictor, split, split, 1, folder / "tiny.json", folder / "plots", folder / "predictions")
    return folder


def test_systems_are_the_predictors_own_answers(predictor: Predictor, split: Dataset) -> None:
    texts = split["text"][:]
    probabilities, fast, _ = systems(predictor, texts, "test")
    assert 0 < fast.sum() < len(texts)
    np.testing.assert_allclose(probabilities["shipped"], predictor.probabilities(texts), atol=1e-6)
    np.testing.assert_allclose(probabilities["fused"], predictor.probabilities(texts, fast_path=False), atol=1e-6)
    for values in probabilities.values():
        np.testing.assert_allclose(values.sum(axis=1), 1)


def test_figures_are_those_of_the_answers(predictor: Predictor, split: Dataset, written: Path) -> None:
    report: dict[str, Any] = json.loads((written / "tiny.json").read_text())
    answers = predictor.predict(split["text"][:])
    predicted = [predictor.labels.index(answer.label) for answer in answers]
    shipped = report["test"]["shipped"]
    assert shipped["macro_f1"] == round(f1_score(split["label"][:], predicted, average="macro"), 4)
    low, high = shipped["accuracy_95"]
    assert low <= shipped["accuracy"] <= high
    assert report["test"]["fast_share"] == round(np.mean([answer.path == "linear" for answer in answers]), 4)
    assert report["test"]["shipped_over_wide"]["accuracy"] == pytest.approx(
        shipped["accuracy"] - report["test"]["wide"]["accuracy"], abs=2e-4
    )
    assert [row["name"] for row in report["test"]["per_class"]] == list(LABELS)
    assert report["validation"] == report["test"]


def test_predictions_carry_the_label_names(split: Dataset, written: Path) -> None:
    rows = load_split(written / "predictions", "test")
    assert rows["id"][:] == split["id"][:]
    assert label_names(rows) == list(LABELS)
    probabilities = np.array(rows["probabilities"][:])
    np.testing.assert_allclose(probabilities.max(axis=1), rows["confidence"][:], atol=1e-6)
    assert (probabilities.argmax(axis=1) == rows["predicted"][:]).all()
    assert set(rows["path"][:]) == {"linear", "full"}


def test_plots_are_small_pngs_and_one_row_a_post(split: Dataset, written: Path) -> None:
    for name in ("confusion.png", "reliability.png"):
        content = (written / "plots" / name).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) < 300_000
    lines = (written / "plots" / "confusion.csv").read_text().splitlines()
    assert lines[0] == "actual,predicted"
    assert len(lines) == len(split) + 1
    assert {cell for line in lines[1:] for cell in line.split(",")} <= set(LABELS)


def test_other_classes_are_refused(predictor: Predictor, split: Dataset) -> None:
    other = split.cast_column("label", features(["autos", "space", "hockey"])["label"])
    with pytest.raises(StageError, match="different classes"):
        check_labels(predictor, other, "test")
    with pytest.raises(StageError, match="empty"):
        check_labels(predictor, split.select([]), "test")


def test_missing_bundle_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="dvc repro"):
        load_predictor(tmp_path / "none")
