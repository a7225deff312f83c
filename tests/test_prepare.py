"""Cleaning, limits, and splits on disk."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from datasets import Dataset

from handlers.text import Cleaning
from stages import prepare
from stages.corpus import RAW_COLUMNS, features, load_split, processes_for, save_split
from stages.prepare import clean_split, share_limit
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
    split, empty = clean_split(raw([("Hello, World!", 0), ("123 --", 1), ("Moon", 1)]), CLEANING, 0)
    assert empty == 1
    assert split["text"][:] == ["Hello, World!", "Moon"]
    assert split["clean"][:] == ["hello world", "moon"]
    assert split["id"][:] == ["train-0", "train-2"]


def test_several_processes_clean_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    posts = raw([(f"Post, number {number}!" if number % 3 else "--", number % 2) for number in range(30)])
    alone, empty = clean_split(posts, CLEANING, 0)
    asked: list[int | None] = []
    monkeypatch.setattr(prepare, "processes_for", lambda *_: asked.append(2) or 2)
    together, also_empty = clean_split(posts, CLEANING, 0)
    assert asked == [2] and empty == also_empty == 10
    assert together.to_dict() == alone.to_dict() and together.features == alone.features


def test_processes_are_worth_their_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.corpus.usable_cores", lambda: 4)
    assert [processes_for(rows, 100) for rows in (0, 199, 200, 399, 9999)] == [None, None, 2, 3, 4]


def test_limit_is_of_each_class() -> None:
    split, _ = clean_split(raw([("x", 0)] * 5 + [("y", 1)] * 3), CLEANING, 2)
    assert Counter(split["label"]) == {0: 2, 1: 2}


def test_limit_is_divided_in_proportion() -> None:
    assert share_limit(40, {"train": 600, "test": 400}) == {"train": 24, "test": 16}
    assert share_limit(0, {"train": 600, "test": 400}) == {"train": 0, "test": 0}
    assert min(share_limit(1, {"train": 600, "test": 400}).values()) == 1


def test_posts_that_cleaning_leaves_nothing_of_name_what_cleans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = (Path(__file__).parents[1] / "params.yaml").read_bytes()
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_bytes(parameters)
    for name in ("train", "test"):
        save_split(raw([(f"{number} --", number % 2) for number in range(20)]), prepare.RAW, name)
    with pytest.raises(SystemExit, match=r"nothing of any training post: set prepare\.letters_only or .*stop_words"):
        prepare.main()


def test_splits_survive_the_disk_with_their_names(tmp_path: Path) -> None:
    split, _ = clean_split(raw([("x", 0), ("y", 1)]), CLEANING, 0)
    save_split(split, tmp_path, "train")
    back = load_split(tmp_path, "train")
    assert back.features == split.features
    assert back.to_dict() == split.to_dict()
    with pytest.raises(StageError, match="dvc repro"):
        load_split(tmp_path, "test")
