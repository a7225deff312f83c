"""How far the posts that are served have moved from those that the model was built on: one figure a feature."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from handlers.predictor import Answer

DRIFT_FILE = "drift.json"
# Posts in the sliding window. The index of two samples of one population is not zero: it is about (bins - 1) x
# (1 / posts here + 1 / posts there), with twenty classes and a thousand posts 0.02 and more; fewer posts would only
# show noise.
WINDOW = 1000
# The figures move little from one post to the next.
STEP = 100


@dataclass(frozen=True)
class Bins:
    """One feature of the posts at build time: a number, cut at `edges` (ascending), and how many fell into each bin."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, values: np.ndarray, edges: Sequence[float]) -> Bins:
        """Count `values` [posts] between `edges`."""
        counts = np.bincount(place(values, edges), minlength=len(edges) + 1)
        return cls(tuple(float(edge) for edge in edges), tuple(int(count) for count in counts))


def features(answers: Sequence[Answer], labels: Sequence[str]) -> dict[str, np.ndarray]:
    """What is watched, a number a post: words, share of words that the wide part does not know, index of the label."""
    words = np.array([answer.words for answer in answers])
    unknown = np.array([answer.unknown for answer in answers])
    index = {label: position for position, label in enumerate(labels)}
    return {
        "length": words,
        "unknown": unknown / np.maximum(words, 1),
        "label": np.array([index[answer.label] for answer in answers]),
    }


def place(values: np.ndarray, edges: Sequence[float]) -> np.ndarray:
    """The bin of each value: the number of edges that it exceeds. So a feature that was always the same, at its one
    edge, has a bin above for what is new."""
    return np.searchsorted(edges, values, side="left")


def stability(expected: Sequence[int], observed: Sequence[int]) -> float:
    """Population stability index of two counts over the same bins: `sum((o - e) ln(o / e))` over shares.

    Zero where the shares are the same; customarily read as little change below 0.1 and as a significant one above 0.25
    (Yurdakul and Naranjo 2020, https://ideas.repec.org/a/rsk/journ5/7725371.html). Half a post is added to every bin,
    so that an empty one does not make it infinite.
    """
    shares = [(np.asarray(counts) + 0.5) / (np.sum(counts) + 0.5 * len(counts)) for counts in (expected, observed)]
    return float(np.sum((shares[1] - shares[0]) * np.log(shares[1] / shares[0])))


class Drift:
    """The last WINDOW posts against the reference of the build."""

    def __init__(self, reference: Mapping[str, Bins]) -> None:
        self.reference = dict(reference)
        self._window = np.zeros((len(self.reference), WINDOW), dtype=np.int64)
        self._seen = 0

    def add(self, values: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Take in served posts, a number a post and feature. Returns the index of each feature where one is due: every
        STEP posts, once the window is full; else nothing."""
        before = self._seen
        bins = np.stack([place(values[name], feature.edges) for name, feature in self.reference.items()])
        for column in bins.T:
            self._window[:, self._seen % WINDOW] = column
            self._seen += 1
        if self._seen < WINDOW or before // STEP == self._seen // STEP:
            return {}
        return {
            name: stability(feature.counts, np.bincount(row, minlength=len(feature.counts)))
            for (name, feature), row in zip(self.reference.items(), self._window, strict=True)
        }


def save(reference: Mapping[str, Bins], folder: Path) -> None:
    """Write `drift.json` into `folder`."""
    fields = {name: asdict(feature) for name, feature in reference.items()}
    (folder / DRIFT_FILE).write_text(json.dumps(fields, indent=1) + "\n")


def load(folder: Path) -> dict[str, Bins]:
    """Read what `save` wrote. Raises FileNotFoundError where it is missing."""
    fields = json.loads((folder / DRIFT_FILE).read_text())
    return {name: Bins(tuple(item["edges"]), tuple(item["counts"])) for name, item in fields.items()}
