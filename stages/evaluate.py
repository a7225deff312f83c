"""Stage `evaluate-<candidate>`: one fused bundle and each of its parts, on validation and test, from raw text."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Features, List, Value
from tqdm import tqdm

from handlers.fusion import softmax
from handlers.predictor import Predictor
from stages import metrics, plots
from stages.corpus import label_names, load_split, save_split
from stages.files import write_csv, write_json
from stages.params import load
from stages.paths import EVALUATION, FUSED, METRICS, PLOTS, PREPARED
from stages.scoring import load_predictor, raw_scores, save_logits
from stages.stage import StageError, stage

CHUNK = 256  # posts between two steps of the progress bar


def main() -> None:
    candidate = sys.argv[1]
    with stage(f"evaluate-{candidate}"):
        params = load()
        predictor = load_predictor(FUSED / candidate)
        splits = {name: load_split(PREPARED, name) for name in ("validation", "test")}
        evaluate(
            predictor,
            splits["validation"],
            splits["test"],
            seed=params.seed,
            metrics_file=METRICS / "candidates" / f"{candidate}.json",
            plots_folder=PLOTS / candidate,
            predictions_folder=EVALUATION / candidate,
        )


def evaluate(
    predictor: Predictor,
    validation: Dataset,
    test: Dataset,
    seed: int,
    metrics_file: Path,
    plots_folder: Path,
    predictions_folder: Path,
) -> None:
    """Measure the four systems of `systems` on both splits and write metrics, plots and the test predictions.

    Raises StageError where a split knows other classes than the bundle.
    """
    for name, split in (("validation", validation), ("test", test)):
        check_labels(predictor, split, name)
    report = {}
    for name, split in (("validation", validation), ("test", test)):
        actual = np.array(split["label"])
        probabilities, fast, logits = systems(predictor, split["text"], name)
        report[name] = measure(actual, probabilities, fast, predictor.labels, seed)
    write_json(metrics_file, metrics.rounded(report))

    # The loop ends on the test split, whose answers are what the pictures and later stages are about.
    shipped = probabilities["shipped"]
    predicted = shipped.argmax(axis=1)
    plots.confusion_matrix(
        plots_folder / "confusion.png", metrics.confusion(actual, predicted, len(predictor.labels)), predictor.labels
    )
    curves = {
        "transformer alone": metrics.reliability(actual, probabilities["deep"]),
        "as shipped": metrics.reliability(actual, shipped),
    }
    plots.reliability_diagram(plots_folder / "reliability.png", curves)
    rows = [[predictor.labels[a], predictor.labels[p]] for a, p in zip(actual, predicted, strict=True)]
    write_csv(plots_folder / "confusion.csv", ["actual", "predicted"], rows)
    save_split(predictions(test, shipped, fast, list(predictor.labels)), predictions_folder, "test")
    save_logits(logits, predictions_folder)


def check_labels(predictor: Predictor, split: Dataset, name: str) -> None:
    """Raise StageError where a split is empty or its classes are not the bundle's, in the same order."""
    if not len(split):
        raise StageError(f"the {name} split is empty: raise data.limit or prepare.validation in params.yaml")
    if label_names(split) != list(predictor.labels):
        raise StageError(f"the {name} split and the bundle know different classes: run dvc repro to build both again")


def systems(predictor: Predictor, texts: list[str], name: str) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Probabilities [posts, classes] of raw posts from each system, which posts the linear part answers alone, and the
    transformer's logits.

    deep: the transformer as trained, uncalibrated. wide: the linear part, whose scores are no log-probabilities: read
    only their order. fused: both for every post. shipped: the cascade, what a
    server answers. The transformer runs once for all of them.
    """
    parts = []
    with tqdm(total=len(texts), desc=name, unit="post") as progress:
        for start in range(0, len(texts), CHUNK):
            cleaned = [predictor.cleaning(text) for text in texts[start : start + CHUNK]]
            parts.append(raw_scores(predictor, cleaned))
            progress.update(len(cleaned))
    logits, scores = (np.concatenate(part) for part in zip(*parts, strict=True))
    fusion = predictor.fusion
    fast = fusion.sure(scores)
    fused = fusion.full(logits, scores)
    shipped = np.where(fast[:, None], fusion.alone(scores), fused)
    return {"deep": softmax(logits), "wide": softmax(scores), "fused": fused, "shipped": shipped}, fast, logits


def measure(
    actual: np.ndarray, probabilities: dict[str, np.ndarray], fast: np.ndarray, names: tuple[str, ...], seed: int
) -> dict[str, Any]:
    """The figures of one split: every system with 95% bootstrap intervals, what ships in detail and against `wide`.

    Intervals, classes and confusions are lists: they stay in the file, and out of the table of `dvc metrics show`.
    """
    predicted = {system: values.argmax(axis=1) for system, values in probabilities.items()}
    draws = metrics.bootstrap(actual, *predicted.values(), classes=len(names), seed=seed)
    report: dict[str, Any] = {"posts": len(actual), "fast_share": float(fast.mean())}
    for column, system in enumerate(predicted):
        scores = metrics.summary(actual, probabilities[system])
        report[system] = scores if system == "shipped" else {name: scores[name] for name in draws}
        if system != "wide":
            report[system]["ece"] = metrics.calibration_error(actual, probabilities[system])
        report[system] |= {f"{name}_95": metrics.interval(values[:, column]) for name, values in draws.items()}
    order = list(predicted)
    gain: dict[str, Any] = {}
    for name, values in draws.items():
        gain[name] = report["shipped"][name] - report["wide"][name]
        gain[f"{name}_95"] = metrics.interval(values[:, order.index("shipped")] - values[:, order.index("wide")])
    gain["mcnemar_p"] = metrics.mcnemar(actual, predicted["shipped"], predicted["wide"])
    report["shipped_over_wide"] = gain
    report["per_class"] = metrics.per_class(actual, predicted["shipped"], names)
    report["most_confused"] = metrics.most_confused(metrics.confusion(actual, predicted["shipped"], len(names)), names)
    return report


def predictions(split: Dataset, probabilities: np.ndarray, fast: np.ndarray, names: list[str]) -> Dataset:
    """One row a post: id, label, predicted, confidence, path ("linear" or "full") and all probabilities."""
    columns = {
        "id": split["id"],
        "label": split["label"],
        "predicted": probabilities.argmax(axis=1),
        "confidence": probabilities.max(axis=1),
        "path": ["linear" if alone else "full" for alone in fast],
        "probabilities": probabilities.astype(np.float32),
    }
    kinds = {
        "id": Value("string"),
        "label": ClassLabel(names=names),
        "predicted": ClassLabel(names=names),
        "confidence": Value("float64"),
        "path": Value("string"),
        "probabilities": List(Value("float32")),
    }
    return Dataset.from_dict(columns, Features(kinds))


if __name__ == "__main__":
    main()
