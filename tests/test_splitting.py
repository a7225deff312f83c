"""The validation split: stratified, disjoint, seeded, and with nothing of training in it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from datasets import Dataset

from handlers.text import Cleaning
from stages.corpus import features
from stages.params import SPLITS
from stages.splitting import check_classes, held_out, split_validation
from stages.stage import StageError

WORDS = ["orbit", "moon", "probe", "goalie", "puck", "ice", "engine", "oil", "wheel"]


def posts(rows: list[tuple[str, int]]) -> Dataset:
    columns = {
        "id": [f"train-{i:03d}" for i in range(len(rows))],
        "text": [text for text, _ in rows],
        "clean": [text for text, _ in rows],
        "label": [label for _, label in rows],
    }
    return Dataset.from_dict(columns, features(["a", "b"]))


def thread(number: int) -> str:
    return f"{WORDS[number % 9]} {WORDS[number // 9 % 9]} subject{chr(97 + number % 26)}{chr(97 + number // 26)}"


# Fifty threads of one to three posts, in two classes.
WHOLE = posts(
    [
        (f"{'re ' * bool(reply)}{thread(number)} body {number} {reply} {WORDS[reply]}", number % 2)
        for number in range(50)
        for reply in range(1 + number // 2 % 3)
    ]
)


@pytest.mark.parametrize("how", SPLITS)
def test_validation_is_stratified_disjoint_and_of_the_asked_size(how: str) -> None:
    train, validation = split_validation(WHOLE, how, 0.2, seed=1)
    whole = Counter(WHOLE["label"])
    assert all(abs(count - 0.2 * whole[label]) <= 2 for label, count in Counter(validation["label"]).items())
    assert sorted([*train["id"], *validation["id"]]) == WHOLE["id"][:]
    assert validation["id"][:] == sorted(validation["id"])
    assert validation["id"][:] == split_validation(WHOLE, how, 0.2, seed=1)[1]["id"][:]


@pytest.mark.parametrize("how", ["random", "duplicates", "thread"])
def test_another_seed_gives_another_split(how: str) -> None:
    assert len({tuple(split_validation(WHOLE, how, 0.2, seed)[1]["id"]) for seed in range(3)}) == 3


@pytest.mark.parametrize("seed", range(8))
def test_a_small_class_stands_on_both_sides(seed: int) -> None:
    many = [(f"{thread(i)} body {i}", 0) for i in range(60)]
    few = [(f"rare{chr(97 + i)} words{chr(97 + i)} subject{chr(97 + i)} of the small class", 1) for i in range(3)]
    train, validation = split_validation(posts([*many, *few]), "thread", 0.1, seed)
    check_classes({"train": train, "validation": validation})


def test_no_thread_is_divided() -> None:
    def subjects(split: Dataset) -> set[str]:
        return {text.removeprefix("re ").split(" body")[0] for text in split["clean"]}

    divided = {}
    for how in ("random", "thread"):
        train, validation = split_validation(WHOLE, how, 0.2, seed=1)
        divided[how] = subjects(train) & subjects(validation)
    assert divided["random"], "or the test could not fail"
    assert not divided["thread"]


@pytest.mark.parametrize("how", SPLITS)
def test_cleaning_does_not_move_posts(how: str) -> None:
    stripped = WHOLE.map(lambda row: {"clean": " ".join(word for word in row["clean"].split() if len(word) > 4)})
    assert (
        split_validation(stripped, how, 0.2, seed=1)[1]["id"][:]
        == split_validation(WHOLE, how, 0.2, seed=1)[1]["id"][:]
    )


def test_no_duplicate_is_divided() -> None:
    body = " ".join(f"word{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(60))
    twins = posts([(f"{'x ' * (i % 2)}{body.replace('word', chr(97 + i // 2))}", i % 2) for i in range(40)])
    _, validation = split_validation(twins, "duplicates", 0.2, seed=1)
    numbers = [int(name[-3:]) // 2 for name in validation["id"]]
    assert numbers
    assert set(Counter(numbers).values()) == {2}


@pytest.mark.parametrize("how", ["duplicates", "thread"])
def test_posts_that_cleaning_makes_the_same_are_not_divided(how: str) -> None:
    forms = ["Invoice {} is overdue", "Refund {} was issued", "Parcel {} arrives today", "Parcel {} was delayed"]
    texts = [forms[i % 4].format(10_000 + i) for i in range(40)]
    held = held_out(texts, ["a" if i % 4 < 2 else "b" for i in range(40)], how, 0.5, seed=1)
    clean = [Cleaning(letters_only=True)(text) for text in texts]
    assert not {clean[i] for i in held} & {clean[i] for i in set(range(40)) - set(held.tolist())}


def test_late_takes_the_last_of_each_class() -> None:
    whole = posts([(f"post {i}", i % 2) for i in range(20)])
    assert split_validation(whole, "late", 0.2, seed=1)[1]["id"][:] == [f"train-{i:03d}" for i in range(16, 20)]


@pytest.mark.parametrize("how", SPLITS)
@pytest.mark.parametrize("seed", range(3))
def test_every_class_stands_on_both_sides_whatever_the_share(how: str, seed: int) -> None:
    labels = np.array(["many"] * 60 + [f"few {kind}" for kind in range(8) for _ in range(2)])
    chosen = held_out([thread(i) for i in range(len(labels))], labels, how, 0.2, seed)
    assert set(labels[chosen]) == set(np.delete(labels, chosen)) == set(labels)


def test_classes_of_fewer_posts_than_folds_are_divided() -> None:
    chosen = held_out([thread(i) for i in range(6)], list("aaabbb"), "thread", 0.1, seed=1)
    assert {"aaabbb"[i] for i in chosen} == {"aaabbb"[i] for i in set(range(6)) - set(chosen)} == {"a", "b"}


def test_greeted_posts_validate_as_others_do() -> None:
    greeting = ["Hello, I have ", ""]
    whole = posts([(f"{greeting[i // 2 % 2]}{thread(i)} body {i}", i % 2) for i in range(120)])
    _, validation = split_validation(whole, "thread", 0.1, seed=1)
    assert abs(len(validation) - 12) <= 2
    assert 3 <= sum(text.startswith("Hello") for text in validation["text"]) <= 9


def test_a_validation_split_of_another_size_than_asked_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    split_validation(WHOLE, "thread", 0.2, seed=1)
    assert not caplog.text
    repeated = [(thread(label), label) for label in (0, 1) for _ in range(40)]
    whole = posts([*repeated, *((f"{thread(i)} body {i}", i % 2) for i in range(10, 20))])
    _, validation = split_validation(whole, "thread", 0.2, seed=1)
    assert len(validation) < 12
    assert f"validation has {len(validation)} posts instead of about 18: see prepare.split" in caplog.text


@pytest.mark.parametrize("how", SPLITS)
def test_too_few_posts_to_split_say_so(how: str) -> None:
    with pytest.raises(StageError, match=r"a has one post; add posts, raise data\.limit"):
        split_validation(posts([("x", 0), ("y", 1), ("z", 1)]), how, 0.2, seed=0)


def test_a_class_of_one_thread_names_the_split_as_the_mend() -> None:
    alike = [(f"shuttle launch delayed {WORDS[i]}", 0) for i in range(6)]
    whole = posts([*alike, *((f"{thread(i)} body {i}", 1) for i in range(30))])
    with pytest.raises(StageError, match=r"posts of a are nearly the same or begin alike.* change prepare\.split"):
        split_validation(whole, "thread", 0.2, seed=1)
    check_classes(dict(zip(["train", "validation"], split_validation(whole, "duplicates", 0.2, seed=1), strict=True)))


@pytest.mark.parametrize("how", ["duplicates", "thread"])
def test_fewer_groups_than_folds_are_divided(how: str) -> None:
    texts = [f"{thread(number)} body {number}" for number in range(6)] * 4
    labels = ["a" if number % 6 < 3 else "b" for number in range(24)]
    held = held_out(texts, labels, how, 0.1, 20)
    assert {labels[i] for i in held} == {labels[i] for i in range(24) if i not in held} == {"a", "b"}
    assert not {texts[i] for i in held} & {texts[i] for i in range(24) if i not in held}


def test_classes_that_share_their_posts_are_refused() -> None:
    # Three groups, of which each class has another two: on two sides, one class is always whole.
    with pytest.raises(ValueError, match="nearly the same as those of other classes"):
        held_out(["x", "y", "x", "z", "y", "z"], list("aabbcc"), "duplicates", 0.5, seed=1)


def test_a_split_without_a_class_says_which() -> None:
    with pytest.raises(StageError, match="no post of b in test"):
        check_classes({"test": posts([("x", 0)])})
