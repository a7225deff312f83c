"""The evaluation of the tiny bundle: one transformer pass, four systems, and what is written."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from sklearn.metrics import accuracy_score, f1_score

from handlers.linear import Linear
from handlers.predictor import Predictor
from stages.corpus import features, label_names, load_split, save_split
from stages.evaluate import check_labels, evaluate, systems
from stages.evaluation import examples
from stages.paths import EVALUATION_SECTION
from stages.scoring import load_predictor
from stages.stage import StageError
from tests.conftest import LABELS, answer_probabilities


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
def baseline(predictor: Predictor) -> Linear:
    """Another linear model than the wide part: it takes every class for the next one."""
    wide = predictor.linear
    return Linear(wide.terms, wide.idf, np.roll(wide.weights, 1, axis=1), np.roll(wide.bias, 1))


@pytest.fixture(scope="module")
def validation(split: Dataset) -> Dataset:
    return split.select(range(0, len(split), 2))


@pytest.fixture(scope="module")
def written(
    predictor: Predictor,
    baseline: Linear,
    validation: Dataset,
    split: Dataset,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("evaluated")
    paths = folder / "tiny.json", folder / "plots", folder / "predictions"
    evaluate(predictor, baseline, validation, split, 1, *paths)
    return folder


def test_systems_are_the_predictors_own_answers(predictor: Predictor, split: Dataset) -> None:
    texts = split["text"][:]
    probabilities, fast, _ = systems(predictor, texts, "test")
    assert 0 < fast.sum() < len(texts)
    np.testing.assert_allclose(probabilities["shipped"], answer_probabilities(predictor, texts), atol=1e-6)
    np.testing.assert_allclose(
        probabilities["fused"], answer_probabilities(predictor, texts, fast_path=False), atol=1e-6
    )
    for values in probabilities.values():
        np.testing.assert_allclose(values.sum(axis=1), 1)


def test_figures_are_those_of_the_answers(
    predictor: Predictor, baseline: Linear, validation: Dataset, split: Dataset, written: Path
) -> None:
    report: dict[str, Any] = json.loads((written / "tiny.json").read_text())
    answers = predictor.predict(split["text"][:])
    predicted = [predictor.labels.index(answer.label) for answer in answers]
    shipped = report["test"]["shipped"]
    assert shipped["macro_f1"] == round(f1_score(split["label"][:], predicted, average="macro"), 4)
    low, high = shipped["accuracy_95"]
    assert low <= shipped["accuracy"] <= high
    assert report["test"]["fast_share"] == round(np.mean([answer.path == "linear" for answer in answers]), 4)
    assert report["test"]["over_baseline"]["accuracy"] == pytest.approx(
        shipped["accuracy"] - report["test"]["baseline"]["accuracy"], abs=2e-4
    )
    assert [row["name"] for row in report["test"]["per_class"]] == list(LABELS)
    for system, linear in (("baseline", baseline), ("wide", predictor.linear)):
        found = linear.scores(split["clean"][:]).argmax(axis=1)
        assert report["test"][system]["accuracy"] == round(accuracy_score(split["label"][:], found), 4)
    found = baseline.scores(validation["clean"][:]).argmax(axis=1)
    assert report["validation"]["baseline"]["accuracy"] == round(accuracy_score(validation["label"][:], found), 4)


def test_predictions_are_the_answers_to_test_and_carry_the_label_names(
    predictor: Predictor, split: Dataset, written: Path
) -> None:
    rows = load_split(written / "predictions", "test")
    assert rows["id"][:] == split["id"][:]
    assert label_names(rows) == list(LABELS)
    assert rows["label"][:] == split["label"][:]
    expected = answer_probabilities(predictor, split["text"][:])
    np.testing.assert_allclose(rows["probabilities"][:], expected, atol=1e-6)


def test_plots_are_small_pngs_and_one_row_a_post(split: Dataset, written: Path) -> None:
    for name in ("confusion.png", "reliability.png", "risk_coverage.png"):
        content = (written / "plots" / name).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) < 300_000
    lines = (written / "plots" / "confusion.csv").read_text().splitlines()
    assert lines[0] == "actual,predicted"
    assert len(lines) == len(split) + 1
    assert {cell for line in lines[1:] for cell in line.split(",")} <= set(LABELS)


def test_curves_are_tables_for_dvc(written: Path) -> None:
    def column(table: str, name: str) -> list[float]:
        with (written / "plots" / table).open() as file:
            return [float(row[name]) for row in csv.DictReader(file)]

    report = json.loads((written / "tiny.json").read_text())["test"]
    assert column("risk_coverage.csv", "coverage")[-1] == 1
    assert column("risk_coverage.csv", "risk")[-1] == pytest.approx(1 - report["shipped"]["accuracy"], abs=2e-4)
    assert sum(column("reliability.csv", "share")) == pytest.approx(1, abs=1e-3)
    bins = zip(*(column("reliability.csv", name) for name in ("confidence", "accuracy", "share")), strict=True)
    assert sum(share * abs(sure - right) for sure, right, share in bins) == pytest.approx(
        report["shipped"]["ece"], abs=1e-3
    )


def test_answered_share_and_precision_are_the_threshold_s(
    predictor: Predictor, split: Dataset, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = json.loads((written / "tiny.json").read_text())["test"]["shipped"]
    assert (report["answered"], report["answered_precision"]) == (1, report["accuracy"])
    answers = predictor.predict(split["text"][:])
    best = [answer.probabilities.max() for answer in answers]
    monkeypatch.setattr(predictor, "fusion", replace(predictor.fusion, reject=float(np.median(best))))
    evaluate(
        predictor,
        predictor.linear,
        split,
        split,
        1,
        tmp_path / "tiny.json",
        tmp_path / "plots",
        tmp_path / "predictions",
    )
    report = json.loads((tmp_path / "tiny.json").read_text())["test"]["shipped"]
    given = [
        answer.label == LABELS[label]
        for answer, label, sure in zip(answers, split["label"], best, strict=True)
        if sure >= np.median(best)
    ]
    assert 0 < report["answered"] < 1
    assert report["answered"] == round(len(given) / len(answers), 4)
    assert report["answered_precision"] == round(float(np.mean(given)), 4)


def test_examples_are_the_surest_mistakes_of_their_pair() -> None:
    actual, predicted = np.array([0, 0, 0, 0, 1]), np.array([1, 1, 1, 0, 0])
    confidence = np.array([0.5, 0.9, 0.7, 1.0, 0.8])
    found = examples([(0, 1), (1, 0)], actual, predicted, confidence, ["a", "b", "c", "d", "e"])
    assert found == [[("b", 0.9), ("c", 0.7)], [("e", 0.8)]]


def test_the_section_shows_figures_and_escapes_posts(predictor: Predictor, split: Dataset, tmp_path: Path) -> None:
    nasty = split.map(lambda row: {"text": f"<script>{row['text']}</script>", "label": (row["label"] + 1) % 3})
    evaluate(
        predictor,
        predictor.linear,
        nasty,
        nasty,
        1,
        tmp_path / "tiny.json",
        tmp_path / "plots",
        tmp_path / "predictions",
    )
    section = (tmp_path / "predictions" / EVALUATION_SECTION).read_text()
    assert "<script" not in section
    assert "&lt;script&gt;" in section
    report = json.loads((tmp_path / "tiny.json").read_text())["test"]
    assert f"{report['shipped']['accuracy']:.1%}" in section
    assert all(name in section for name in LABELS)
    assert section.count("data:image/png;base64") == 3


def test_other_classes_are_refused(predictor: Predictor, split: Dataset) -> None:
    other = split.cast_column("label", features(["autos", "space", "hockey"])["label"])
    with pytest.raises(StageError, match="different classes"):
        check_labels(predictor, other, "test")
    with pytest.raises(StageError, match="empty"):
        check_labels(predictor, split.select([]), "test")


def test_missing_bundle_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="dvc repro"):
        load_predictor(tmp_path / "none")
