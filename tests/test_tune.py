"""A study of a few trials on the tiny model: seeded, resumable, on training and validation posts only."""

from __future__ import annotations

import csv
import os
import signal
from collections import Counter
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import optuna
import pytest
from datasets import Dataset
from optuna.trial import FixedTrial, TrialState

from handlers.model import Classifier
from handlers.text import TOKENIZER_FILE
from stages import tune, tuning_report
from stages.corpus import features, save_split
from stages.files import read_json
from stages.params import Augment, Train
from stages.stage import StageError
from stages.tune import PrunedTrainer, Task, ended, part_of, search, starting_point, suggest
from stages.tuning_report import write_report
from tests.conftest import LABELS
from tests.test_training import SETTINGS

# Within the search space.
START = replace(SETTINGS, epochs=2, lr=1e-4)
AUGMENT = Augment(share=0.0, copies=1, synonym_rate=0.0, deletion_rate=0.0, importance="tfidf")


@pytest.fixture
def task(
    tiny_bundle: Path, corpus: tuple[list[str], list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Task:
    """The tiny encoder with a checkpoint of its own; a WordNet that knows no synonym."""
    candidate = tmp_path / "tiny"
    Classifier.load(tiny_bundle).encoder.save_pretrained(candidate)
    (candidate / TOKENIZER_FILE).write_bytes((tiny_bundle / TOKENIZER_FILE).read_bytes())
    monkeypatch.setattr("stages.augment.WordNet", lambda _: lambda _: ())
    # The tiny encoder has 64 positions.
    monkeypatch.setattr(tune, "WINDOWS", (16, 32))
    monkeypatch.setattr(tune, "HEADS", (0, 8))
    texts, labels = corpus
    columns = {"id": [f"p{i}" for i in range(len(texts))], "text": texts, "clean": texts, "label": labels}
    posts = Dataset.from_dict(columns, features(list(LABELS)))
    return Task(posts, posts, candidate, tmp_path, START, AUGMENT, 0)


def points(study: optuna.Study) -> list[tuple[dict[str, Any], float]]:
    return [(trial.params, tuning_report.score(trial)) for trial in ended(study)]


def test_a_study_repeats_itself_and_goes_on(task: Task, tmp_path: Path) -> None:
    first = points(search(task, 2, tmp_path / "a"))
    assert first == points(search(task, 2, tmp_path / "b"))
    longer = points(search(task, 3, tmp_path / "a"))
    assert longer[:2] == first
    assert len({str(params) for params, _ in longer}) == 3


def test_trials_of_another_setting_data_code_or_library_are_not_taken_over(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search(task, 1, tmp_path)
    backwards = task.train.select(range(len(task.train))[::-1])
    for other in (
        replace(task, settings=replace(START, label_smoothing=0.1)),
        replace(task, augment=replace(AUGMENT, copies=2)),
        replace(task, seed=1),
        replace(task, train=backwards),
        replace(task, validation=backwards),
    ):
        assert not ended(search(other, 0, tmp_path))
    candidates = replace(task, settings=replace(START, candidates=("minilm", "bert")))
    assert len(ended(search(candidates, 0, tmp_path))) == 1
    with monkeypatch.context() as patch:
        patch.setattr(tune, "CODE", tune.CODE[1:])
        assert not ended(search(task, 0, tmp_path))
    for changed in ("torch", "nltk"):
        with monkeypatch.context() as patch:
            for module in ("stages.train", "stages.tune"):
                patch.setattr(f"{module}.version", lambda name, own=changed: "0" if name == own else version(name))
            assert not ended(search(task, 0, tmp_path))


def test_the_parameters_as_they_stand_are_the_first_trial(task: Task, tmp_path: Path) -> None:
    first, second = search(task, 2, tmp_path / "study").trials
    assert suggest(FixedTrial(first.params), START, AUGMENT) == (START, AUGMENT)
    assert second.params != first.params
    outside = replace(task, settings=replace(START, head=(8, 8)))
    assert ended(search(outside, 1, tmp_path / "outside"))


@pytest.mark.parametrize(
    ("section", "values"),
    [
        (START, {"lr": 1e-3}),
        (START, {"lr": 1e-5}),
        (START, {"dropout": 0.6}),
        (START, {"max_tokens": 512}),
        (START, {"head": (8, 8)}),
        (AUGMENT, {"synonym_rate": 0.4}),
        (AUGMENT, {"deletion_rate": 0.4}),
        (AUGMENT, {"share": 0.6}),
    ],
)
@pytest.mark.usefixtures("task")
def test_parameters_outside_the_search_space_start_nothing(section: Train | Augment, values: dict[str, Any]) -> None:
    assert starting_point(START, AUGMENT)
    changed = replace(section, **values)
    assert starting_point(*((changed, AUGMENT) if section is START else (START, changed))) is None


def test_the_parameters_as_they_stand_are_tried_again_where_they_failed(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise StageError("wordnet is missing")

    with monkeypatch.context() as patch:
        patch.setattr(tune, "build", fail)
        for _ in range(2):
            with pytest.raises(StageError, match="wordnet is missing"):
                search(task, 2, tmp_path / "study")
    # Waiting from a run before this one, it is not queued twice.
    search(task, 0, tmp_path / "study")
    *failed, again, other = search(task, 2, tmp_path / "study").trials
    assert [trial.state for trial in failed] == [TrialState.FAIL] * 2
    assert suggest(FixedTrial(again.params), START, AUGMENT) == (START, AUGMENT)
    assert again.params == failed[0].params == failed[1].params != other.params


def test_a_trial_that_was_killed_is_tried_again(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class KilledError(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(tune, "build", killed)
        # What a kill leaves: a trial that was never told how it ended.
        patch.setattr("optuna.study._optimize._tell_with_warning", killed)
        with pytest.raises(KilledError):
            search(task, 1, tmp_path / "study")
    study = search(task, 1, tmp_path / "study")
    interrupted, again = study.trials
    assert (interrupted.state, again.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert interrupted.params == again.params


@pytest.mark.usefixtures("ctrl_c")
def test_a_trial_that_ctrl_c_ended_is_tried_again(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = PrunedTrainer.step

    def press(self: PrunedTrainer, batch: list[int], optimizer: Any) -> float:
        os.kill(os.getpid(), signal.SIGINT)
        return usual(self, batch, optimizer)

    def press_at_once(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PrunedTrainer, "step", press)
        with pytest.raises(StageError, match="interrupted at step 1 of 6; run again, it begins anew"):
            search(task, 1, tmp_path / "study")
    with monkeypatch.context() as patch:
        patch.setattr(tune, "build", press_at_once)
        with pytest.raises(KeyboardInterrupt):
            search(task, 1, tmp_path / "study")
    *interrupted, again = search(task, 1, tmp_path / "study").trials
    assert [trial.state for trial in interrupted] == [TrialState.FAIL] * 2
    assert again.state == TrialState.COMPLETE
    assert interrupted[0].params == interrupted[1].params == again.params
    assert not list((tmp_path / "study").glob("*.pt"))


def test_a_study_of_no_trials_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["tune", "--trials", "0"])
    with pytest.raises(SystemExit):
        tune.main()
    assert "argument --trials: 0 is too few: at least 1" in capsys.readouterr().err


def test_a_candidate_that_was_not_fetched_begins_no_study(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = (Path(__file__).parents[1] / "params.yaml").read_bytes()
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_bytes(parameters)
    for name in ("train", "validation"):
        save_split(task.train, tune.PREPARED, name)
    monkeypatch.setattr("sys.argv", ["tune", "--candidate", "mpnet"])
    with pytest.raises(SystemExit, match=r"tokenizer\.json is missing: run the fetch stage with this candidate"):
        tune.main()
    assert not tune.TUNING.exists()


def test_a_hopeless_trial_is_pruned(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda _: True)
    (trial,) = ended(search(task, 1, tmp_path / "study"))
    assert trial.state == TrialState.PRUNED
    assert len(trial.intermediate_values) == 1


@pytest.mark.parametrize("settings", [{"epochs": 2}, {"epochs": 9, "patience": 1}])
def test_a_trial_that_is_over_is_not_pruned(
    settings: dict[str, int], task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The second evaluation is the last: of all, or as it is no better than the first.
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda trial: trial.study.trials[-1].last_step == 2)
    monkeypatch.setattr("stages.training.f1_score", lambda *_, **__: 0.5)
    (trial,) = ended(search(replace(task, settings=replace(START, **settings)), 1, tmp_path / "study"))
    assert (trial.state, trial.last_step) == (TrialState.COMPLETE, 2)


def test_the_part_is_stratified_and_seeded(task: Task) -> None:
    part = part_of(task.train, 6, seed=1)
    assert Counter(part["label"]) == {0: 2, 1: 2, 2: 2}
    assert part["id"][:] == part_of(task.train, 6, seed=1)["id"][:]
    assert len(part_of(task.train, 100, seed=1)) == 9
    with pytest.raises(StageError, match="2 posts are too few for 3 classes: raise --posts"):
        part_of(task.train, 2, seed=1)


@pytest.mark.parametrize("posts", [3, 50, 118])
def test_the_part_has_every_class_however_small(posts: int) -> None:
    names = [f"p{i}" for i in range(120)]
    columns = {"id": names, "text": names, "clean": names, "label": [0] * 79 + [1] * 40 + [2]}
    part = part_of(Dataset.from_dict(columns, features(["a", "b", "c"])), posts, seed=1)
    counts = Counter(part["label"])
    assert counts[2] == 1 and counts[1] == max(1, round(posts / 3))
    assert abs(len(part) - posts) <= 1
    assert part["id"][:] == sorted(part["id"], key=names.index)


def test_the_report_shows_every_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning_report, "FOLDER", tmp_path / "plots")
    monkeypatch.setattr(tuning_report, "METRICS", tmp_path)

    def objective(trial: optuna.Trial) -> float:
        value = trial.suggest_float("lr", 1e-5, 1e-3, log=True) * 100 + trial.suggest_float("dropout", 0, 1) / 1000
        trial.report(value, 1)
        if trial.number == 7:
            raise optuna.TrialPruned
        return value

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=8)
    write_report(study, ended(study), 0)
    metrics = read_json(tmp_path / "tuning.json")
    assert (metrics["trials"], metrics["pruned"]) == (8, 1)
    assert next(iter(metrics["importance"])) == "lr"
    assert metrics["best"]["lr"] == study.best_params["lr"]
    with (tmp_path / "plots" / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["complete"] * 7 + ["pruned"]
    for name in ("slices", "importance"):
        assert (tmp_path / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    panels = tuning_report.slices(ended(study), ["lr", "dropout"]).axes
    assert [(axes.get_xlabel(), axes.get_xscale()) for axes in panels] == [("lr", "log"), ("dropout", "linear")]
    assert panels[0].get_ylabel() == "validation macro-F1"
    marks = [(*line.get_xydata()[0], line.get_fillstyle()) for line in panels[0].lines]
    assert marks == [
        (trial.params["lr"], tuning_report.score(trial), "none" if trial.number == 7 else "full")
        for trial in ended(study)
    ]
    (axes,) = tuning_report.bars(metrics["importance"]).axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    shown = dict(zip(names, (bar.get_width() for bar in axes.patches), strict=True))
    assert list(shown.items())[::-1] == list(metrics["importance"].items()), "the largest on top"
