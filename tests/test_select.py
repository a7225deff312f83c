"""The choice of the candidate: validation alone decides, and what is published is whole."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from stages import select
from stages.corpus import save_split
from stages.files import read_json, write_json
from stages.paths import EVALUATION_SECTION
from stages.stage import StageError

score = st.floats(0, 1)


def split_report(value: float) -> dict[str, Any]:
    scores = dict.fromkeys(("accuracy", "macro_f1", "weighted_f1", "top3", "ece"), value)
    scores |= {"answered": 0.9, "answered_precision": 0.95}
    scores |= {"accuracy_95": [0, 1], "macro_f1_95": [0, 1]}
    return {"shipped": scores, "fast_share": 0.5, "over_baseline": {"macro_f1": 0.01}}


@settings(deadline=None)
@given(st.lists(score, min_size=1, max_size=3))
def test_the_best_is_chosen_and_of_equals_the_first(values: list[float]) -> None:
    validation = dict(zip("abc", values, strict=False))
    chosen = select.choose(validation)
    assert validation[chosen] == max(values)
    assert chosen == "abc"[values.index(max(values))]


def predictions(accuracy: float) -> Dataset:
    """Twenty answers of which a share is right."""
    labels = [number % 2 for number in range(20)]
    right = round(20 * accuracy)
    sure = [[0.9, 0.1], [0.1, 0.9]]
    columns = {
        "id": [f"post-{number}" for number in range(20)],
        "label": labels,
        "probabilities": [sure[label if number < right else 1 - label] for number, label in enumerate(labels)],
    }
    return Dataset.from_dict(columns)


def run_select(root: Path, validation: dict[str, float], test: dict[str, float], mp: pytest.MonkeyPatch) -> Any:
    """The stage itself, in an empty project where only what it reads is there."""
    mp.chdir(root)
    params = (Path(__file__).parent.parent / "params.yaml").read_text()
    Path("params.yaml").write_text(params.replace("candidates: [minilm]", f"candidates: [{', '.join(validation)}]"))
    for name, value in validation.items():
        write_json(
            Path("outputs/metrics/candidates") / f"{name}.json",
            {"validation": split_report(value), "test": split_report(test[name])},
        )
        evaluated = Path("outputs/evaluation") / name
        save_split(predictions(test[name]), evaluated, "test")
        (evaluated / EVALUATION_SECTION).write_text(f"<p>all about {name}</p>")
        bundle = Path("outputs/models/fused") / name
        bundle.mkdir(parents=True, exist_ok=True)
        (bundle / "config.json").write_text(name)
    baseline = {split: {"accuracy": 0.8, "macro_f1": 0.7, "c": 1} for split in ("validation", "test")}
    write_json(Path("outputs/metrics/baseline.json"), baseline)
    select.main()
    return read_json(Path("outputs/metrics/quality.json"))


def test_test_figures_never_change_the_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    validation = {"minilm": 0.8, "bert": 0.9}
    for test in ({"minilm": 0.1, "bert": 0.2}, {"minilm": 1.0, "bert": 0.0}):
        quality = run_select(tmp_path, validation, test, monkeypatch)
        assert quality["selected"]["name"] == "bert"
        assert quality["selected"]["test"]["macro_f1"] == test["bert"]
        selected = tmp_path / "outputs/models/selected"
        assert (selected / "config.json").read_text() == "bert"
        assert read_json(selected / select.SELECTED_FILE)["name"] == "bert"
    quality = run_select(tmp_path, {"minilm": 0.95, "bert": 0.9}, test, monkeypatch)
    assert quality["selected"]["name"] == "minilm"


def test_the_selected_is_compared_with_the_others_on_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quality = run_select(tmp_path, {"minilm": 0.8, "bert": 0.9}, {"minilm": 0.2, "bert": 0.9}, monkeypatch)
    gain = quality["selected"]["over_candidates"]["minilm"]
    assert gain["accuracy"] == pytest.approx(0.7)
    assert gain["accuracy_95"][0] < 0.7 < gain["accuracy_95"][1]
    assert gain["mcnemar_p"] < 0.01
    section = (tmp_path / "outputs/sections/evaluation.html").read_text()
    assert "all about bert" in section
    assert "all about minilm" not in section
    assert "less the candidate minilm: 70.0" in section


def test_candidates_of_different_posts_are_not_compared() -> None:
    first = predictions(0.5)
    with pytest.raises(StageError, match="different posts"):
        select.gain(first, first.select(range(10)), 0)


def test_quality_has_the_keys_that_people_rely_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quality = run_select(tmp_path, {"minilm": 0.5}, {"minilm": 0.6}, monkeypatch)
    assert quality["selected"]["test"].items() >= {"accuracy": 0.6, "macro_f1": 0.6}.items()
    assert quality["baseline"]["test"] == {"accuracy": 0.8, "macro_f1": 0.7}
    assert quality["candidates"]["minilm"]["validation"] == {"accuracy": 0.5, "macro_f1": 0.5}


def test_quality_does_not_change_what_it_reads() -> None:
    reports = {"minilm": {split: split_report(0.5) for split in ("validation", "test")}}
    before = copy.deepcopy(reports)
    select.quality("minilm", reports, {split: {"accuracy": 1, "macro_f1": 1} for split in ("validation", "test")}, {})
    assert reports == before


def test_missing_inputs_are_clear_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_select(tmp_path, {"minilm": 0.5}, {"minilm": 0.6}, monkeypatch)
    for path in ("metrics/baseline.json", "metrics/candidates/minilm.json", f"evaluation/minilm/{EVALUATION_SECTION}"):
        (tmp_path / "outputs" / path).rename(tmp_path / "elsewhere")
        with pytest.raises(SystemExit, match=f"{path} is missing: run the stage that writes it, or simply dvc repro"):
            select.main()
        (tmp_path / "elsewhere").rename(tmp_path / "outputs" / path)
    with pytest.raises(StageError, match="none is missing: run the fuse stage, or simply dvc repro"):
        select.publish(tmp_path / "none", tmp_path / "outputs/models/selected", {})
    assert (tmp_path / "outputs/models/selected/config.json").is_file(), "what was published before stays"


def test_a_row_of_metrics_for_each_system_that_was_scored() -> None:
    scores = {"accuracy": 0.5, "macro_f1": 0.4, "top3": 0.9}
    test = {"posts": 9, "baseline": scores, "fused": scores | {"ece": 0.1}, "shipped": scores | {"ece": 0.2}}
    assert select.rows(test) == {
        "baseline": {"accuracy": 0.5, "macro_f1": 0.4},
        "fused": {"accuracy": 0.5, "macro_f1": 0.4, "ece": 0.1},
        "shipped": {"accuracy": 0.5, "macro_f1": 0.4, "ece": 0.2},
    }
