"""Stage `prepare`: cleaning, stratified splits, and a report of what the tokenizers cannot read well."""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

from datasets import Dataset
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from sklearn.model_selection import train_test_split
from tokenizers import Tokenizer

from handlers.linear import TOKEN_PATTERN
from handlers.text import TOKENIZER_FILE, Cleaning
from stages.corpus import features, label_names, load_split, save_split
from stages.files import replacing, write_json
from stages.params import load
from stages.paths import METRICS, PREPARED, PRETRAINED, RAW
from stages.stage import StageError, stage

log = logging.getLogger(__name__)


def clean_split(raw: Dataset, cleaning: Cleaning, limit: int) -> Dataset:
    """Clean every post, drop those with nothing left, keep the first `limit` of each class (0 for all)."""
    kept: Counter[int] = Counter()
    columns: dict[str, list[Any]] = {"id": [], "text": [], "clean": [], "label": []}
    for row in raw:
        clean = cleaning(row["text"])
        if not clean or (limit and kept[row["label"]] >= limit):
            continue
        kept[row["label"]] += 1
        for name in columns:
            columns[name].append(clean if name == "clean" else row[name])
    return Dataset.from_dict(columns, features(label_names(raw)))


def share_limit(limit: int, sizes: dict[str, int]) -> dict[str, int]:
    """A limit of posts a class, divided among the splits in proportion to their sizes; 0, for all, stays 0."""
    return {name: math.ceil(limit * size / sum(sizes.values())) for name, size in sizes.items()}


def split_validation(dataset: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Split off a stratified validation share: (train, validation), each in the order of the corpus.

    Raises StageError where a class has too few posts to stand in both.
    """
    try:
        train, validation = train_test_split(
            range(len(dataset)), test_size=share, random_state=seed, stratify=dataset["label"]
        )
    except ValueError as error:
        raise StageError(f"the training posts cannot be split by class: {error}; raise data.limit") from error
    return dataset.select(sorted(train)), dataset.select(sorted(validation))


def load_tokenizer(folder: Path) -> Tokenizer:
    """A checkpoint's tokenizer, without the padding and truncation that its file may ask for."""
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def vocabulary_report(texts: list[str], tokenizer: Tokenizer, known: set[str]) -> dict[str, Any]:
    """Out-of-vocabulary figures of cleaned texts, by running word.

    unknown: share of words that hold an unknown token. pieces: tokens a word. unseen: share of words that no training
    post has. broken: the words cut into the most pieces, and how many.
    """
    counts = Counter(word for text in texts for word in re.findall(TOKEN_PATTERN, text))
    words = sorted(counts)
    unk_id = next((i for i in map(tokenizer.token_to_id, ("[UNK]", "<unk>")) if i is not None), None)
    encodings = tokenizer.encode_batch(words, add_special_tokens=False)
    total = max(counts.total(), 1)
    pieces = {word: len(encoding.ids) for word, encoding in zip(words, encodings, strict=True)}
    unknown = sum(counts[word] for word, encoding in zip(words, encodings, strict=True) if unk_id in encoding.ids)
    repeated = sorted((word for word in words if counts[word] >= 10), key=lambda word: -pieces[word])
    return {
        "unknown": round(unknown / total, 4),
        "pieces": round(sum(counts[word] * pieces[word] for word in words) / total, 4),
        "unseen": round(sum(count for word, count in counts.items() if word not in known) / total, 4),
        "broken": {word: pieces[word] for word in repeated[:10]},
    }


def report(splits: dict[str, Dataset], dropped: dict[str, int], tokenizers: dict[str, Tokenizer]) -> dict[str, Any]:
    """Counts of each split, and the out-of-vocabulary picture of the test split for each tokenizer."""
    known = {word for text in splits["train"]["clean"] for word in re.findall(TOKEN_PATTERN, text)}
    test = list(splits["test"]["clean"])
    names = label_names(splits["train"])
    return {
        "posts": {name: len(split) for name, split in splits.items()},
        "dropped": dropped,
        "classes": {
            name: {names[label]: count for label, count in sorted(Counter(split["label"]).items())}
            for name, split in splits.items()
        },
        "out_of_vocabulary": {
            name: vocabulary_report(test, tokenizer, known) for name, tokenizer in tokenizers.items()
        },
    }


def check_classes(splits: dict[str, Dataset]) -> None:
    """Raise StageError where a split lacks a class."""
    for name, split in splits.items():
        names = label_names(split)
        if missing := set(range(len(names))) - set(split["label"]):
            lacking = ", ".join(names[label] for label in sorted(missing))
            raise StageError(f"no post of {lacking} in {name}: raise data.limit or prepare.validation")


def main() -> None:
    with stage("prepare"):
        params = load()
        settings = params.prepare
        stop_words = tuple(sorted(ENGLISH_STOP_WORDS)) if settings.stop_words else ()
        cleaning = Cleaning(settings.letters_only, stop_words, settings.stem)
        raw = {name: load_split(RAW, name) for name in ("train", "test")}
        limits = share_limit(params.data.limit, {name: len(split) for name, split in raw.items()})
        cleaned = {name: clean_split(split, cleaning, limits[name]) for name, split in raw.items()}
        train, validation = split_validation(cleaned["train"], settings.validation, params.seed)
        splits = {"train": train, "validation": validation, "test": cleaned["test"]}
        check_classes(splits)
        with replacing(PREPARED) as folder:
            folder.mkdir(parents=True)
            cleaning.save(folder)
            for name, split in splits.items():
                save_split(split, folder, name)
        tokenizers = {name: load_tokenizer(PRETRAINED / name) for name in params.train.candidates}
        dropped = {name: len(raw[name]) - len(cleaned[name]) for name in raw}
        write_json(METRICS / "data.json", report(splits, dropped, tokenizers))
        log.info("%s", {name: len(split) for name, split in splits.items()})


if __name__ == "__main__":
    main()
