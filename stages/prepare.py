"""Stage `prepare`: cleaning, and a validation split held apart from training; the test split stays as it came."""

from __future__ import annotations

import logging
import math
from collections import Counter
from typing import Any

from datasets import Dataset
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from handlers.text import Cleaning
from stages.corpus import COUNTS_FILE, features, label_names, load_split, save_split
from stages.files import replacing, write_json
from stages.params import Prepare, load
from stages.paths import PREPARED, RAW
from stages.splitting import check_classes, split_validation
from stages.stage import StageError, stage

log = logging.getLogger(__name__)


def build_cleaning(settings: Prepare) -> Cleaning:
    """The cleaning that the settings ask for; stop words are scikit-learn's English ones."""
    stop_words = tuple(sorted(ENGLISH_STOP_WORDS)) if settings.stop_words else ()
    return Cleaning(settings.letters_only, stop_words, settings.stem)


def clean_split(raw: Dataset, cleaning: Cleaning, limit: int) -> tuple[Dataset, int]:
    """Clean every post, drop those with nothing left, keep the first `limit` of each class (0 for all).

    Returns the split and how many posts had nothing left.
    """
    kept: Counter[int] = Counter()
    empty = 0
    columns: dict[str, list[Any]] = {"id": [], "text": [], "clean": [], "label": []}
    for row in raw:
        if limit and kept[row["label"]] >= limit:
            continue
        clean = cleaning(row["text"])
        if not clean:
            empty += 1
            continue
        kept[row["label"]] += 1
        for name in columns:
            columns[name].append(clean if name == "clean" else row[name])
    return Dataset.from_dict(columns, features(label_names(raw))), empty


def share_limit(limit: int, sizes: dict[str, int]) -> dict[str, int]:
    """A limit of posts a class, divided among the splits in proportion to their sizes; 0, for all, stays 0."""
    return {name: math.ceil(limit * size / sum(sizes.values())) for name, size in sizes.items()}


def main() -> None:
    with stage("prepare"):
        params = load()
        settings = params.prepare
        cleaning = build_cleaning(settings)
        raw = {name: load_split(RAW, name) for name in ("train", "test")}
        limits = share_limit(params.data.limit, {name: len(split) for name, split in raw.items()})
        cleaned, empty = {}, {}
        for name, split in raw.items():
            cleaned[name], empty[name] = clean_split(split, cleaning, limits[name])
        if not len(cleaned["train"]):
            raise StageError(
                "cleaning leaves nothing of any training post: set prepare.letters_only or prepare.stop_words to false"
            )
        train, validation = split_validation(cleaned["train"], settings.split, settings.validation, params.seed)
        splits = {"train": train, "validation": validation, "test": cleaned["test"]}
        check_classes(splits)
        with replacing(PREPARED) as folder:
            folder.mkdir(parents=True)
            cleaning.save(folder)
            for name, split in splits.items():
                save_split(split, folder, name)
            write_json(folder / COUNTS_FILE, {"empty": empty})
        log.info("%s", {name: len(split) for name, split in splits.items()})


if __name__ == "__main__":
    main()
