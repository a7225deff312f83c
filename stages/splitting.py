"""Posts held apart from training, so that scores on them say something about new posts."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence

import numpy as np
from datasets import Dataset
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from stages.corpus import label_names
from stages.duplicates import groups, near_duplicates, threads
from stages.stage import StageError

log = logging.getLogger(__name__)

# Of the ways that keep posts together: which.
_TOGETHER = {"duplicates": "nearly the same", "thread": "nearly the same or begin alike"}
# A validation split is far from the asked size where it is off by this part of it.
_FAR = 1 / 3


def split_validation(dataset: Dataset, how: str, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Split off a validation share of about `share`: (train, validation), each in the order of the corpus.

    how, share: as of `held_out`. Raises StageError where a class cannot stand in both.
    """
    names = label_names(dataset)
    try:
        # As the posts came, so that the same ones validate whatever cleaning drops.
        chosen = held_out(list(dataset["text"]), [names[label] for label in dataset["label"]], how, share, seed)
    except ValueError as error:
        raise StageError(
            f"the training posts cannot be split by class: {error}; add posts, raise data.limit where it is set, or "
            "change prepare.split or prepare.validation"
        ) from error
    asked = share * len(dataset)
    if abs(len(chosen) - asked) > _FAR * asked:
        log.warning("validation has %d posts instead of about %.0f: see prepare.split", len(chosen), asked)
    return dataset.select(np.setdiff1d(np.arange(len(dataset)), chosen)), dataset.select(chosen)


def held_out(texts: Sequence[str], labels: Sequence[str], how: str, share: float, seed: int) -> np.ndarray:
    """Positions, in order, of about `share` (at most a half) of the posts, which are held apart; every class is on both
    sides.

    how: `random`, stratified by class; `late`, the last posts of each class; `duplicates`, stratified, with posts that
    are nearly the same kept together; `thread`, with those and whole threads kept together. The last two take one fold
    of round(1 / share). labels: the class names. Raises ValueError where a class cannot stand on both sides.
    """
    names, classes = np.unique(labels, return_inverse=True)
    pairs = np.empty((0, 2), dtype=np.int32)
    if how in _TOGETHER:
        first, near = near_duplicates(texts)
        same = np.stack([first, np.arange(len(first))], axis=1, dtype=np.int32)
        pairs = np.concatenate([same, near, *([threads(texts)] if how == "thread" else [])])
    group = groups(len(texts), pairs)
    for label, name in enumerate(names):
        own = group[classes == label]
        if len(own) == 1:
            raise ValueError(f"{name} has one post")
        if len(set(own)) == 1:
            raise ValueError(f"the posts of {name} are {_TOGETHER[how]}, and are kept together")
    if how == "random":
        _, chosen = train_test_split(np.arange(len(classes)), test_size=share, random_state=seed, stratify=classes)
    elif how == "late":
        chosen = _last(classes, share)
    else:
        chosen = _fold(classes, group, share, seed)
    held = _divided(np.isin(np.arange(len(classes)), chosen), classes, group)
    if whole := _undivided(held, classes):
        raise ValueError(f"the posts of {names[whole[0]]} are {_TOGETHER[how]} as those of other classes")
    return np.flatnonzero(held)


def check_classes(splits: dict[str, Dataset]) -> None:
    """Raise StageError where a split lacks a class."""
    for name, split in splits.items():
        names = label_names(split)
        if missing := set(range(len(names))) - set(split["label"]):
            lacking = ", ".join(names[label] for label in sorted(missing))
            raise StageError(
                f"no post of {lacking} in {name}: add posts that cleaning leaves something of, or raise data.limit "
                "where it is set"
            )


def _last(classes: np.ndarray, share: float) -> np.ndarray:
    """Positions of the last posts of each class, at least one."""
    places = (np.flatnonzero(classes == label) for label in np.unique(classes))
    return np.concatenate([own[-max(1, round(share * len(own))) :] for own in places])


def _fold(classes: np.ndarray, group: np.ndarray, share: float, seed: int) -> np.ndarray:
    """The fold of whole groups that divides the most classes, and of these the one whose count of every class is
    nearest to the share of it."""
    total = np.bincount(classes)
    # scikit-learn refuses more folds than the largest class has posts, or than there are groups.
    count = min(max(2, round(1 / share)), total.max(), len(np.unique(group)))
    folds = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # A class with fewer posts than there are folds: it is divided afterwards.
        warnings.filterwarnings("ignore", message="The least populated class")
        candidates = [fold for _, fold in folds.split(classes, classes, group)]

    def fault(fold: np.ndarray) -> tuple[int, float]:
        counts = np.bincount(classes[fold], minlength=len(total))
        whole = (counts == 0) | (counts == total)
        return int(whole.sum()), float(np.abs(counts - share * total).max())

    return min(candidates, key=fault)


def _divided(held: np.ndarray, classes: np.ndarray, group: np.ndarray) -> np.ndarray:
    """`held`, bool [posts], with one whole group moved for every class that stands on one side only: the one that
    leaves the fewest such classes, and of these the smallest."""
    for label in _undivided(held, classes):
        if label in _undivided(held, classes):
            moves = (group == own for own in np.unique(group[classes == label]))
            held = held ^ min(moves, key=lambda move: (len(_undivided(held ^ move, classes)), move.sum()))
    return held


def _undivided(held: np.ndarray, classes: np.ndarray) -> list[int]:
    """Classes with all posts on one side."""
    counts, total = np.bincount(classes[held], minlength=classes.max() + 1), np.bincount(classes)
    return np.flatnonzero((counts == 0) | (counts == total)).tolist()
