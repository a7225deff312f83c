"""Posts held apart from training, so that scores on them say something about new posts."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from datasets import Dataset
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from stages.corpus import label_names
from stages.duplicates import groups, near_duplicates, threads
from stages.stage import StageError


def split_validation(dataset: Dataset, how: str, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Split off a validation share of about `share`: (train, validation), each in the order of the corpus.

    how, share: as of `held_out`. Raises StageError where a class has too few posts to stand in both.
    """
    labels = np.array(dataset["label"])
    try:
        # As the posts came, so that the same ones validate whatever cleaning drops.
        chosen = held_out(list(dataset["text"]), labels, how, share, seed)
    except ValueError as error:
        raise StageError(
            f"the training posts cannot be split by class: {error}; add posts, or raise data.limit where it is set"
        ) from error
    return dataset.select(np.setdiff1d(np.arange(len(labels)), chosen)), dataset.select(chosen)


def held_out(texts: Sequence[str], labels: np.ndarray, how: str, share: float, seed: int) -> np.ndarray:
    """Positions, in order, of about `share` (at most a half) of the posts, which are held apart.

    how: `random`, stratified by class; `late`, the last posts of each class; `duplicates`, stratified, with posts that
    are nearly the same kept together; `thread`, with those and whole threads kept together. The last two take one fold
    of round(1 / share). Raises ValueError where a class has too few posts to stand in both.
    """
    if how == "random":
        _, chosen = train_test_split(np.arange(len(labels)), test_size=share, random_state=seed, stratify=labels)
    elif how == "late":
        chosen = _last(labels, share)
    else:
        pairs = near_duplicates(texts) + (threads(texts) if how == "thread" else [])
        chosen = _fold(labels, groups(len(texts), pairs), share, seed)
    return np.sort(chosen)


def check_classes(splits: dict[str, Dataset]) -> None:
    """Raise StageError where a split lacks a class."""
    for name, split in splits.items():
        names = label_names(split)
        if missing := set(range(len(names))) - set(split["label"]):
            lacking = ", ".join(names[label] for label in sorted(missing))
            raise StageError(
                f"no post of {lacking} in {name}: add posts that cleaning leaves something of, raise data.limit where "
                "it is set, or change prepare.validation"
            )


def _last(labels: np.ndarray, share: float) -> np.ndarray:
    """Positions of the last posts of each class, at least one."""
    places = (np.flatnonzero(labels == label) for label in np.unique(labels))
    return np.concatenate([own[-max(1, round(share * len(own))) :] for own in places])


def _fold(labels: np.ndarray, group: Sequence[int], share: float, seed: int) -> np.ndarray:
    """The fold of whole groups that divides the most classes, and of these the one whose count of every class is
    nearest to the share of it."""
    folds = StratifiedGroupKFold(max(2, round(1 / share)), shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # A class with fewer posts than there are folds: whether the chosen one has all classes is checked later.
        warnings.filterwarnings("ignore", message="The least populated class")
        candidates = [fold for _, fold in folds.split(labels, labels, group)]
    total = np.bincount(labels)

    def fault(fold: np.ndarray) -> tuple[int, float]:
        counts = np.bincount(labels[fold], minlength=len(total))
        whole = (total > 0) & ((counts == 0) | (counts == total))
        return int(whole.sum()), float(np.abs(counts - share * total).max())

    return min(candidates, key=fault)
