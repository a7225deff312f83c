"""What a tuning study found: a table of its trials, the importance of each parameter, and pictures of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import optuna
from matplotlib.figure import Figure
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState

from stages.figures import save
from stages.files import write_csv, write_json
from stages.paths import METRICS, PLOTS

FOLDER = PLOTS / "tuning"
# A forest over fewer trials than that explains nothing.
FEWEST = 4


def write_report(study: optuna.Study, trials: Sequence[FrozenTrial], seed: int) -> None:
    """Write `tuning.json`, the table and the pictures of the ended trials."""
    names = list(trials[0].params)
    rows = [
        [trial.number, trial.state.name.lower(), *(trial.params[name] for name in names), round(score(trial), 4)]
        for trial in trials
    ]
    write_csv(FOLDER / "trials.csv", ["trial", "state", *names, "validation_macro_f1"], rows)
    slices(trials, names)
    weights = importance(study, seed)
    if weights:
        bars(weights)
    write_json(
        METRICS / "tuning.json",
        {
            "trials": len(trials),
            "pruned": sum(trial.state == TrialState.PRUNED for trial in trials),
            "best": {"validation_macro_f1": round(study.best_value, 4), **study.best_params},
            "importance": weights,
        },
    )


def score(trial: FrozenTrial) -> float:
    """Best macro-F1 that a trial reached, pruned or not."""
    return max(trial.intermediate_values.values())


def importance(study: optuna.Study, seed: int) -> dict[str, float]:
    """Share of the variance that each parameter explains; nothing where too few trials were completed.

    Functional ANOVA of a random forest: Hutter et al. 2014, https://proceedings.mlr.press/v32/hutter14.html
    """
    values = {trial.value for trial in study.get_trials(states=(TrialState.COMPLETE,))}
    if len(values) < FEWEST:
        return {}
    found = optuna.importance.get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=seed))
    return {name: round(value, 4) for name, value in found.items()}


def slices(trials: Sequence[FrozenTrial], names: Sequence[str]) -> Figure:
    """Score over each parameter, a panel each; hollow where the trial was pruned. Returns the figure that it wrote."""
    figure = Figure(figsize=(3 * len(names), 3), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), sharey=True, squeeze=False)[0], names, strict=True):
        for trial in trials:
            pruned = trial.state == TrialState.PRUNED
            axes.plot(trial.params[name], score(trial), "o", color="C0", fillstyle="none" if pruned else "full")
        axes.set(xlabel=name, xscale="log" if name == "lr" else "linear")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("validation macro-F1")
    return save(figure, FOLDER / "slices.png")


def bars(weights: Mapping[str, float]) -> Figure:
    """Importance of each parameter, the largest on top. Returns the figure that it wrote."""
    figure = Figure(figsize=(5, 0.5 + 0.4 * len(weights)), layout="constrained")
    axes = figure.subplots()
    axes.barh(list(weights)[::-1], list(weights.values())[::-1])
    axes.set_xlabel("share of the variance of validation macro-F1")
    return save(figure, FOLDER / "importance.png")
