"""Stage `evaluate-<candidate>`: one fused bundle and each of its parts, on validation and test, from raw text."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, List, Value
from tqdm import tqdm

from handlers.fusion import softmax
from handlers.linear import Linear
from handlers.predictor import Predictor
from stages import evaluation, metrics, plots
from stages.confidence import reliability, risk_coverage
from stages.corpus import label_names, load_split, save_split
from stages.evaluation import examples, measure
from stages.evaluation_page import section
from stages.files import replacing, write_csv, write_json
from stages.params import load
from stages.paths import BASELINE, EVALUATION, EVALUATION_SECTION, FUSED, METRICS, PLOTS, PREPARED
from stages.scoring import load_predictor, raw_scores, save_logits
from stages.stage import StageError, stage

CHUNK = 256  # posts between two steps of the progress bar
CURVE_POINTS = 200  # of the risk-coverage curve in DVC's plots


def main() -> None:
    candidate = sys.argv[1]
    with stage(f"evaluate-{candidate}"):
        params = load()
        predictor = load_predictor(FUSED / candidate)
        splits = {name: load_split(PREPARED, name) for name in ("validation", "test")}
        evaluate(
            predictor,
            load_baseline(BASELINE),
            splits["validation"],
            splits["test"],
            seed=params.seed,
            metrics_file=METRICS / "candidates" / f"{candidate}.json",
            plots_folder=PLOTS / candidate,
            evaluation_folder=EVALUATION / candidate,
        )


def evaluate(
    predictor: Predictor,
    baseline: Linear,
    validation: Dataset,
    test: Dataset,
    seed: int,
    metrics_file: Path,
    plots_folder: Path,
    evaluation_folder: Path,
) -> None:
    """Measure the systems of `evaluation.systems` on both splits and write metrics, plots, the test predictions, and
    the section of the report that `select` takes over where this candidate ships.

    Raises StageError where a split knows other classes than the bundle.
    """
    for name, split in (("validation", validation), ("test", test)):
        check_labels(predictor, split, name)
    names, report = predictor.labels, {}
    for name, split in (("validation", validation), ("test", test)):
        answers, fast, logits = systems(predictor, split["text"], name)
        actual, shipped = np.array(split["label"]), answers["shipped"]
        # Linear scores are no probabilities, but to the measures of order they are as good.
        answers["baseline"] = softmax(baseline.scores(split["clean"]))
        abstained = predictor.fusion.abstains(shipped)
        lengths = np.array([len(text.split()) for text in split["clean"]])
        report[name] = measure(actual, answers, fast, abstained, lengths, names, seed)
    report = metrics.rounded(report)
    write_json(metrics_file, report)

    # The loop ends on the test split, whose answers are what the pictures and later stages are about.
    draw(plots_folder, actual, answers["uncalibrated"], shipped, names, abstained)
    save_split(predictions(test, shipped, fast, list(names)), evaluation_folder, "test")
    save_logits(logits, evaluation_folder)
    pairs = [(names.index(a), names.index(p)) for a, p, _ in report["test"]["most_confused"]]
    found = examples(pairs, actual, shipped.argmax(axis=1), shipped.max(axis=1), test["text"])
    parts = section(report["test"], predictor.fusion.reject, found, plots_folder)
    with replacing(evaluation_folder / EVALUATION_SECTION) as temporary:
        temporary.write_text("\n".join(parts) + "\n", encoding="utf-8")


def load_baseline(folder: Path) -> Linear:
    """The measure to beat. Raises StageError where it is missing."""
    try:
        return Linear.load(folder)
    except FileNotFoundError as error:
        raise StageError(f"{error.filename} is missing: run the baseline stage, or simply dvc repro") from None


def check_labels(predictor: Predictor, split: Dataset, name: str) -> None:
    """Raise StageError where a split is empty or its classes are not the bundle's, in the same order."""
    if not len(split):
        raise StageError(f"the {name} split is empty: run dvc repro to build it again")
    if label_names(split) != list(predictor.labels):
        raise StageError(f"the {name} split and the bundle know different classes: run dvc repro to build both again")


def systems(
    predictor: Predictor, texts: Sequence[str], name: str
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """The probabilities of `evaluation.systems` for raw posts, which of them the linear part answers alone, and the
    transformer's logits.

    The transformer runs once for all systems.
    """
    parts = []
    with tqdm(total=len(texts), desc=name, unit="post") as progress:
        for start in range(0, len(texts), CHUNK):
            cleaned = [predictor.cleaning(text) for text in texts[start : start + CHUNK]]
            parts.append(raw_scores(predictor, cleaned))
            progress.update(len(cleaned))
    logits, scores = (np.concatenate(part) for part in zip(*parts, strict=True))
    return evaluation.systems(predictor.fusion, logits, scores), predictor.fusion.sure(scores), logits


def draw(
    folder: Path,
    actual: np.ndarray,
    before: np.ndarray,
    shipped: np.ndarray,
    names: tuple[str, ...],
    abstained: np.ndarray,
) -> None:
    """Write the pictures of an evaluation, and the same as tables for DVC's own plots."""
    predicted = shipped.argmax(axis=1)
    plots.confusion_matrix(folder / "confusion.png", metrics.confusion(actual, predicted, len(names)), names)
    rows = [[names[a], names[p]] for a, p in zip(actual, predicted, strict=True)]
    write_csv(folder / "confusion.csv", ["actual", "predicted"], rows)

    curves = {"before calibration": reliability(actual, before), "as shipped": reliability(actual, shipped)}
    plots.reliability_diagram(folder / "reliability.png", curves)
    curve = curves["as shipped"]
    filled = [metrics.rounded([float(v) for v in bin_]) for bin_ in zip(*curve.values(), strict=True) if bin_[2]]
    write_csv(folder / "reliability.csv", list(curve), filled)

    coverage, risk = risk_coverage(actual, shipped)
    plots.risk_coverage_curve(folder / "risk_coverage.png", coverage, risk, float(1 - abstained.mean()))
    points = np.unique(np.linspace(0, len(actual) - 1, CURVE_POINTS).astype(int))
    table = [metrics.rounded([float(coverage[i]), float(risk[i])]) for i in points]
    write_csv(folder / "risk_coverage.csv", ["coverage", "risk"], table)


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
