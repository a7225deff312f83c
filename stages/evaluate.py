"""Stage `evaluate-<candidate>`: one fused bundle and each of its parts, on validation and test, from raw text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from stages.inputs import candidate_argument, require
from stages.params import load
from stages.paths import BASELINE, EVALUATION, EVALUATION_SECTION, FUSED, METRICS, PLOTS, PREPARED
from stages.scoring import load_predictor, raw_scores, save_logits
from stages.stage import StageError, stage

CHUNK = 256  # posts between two steps of the progress bar
CURVE_POINTS = 200  # of the risk-coverage curve in DVC's plots


def main() -> None:
    candidate = candidate_argument()
    with stage(f"evaluate-{candidate}"):
        params = load()
        predictor = load_predictor(FUSED / candidate)
        splits = {name: load_split(PREPARED, name) for name in ("validation", "test")}
        evaluate(
            predictor,
            Linear.load(require(BASELINE, "run the baseline stage")),
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
    """Measure the baseline and `systems` on both splits and write metrics; and of test plots, the predictions, and the
    section of the report that `select` takes over where this candidate ships.

    Raises StageError where a split knows other classes than the bundle.
    """
    splits = {"validation": validation, "test": test}
    for name, split in splits.items():
        check_labels(predictor, split, name)
    results = {name: judge(predictor, baseline, split, name, seed) for name, split in splits.items()}
    report = {name: metrics.rounded(result.figures) for name, result in results.items()}
    write_json(metrics_file, report)

    # The answers to test are what the pictures and later stages are about.
    judged, figures, names = results["test"], report["test"], predictor.labels
    draw(plots_folder, judged, names)
    save_split(predictions(test, judged.shipped, list(names)), evaluation_folder, "test")
    save_logits(judged.logits, evaluation_folder)
    pairs = [(names.index(a), names.index(p)) for a, p, _ in figures["most_confused"]]
    found = examples(pairs, judged.actual, judged.shipped.argmax(axis=1), judged.shipped.max(axis=1), test["text"])
    parts = section(figures, predictor.fusion.reject, found, plots_folder)
    with replacing(evaluation_folder / EVALUATION_SECTION) as temporary:
        temporary.write_text("\n".join(parts) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Judged:
    """A split as it was answered, and how well.

    actual: int [posts]. deep, shipped: probabilities of these systems, logits: the transformer's, [posts, classes]
    each. figures: of `evaluation.measure`, unrounded.
    """

    actual: np.ndarray
    deep: np.ndarray
    shipped: np.ndarray
    logits: np.ndarray
    figures: dict[str, Any]


def judge(predictor: Predictor, baseline: Linear, split: Dataset, name: str, seed: int) -> Judged:
    """Have the bundle's systems and the baseline answer a split, and measure them. name: of the split."""
    answers, fast, logits = systems(predictor, split["text"], name)
    # Linear scores are no probabilities, but to the measures of order they are as good.
    answers["baseline"] = softmax(baseline.scores(split["clean"]))
    actual, abstained = np.array(split["label"]), predictor.fusion.abstains(answers["shipped"])
    lengths = np.array([len(text.split()) for text in split["clean"]])
    figures = measure(actual, answers, fast, abstained, lengths, predictor.labels, seed)
    return Judged(actual, answers["deep"], answers["shipped"], logits, figures)


def check_labels(predictor: Predictor, split: Dataset, name: str) -> None:
    """Raise StageError where a split is empty or its classes are not the bundle's, in the same order."""
    if not len(split):
        raise StageError(f"the {name} split is empty: run dvc repro to build it again")
    if label_names(split) != list(predictor.labels):
        raise StageError(f"the {name} split and the bundle know different classes: run dvc repro to build both again")


def systems(
    predictor: Predictor, texts: Sequence[str], name: str
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Raw posts answered by each part of a bundle and by the whole (`evaluation.probabilities`), which of them the
    linear part answers alone, and the transformer's logits.

    The transformer runs once for all systems.
    """
    parts = []
    with tqdm(total=len(texts), desc=name, unit="post") as progress:
        for start in range(0, len(texts), CHUNK):
            cleaned = [predictor.cleaning(text) for text in texts[start : start + CHUNK]]
            parts.append(raw_scores(predictor, cleaned))
            progress.update(len(cleaned))
    logits, scores = (np.concatenate(part) for part in zip(*parts, strict=True))
    return evaluation.probabilities(predictor.fusion, logits, scores), predictor.fusion.sure(scores), logits


def draw(folder: Path, judged: Judged, names: tuple[str, ...]) -> None:
    """Write the pictures of an evaluation, and the same as tables for DVC's own plots."""
    actual, shipped, figures = judged.actual, judged.shipped, judged.figures
    predicted = shipped.argmax(axis=1)
    plots.confusion_matrix(folder / "confusion.png", metrics.confusion(actual, predicted, len(names)), names)
    rows = [[names[a], names[p]] for a, p in zip(actual, predicted, strict=True)]
    write_csv(folder / "confusion.csv", ["actual", "predicted"], rows)

    # The linear part's scores are no probabilities, so that only the transformer has a curve before calibration.
    before, after = "transformer alone, as trained", "as shipped, calibrated"
    curves = {before: reliability(actual, judged.deep), after: reliability(actual, shipped)}
    errors = {before: figures["deep"]["ece"], after: figures["shipped"]["ece"]}
    plots.reliability_diagram(folder / "reliability.png", curves, errors)
    curve = curves[after]
    filled = [metrics.rounded([float(v) for v in bin_]) for bin_ in zip(*curve.values(), strict=True) if bin_[2]]
    write_csv(folder / "reliability.csv", list(curve), filled)

    coverage, risk = risk_coverage(actual, shipped)
    area, answered = (figures["shipped"][name] for name in ("risk_area", "answered"))
    plots.risk_coverage_curve(folder / "risk_coverage.png", coverage, risk, area, answered)
    points = np.unique(np.linspace(0, len(actual) - 1, CURVE_POINTS).astype(int))
    table = [metrics.rounded([float(coverage[i]), float(risk[i])]) for i in points]
    write_csv(folder / "risk_coverage.csv", ["coverage", "risk"], table)


def predictions(split: Dataset, probabilities: np.ndarray, names: list[str]) -> Dataset:
    """One row a post: id, label and all probabilities."""
    columns = {"id": split["id"], "label": split["label"], "probabilities": probabilities.astype(np.float32)}
    kinds = {
        "id": Value("string"),
        "label": ClassLabel(names=names),
        "probabilities": List(Value("float32")),
    }
    return Dataset.from_dict(columns, Features(kinds))


if __name__ == "__main__":
    main()
