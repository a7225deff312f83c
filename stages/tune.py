"""`python -m stages.tune --trials 30`: search what `params.yaml` leaves open, on a part of the training posts.

Not a stage of the pipeline: it takes hours, and what it finds goes into params.yaml by hand. Reads the prepared splits,
never test. Started again with the same parameters and posts, it keeps its ended trials and repeats the one that was
interrupted.
"""

from __future__ import annotations

import argparse
import functools
import logging
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from datasets import Dataset
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from handlers.text import Encoder
from stages.acceleration import build_accelerator
from stages.augment import augmented_copies, with_copies
from stages.checkpoint import fingerprint
from stages.corpus import label_names, load_split
from stages.files import sha256
from stages.interruption import InterruptionError
from stages.params import Augment, Train, load
from stages.paths import PREPARED, PROJECT, TUNING, WORDNET
from stages.presets import PRESETS
from stages.stage import StageError, stage
from stages.train import CODE as TRAINING_CODE
from stages.train import build, encode, fetched, libraries
from stages.training import Trainer
from stages.tuning_report import write_report

# Before that many trials have ended there is no median worth the name, and nothing is pruned.
STARTUP_TRIALS = 5
# Widths of the dense layer, 0 for none; tokens of a post that are read.
HEADS = (0, 192, 384, 768)
WINDOWS = (64, 128, 192)
# The least and the most of everything else, rates and shares as of the section augment.
BOUNDS = {
    "lr": (5e-5, 5e-4),
    "dropout": (0.0, 0.5),
    "synonym_rate": (0.0, 0.3),
    "deletion_rate": (0.0, 0.3),
    "share": (0.0, 0.5),
}
# What computes a trial, besides this module, which counts as well.
CODE = (
    *TRAINING_CODE,
    "stages/augment.py",
    "stages/augmentation.py",
    "stages/hardware.py",
    "stages/importance.py",
    "stages/tfidf.py",
    "stages/wordnet.py",
)

# What does, besides what training computes with.
LIBRARIES = ("nltk", "numpy", "scikit-learn")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """What every trial trains on and starts from. train: not augmented. candidate: the encoder's folder. augment: what
    is not tuned of it."""

    train: Dataset
    validation: Dataset
    candidate: Path
    wordnet: Path
    settings: Train
    augment: Augment
    seed: int


class PrunedTrainer(Trainer):
    """A trainer that reports each evaluation to its trial, and stops where the trial is hopeless."""

    def __init__(self, *arguments: Any, trial: optuna.Trial) -> None:
        super().__init__(*arguments)
        self.trial = trial

    def evaluate(self, lr: float) -> bool:
        better = super().evaluate(lr)
        progress, settings = self.progress, self.settings
        self.trial.report(progress.best_f1, len(progress.history))
        # At the end there is nothing left to save, and a complete trial says more.
        over = progress.step == settings.epochs * self.steps_per_epoch or progress.stale >= settings.patience
        if not over and self.trial.should_prune():
            raise optuna.TrialPruned
        return better


def suggest(trial: optuna.Trial, settings: Train, augment: Augment) -> tuple[Train, Augment]:
    """The trial's point of the search space."""
    width = trial.suggest_categorical("head", HEADS)
    tuned = replace(
        settings,
        lr=trial.suggest_float("lr", *BOUNDS["lr"], log=True),
        dropout=trial.suggest_float("dropout", *BOUNDS["dropout"]),
        head=(width,) if width else (),
        max_tokens=trial.suggest_categorical("max_tokens", WINDOWS),
    )
    rates = {name: trial.suggest_float(name, *BOUNDS[name]) for name in ("synonym_rate", "deletion_rate", "share")}
    return tuned, replace(augment, **rates)


def starting_point(settings: Train, augment: Augment) -> dict[str, Any] | None:
    """Where `params.yaml` stands in the search space: what the winner has to beat. None where it stands outside."""
    width = sum(settings.head)
    if len(settings.head) > 1 or width not in HEADS or settings.max_tokens not in WINDOWS:
        return None
    start = {
        "head": width,
        **{name: getattr(settings, name) for name in ("lr", "dropout", "max_tokens")},
        **{name: getattr(augment, name) for name in ("synonym_rate", "deletion_rate", "share")},
    }
    return start if all(low <= start[name] <= high for name, (low, high) in BOUNDS.items()) else None


