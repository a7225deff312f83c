"""The prepared splits on disk: one place that knows their folder, their columns and the label names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet
from datasets import ClassLabel, Dataset, Features, Value, disable_progress_bars
from datasets.table import InMemoryTable

from handlers.cores import usable_cores
from stages.files import replacing
from stages.stage import StageError

# id: names a post for good. text: the post as it came. clean: after cleaning. label: index into the names.
COLUMNS = ("id", "text", "clean", "label")
RAW_COLUMNS = ("id", "text", "label")

# Beside the prepared splits: how many raw posts have nothing left after cleaning.
COUNTS_FILE = "counts.json"


def features(labels: list[str], columns: Sequence[str] = COLUMNS) -> Features:
    """The schema of a split; the label names are part of it."""
    return Features({name: ClassLabel(names=labels) if name == "label" else Value("string") for name in columns})


def save_split(dataset: Dataset, folder: Path, name: str) -> None:
    """Write `<folder>/<name>.parquet`, whole; the label names travel in its schema."""
    # A bar for every file of a second's work would hide the ones that matter.
    disable_progress_bars()
    with replacing(folder / f"{name}.parquet") as temporary:
        dataset.to_parquet(str(temporary))


def load_split(folder: Path, name: str) -> Dataset:
    """Read `<folder>/<name>.parquet` into memory. Raises StageError where it is missing."""
    path = folder / f"{name}.parquet"
    if not path.is_file():
        raise StageError(f"{path} is missing: run the stage that writes it, or simply dvc repro")
    # Not Dataset.from_parquet, which would leave a second copy in the user's cache folder.
    return Dataset(InMemoryTable(pyarrow.parquet.read_table(path)))


def processes_for(rows: int, fewest: int) -> int | None:
    """For `datasets.map`: as many processes as there are cores, each with `fewest` rows at least; None for no other."""
    wanted = min(usable_cores(), rows // fewest)
    return wanted if wanted > 1 else None


def label_names(dataset: Dataset) -> list[str]:
    """Class names in the order of the label indices."""
    return list(dataset.features["label"].names)
