"""Cleaning, splitting and the out-of-vocabulary report."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from datasets import Dataset

from handlers.text import Cleaning
from stages.corpus import RAW_COLUMNS, features, load_split, save_split
from stages.prepare import check_classes, clean_split, load_tokenizer, report, share_limit, split_validation
from stages.stage import StageError

CLEANING = Cleaning(letters_only=True)


def raw(posts: list[tuple[str, int]]) -> Dataset:
    columns = {
        "id": [f"train-{i}" for i in range(len(posts))],
        "text": [text for text, _ in posts],
        "label": [label for _, label in posts],
    }
    return Dataset.from_dict(columns, features(["a", "b"], RAW_COLUMNS))


def test_clean_split_drops_what_is_empty_and_keeps_the_raw_text() -> None:
    split = clean_split(raw([("Hello, World!", 0), ("123 --", 1), ("Moon", 1)]), CLEANING, 0)
    assert split["text"][:] == ["Hello, World!", "Moon"]
    assert split["clean"][:] == ["hello world", "moon"]
    assert split["id"][:] == ["train-0", "train-2"]


def test_limit_is_of_each_class() -> None:
    split = clean_split(raw([("x", 0)] * 5 + [("y", 1)] * 3), CLEANING, 2)
    assert Counter(split["label"]) == {0: 2, 1: 2}


def test_limit_is_divided_in_proportion() -> None:
    assert share_limit(40, {"train": 600, "test": 400}) == {"train": 24, "test": 16}
    assert share_limit(0, {"train": 600, "test": 400}) == {"train": 0, "test": 0}
    assert min(share_limit(1, {"train": 600, "test": 400}).values()) == 1


def test_validation_is_stratified_disjoint_and_seeded() -> None:
    whole = clean_split(raw([(f"a{chr(97 + i % 26)}", i % 2) for i in range(100)]), CLEANING, 0)
    train, validation = split_validation(whole, 0.2, seed=1)
    assert Counter(validation["label"]) == {0: 10, 1: 10}
    assert set(train["id"]) | set(validation["id"]) == set(whole["id"])
    assert not set(train["id"]) & set(validation["id"])
    assert split_validation(whole, 0.2, seed=1)[1]["id"][:] == validation["id"][:]
    assert split_validation(whole, 0.2, seed=2)[1]["id"][:] != validation["id"][:]


def test_too_few_posts_to_split_say_so() -> None:
    whole = clean_split(raw([("x", 0), ("y", 1), ("z", 1)]), CLEANING, 0)
    with pytest.raises(StageError, match=r"raise data\.limit"):
        split_validation(whole, 0.5, seed=0)


def test_a_split_without_a_class_says_which() -> None:
    split = clean_split(raw([("x", 0)]), CLEANING, 0)
    with pytest.raises(StageError, match="no post of b in test"):
        check_classes({"test": split})


def test_report_counts_unseen_words_and_pieces(tiny_bundle: Path) -> None:
    train = clean_split(raw([("the car has wheels", 0), ("the moon", 1)]), CLEANING, 0)
    test = clean_split(raw([("the car", 0), ("moonlight xylophone", 1)]), CLEANING, 0)
    splits = {"train": train, "validation": train, "test": test}
    figures = report(splits, {"train": 0}, {"tiny": load_tokenizer(tiny_bundle)})
    assert figures["posts"] == {"train": 2, "validation": 2, "test": 2}
    assert figures["classes"]["test"] == {"a": 1, "b": 1}
    vocabulary = figures["out_of_vocabulary"]["tiny"]
    assert vocabulary["unseen"] == 0.5
    assert vocabulary["pieces"] >= 1
    assert 0 <= vocabulary["unknown"] <= 1


def test_splits_survive_the_disk_with_their_names(tmp_path: Path) -> None:
    split = clean_split(raw([("x", 0), ("y", 1)]), CLEANING, 0)
    save_split(split, tmp_path, "train")
    back = load_split(tmp_path, "train")
    assert back.features == split.features
    assert back.to_dict() == split.to_dict()
    with pytest.raises(StageError, match="dvc repro"):
        load_split(tmp_path, "test")
