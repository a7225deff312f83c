"""Stage `prepare`: cleaning, and a validation split held apart from training; the test split stays as it came."""

from __future__ import annotations

import functools
import logging
import math
from collections import Counter
from typing import Any

from datasets import Dataset
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from handlers.text import Cleaning
from stages.corpus import COUNTS_FILE, features, label_names, load_split, processes_for, save_split
from stages.files import replacing, write_json
from stages.params import Prepare, load
from stages.paths import PREPARED, RAW
from stages.splitting import check_classes, split_validation
from stages.stage import StageError, stage

# Fewer are cleaned sooner than another process has started.
POSTS_PER_PROCESS = 2000

log = logging.getLogger(__name__)


def build_cleaning(settings: Prepare) -> Cleaning:
    """The cleaning that the settings ask for; stop words are scikit-learn's English ones."""
    stop_words = tuple(sorted(ENGLISH_STOP_WORDS)) if settings.stop_words else ()
    return Cleaning(settings.letters_only, stop_words, settings.stem)


def clean_split(raw: Dataset, cleaning: Cleaning, limit: int) -> tuple[Dataset, int]:
    """Clean every post, drop those with nothing left, keep the first `limit` of each class (0 for all).

    Returns the split and how many posts had nothing left, of those that were looked at.
    """
    names = label_names(raw)
    cleaned = raw.map(
        functools.partial(clean_row, cleaning=cleaning),
        features=features(names),
        num_proc=processes_for(len(raw), POSTS_PER_PROCESS),
        desc="clean",
        # What DVC keeps of the stage is the cache.
        new_fingerprint="cleaned",
    )
    kept: Counter[int] = Counter()
    chosen: list[int] = []
    empty = 0
    for index, (label, clean) in enumerate(zip(cleaned["label"], cleaned["clean"], strict=True)):
        if limit and kept[label] >= limit:
            continue
        if not clean:
            empty += 1
            continue
        kept[label] += 1
        chosen.append(index)
    return Dataset.from_dict(cleaned.select(chosen).to_dict(), features(names)), empty


def clean_row(row: dict[str, Any], cleaning: Cleaning) -> dict[str, str]:
    """What `datasets.map` adds to a row."""
    return {"clean": cleaning(row["text"])}


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
