"""Stage `select`: the candidate that ships, chosen on validation alone, and the figures people ask for first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from stages import metrics
from stages.corpus import load_split
from stages.evaluation_page import candidates
from stages.files import copy_into, replacing, write_json, write_rows
from stages.html import paragraph, write_section
from stages.inputs import read_earlier, require
from stages.params import load
from stages.paths import EVALUATION, EVALUATION_SECTION, FUSED, METRICS, SELECTED, SELECTED_FILE
from stages.stage import StageError, stage


def main() -> None:
    with stage("select"):
        params = load()
        names = params.train.candidates
        reports = {name: read_earlier(METRICS / "candidates" / f"{name}.json") for name in names}
        baseline = read_earlier(METRICS / "baseline.json")
        name = choose({name: report["validation"]["shipped"]["macro_f1"] for name, report in reports.items()})
        answers = {candidate: load_split(EVALUATION / candidate, "test") for candidate in names}
        gains = {other: gain(answers[name], answers[other], params.seed) for other in names if other != name}
        publish(FUSED / name, SELECTED, {"name": name, "validation": headline(reports[name]["validation"]["shipped"])})
        write_json(METRICS / "quality.json", quality(name, reports, baseline, gains))
        write_rows(METRICS / "quality", rows(reports[name]["test"]))
        evaluated = require(EVALUATION / name / EVALUATION_SECTION).read_text(encoding="utf-8")
        write_section("evaluation", paragraph(f"The candidate that ships: {name}."), evaluated, *candidates(gains))
        print(f"selected: {name}")


def gain(first: Dataset, second: Dataset, seed: int) -> dict[str, Any]:
    """What the first of two candidates gains over the second on test, paired, from what `evaluate` wrote of each.

    Raises StageError where the two did not answer the same posts.
    """
    if first["id"][:] != second["id"][:]:
        raise StageError("the candidates were evaluated on different posts: run the evaluate stages again")
    systems = (np.array(split["probabilities"]) for split in (first, second))
    return metrics.rounded(metrics.paired_gain(np.array(first["label"]), *systems, seed))


def choose(validation: dict[str, float]) -> str:
    """The name with the best validation macro-F1; of equals, the first named."""
    return max(validation, key=lambda name: validation[name])


def publish(bundle: Path, target: Path, choice: dict[str, Any]) -> None:
    """Copy the chosen bundle to `target` and write down the choice beside it. Raises StageError without a bundle."""
    with replacing(target) as temporary:
        copy_into(temporary, require(bundle, "run the fuse stage"))
        write_json(temporary / SELECTED_FILE, choice)


def quality(
    name: str, reports: dict[str, dict[str, Any]], baseline: dict[str, Any], gains: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """`quality.json`: the selected candidate, the linear baseline, and every candidate's headline figures.

    reports: the figures of each candidate as `evaluate` writes them. baseline: as the baseline stage writes them.
    gains: of the selected candidate over each of the others.
    """
    chosen = reports[name]
    details = ("accuracy_95", "macro_f1_95", "weighted_f1", "top3", "ece", "answered", "answered_precision")
    return {
        "selected": {
            "name": name,
            "validation": headline(chosen["validation"]["shipped"]),
            "test": {
                **headline(chosen["test"]["shipped"], details),
                "fast_share": chosen["test"]["fast_share"],
            },
            "over_baseline": chosen["test"]["over_baseline"],
            **({"over_candidates": gains} if gains else {}),
        },
        "baseline": {split: headline(baseline[split]) for split in ("validation", "test")},
        "candidates": {
            candidate: {split: headline(report[split]["shipped"]) for split in ("validation", "test")}
            for candidate, report in reports.items()
        },
    }


def rows(test: dict[str, Any]) -> dict[str, dict[str, float]]:
    """A row of metrics for each system that `evaluate` has scored on test: accuracy, macro-F1, and the calibration
    error of those that give probabilities."""
    systems = ("baseline", "wide", "deep", "fused", "shipped")
    return {
        system: headline(test[system], [key for key in ("ece",) if key in test[system]])
        for system in systems
        if system in test
    }


def headline(scores: dict[str, Any], more: Sequence[str] = ()) -> dict[str, Any]:
    """Accuracy and macro-F1 of one system, and whichever other figures are named."""
    return metrics.headline(scores) | {key: scores[key] for key in more}


if __name__ == "__main__":
    main()