def objective(trial: optuna.Trial, task: Task) -> float:
    """Validation macro-F1 of one point. Raises TrialPruned where it falls behind the median."""
    try:
        return measure(trial, task)
    except (InterruptionError, KeyboardInterrupt):
        # The point did not fail, though Optuna now notes so: the next run begins with it.
        trial.study.enqueue_trial(trial.params)
        raise


def measure(trial: optuna.Trial, task: Task) -> float:
    """Train on the trial's point without a checkpoint; its best validation macro-F1."""
    settings, augment = suggest(trial, task.settings, task.augment)
    train = with_copies(task.train, augmented_copies(task.train, task.wordnet, augment, task.seed))
    encoder = Encoder(task.candidate, settings.max_tokens)
    splits = encode(train, encoder), encode(task.validation, encoder)
    model = build(task.candidate, label_names(task.train), settings, task.seed)
    trainer = PrunedTrainer(model, *splits, settings, task.seed, build_accelerator(settings.precision), trial=trial)
    return trainer.fit().best_f1


def part_of(train: Dataset, posts: int, seed: int) -> Dataset:
    """About `posts` of the posts, each class in proportion, with one at least; all of them where there are no more.

    Raises StageError where there are more classes than that.
    """
    if posts >= len(train):
        return train
    labels = np.array(train["label"])
    classes, counts = np.unique(labels, return_counts=True)
    if posts < len(classes):
        raise StageError(f"{posts} posts are too few for {len(classes)} classes: raise --posts")
    order = np.random.default_rng(seed).permutation(len(labels))
    shares = np.maximum(1, np.rint(posts * counts / len(labels))).astype(int)
    chosen = [order[labels[order] == label][:share] for label, share in zip(classes, shares, strict=True)]
    return train.select(np.sort(np.concatenate(chosen)))


def study_name(task: Task) -> str:
    """The candidate, and a fingerprint of all that its trials share: figures of anything else do not compare."""
    posts = [[split["clean"][:], split["label"][:]] for split in (task.train, task.validation)]
    code = [sha256(path) for path in (Path(__file__), *(PROJECT / name for name in CODE))]
    settings = task.settings.alone()
    shared = [settings, asdict(task.augment), task.seed, posts, code, libraries(), *map(version, LIBRARIES)]
    return f"{task.candidate.name}-{len(task.train)}-{task.settings.epochs}-{fingerprint(shared)}"


def search(task: Task, trials: int, folder: Path) -> optuna.Study:
    """A study with `trials` ended trials, those of earlier runs included; kept in `folder`, a journal of all it did."""
    folder.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(JournalFileBackend(str(folder / "journal.log")))
    study = optuna.create_study(storage=storage, study_name=study_name(task), direction="maximize", load_if_exists=True)
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        # Killed in the middle; its point is tried again.
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)
    # Not by Optuna's own skip_if_exists, to which a trial that failed counts as one that was made.
    waiting = [trial.system_attrs.get("fixed_params") for trial in study.get_trials(states=(TrialState.WAITING,))]
    start = starting_point(task.settings, task.augment)
    if start and start not in [*waiting, *(trial.params for trial in ended(study))]:
        study.enqueue_trial(start)
    # Another seed for every start: the same one would suggest the first points again.
    study.sampler = TPESampler(seed=task.seed + len(study.trials), n_startup_trials=STARTUP_TRIALS)
    study.pruner = MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=1)
    left = trials - len(ended(study))
    if left > 0:
        study.optimize(functools.partial(objective, task=task), n_trials=left)
    return study


def ended(study: optuna.Study) -> list[FrozenTrial]:
    """The trials with a result, those that were pruned included."""
    return study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))


def positive(text: str) -> int:
    """A number of the command line that is at least 1."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is too few: at least 1")
    return number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidate", choices=PRESETS, default="minilm")
    parser.add_argument("--trials", type=positive, default=30, help="of all runs together")
    parser.add_argument("--posts", type=positive, default=3000, help="of the training split, stratified")
    parser.add_argument("--epochs", type=positive, default=1)
    options = parser.parse_args()
    with stage("tune", timed=False):
        params = load()
        settings = replace(params.train.of(options.candidate), epochs=options.epochs)
        train = part_of(load_split(PREPARED, "train"), options.posts, params.seed)
        validation, candidate = load_split(PREPARED, "validation"), fetched(options.candidate)
        log.info("%s trials on %s posts", options.trials, len(train))
        task = Task(train, validation, candidate, WORDNET, settings, params.augment, params.seed)
        study = search(task, options.trials, TUNING)
        write_report(study, ended(study), params.seed)


if __name__ == "__main__":
    main()
