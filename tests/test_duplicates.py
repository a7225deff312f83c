"""Near-duplicates against all pairs compared exactly, threads, and what they connect."""

from __future__ import annotations

import random
from itertools import combinations
from string import ascii_lowercase

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages import duplicates
from stages.duplicates import SHINGLE, THRESHOLD, groups, near_duplicates, threads


def post(seed: int, words: int = 60) -> list[str]:
    letters = random.Random(seed)
    return ["".join(letters.choices(ascii_lowercase, k=4)) for _ in range(words)]


def jaccard(first: str, second: str) -> float:
    sets = [{tuple(w[i : i + SHINGLE]) for i in range(len(w) - SHINGLE + 1)} for w in (first.split(), second.split())]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_near_duplicates_are_those_of_an_exact_comparison() -> None:
    texts = []
    for seed in range(30):
        words = post(seed)
        # Ever more of the post is replaced: from the same text to one that shares little.
        texts += [
            " ".join(words[:-cut] + post(1000 + seed + cut, cut)) if cut else " ".join(words) for cut in (0, 5, 40)
        ]
    exact = [pair for pair in combinations(range(len(texts)), 2) if jaccard(*(texts[i] for i in pair)) >= THRESHOLD]
    assert len(exact) == 30
    first, pairs = near_duplicates(texts)
    assert first.tolist() == list(range(len(texts)))
    assert sorted(map(tuple, pairs.tolist())) == exact


def test_short_empty_and_equal_posts() -> None:
    first, pairs = near_duplicates(["one two", "", "One  two", "three", ""])
    assert first.tolist() == [0, 1, 0, 3, 1]
    assert pairs.shape == (0, 2)
    first, pairs = near_duplicates([])
    assert len(first) == len(pairs) == 0


def test_posts_that_differ_in_numbers_alone_are_the_same() -> None:
    first, pairs = near_duplicates(["Invoice 48213 is overdue", "invoice 9-7 is overdue!", "Invoice 1 is paid"])
    assert first.tolist() == [0, 0, 2]
    assert len(pairs) == 0
    assert near_duplicates(["48213", "97", "97"])[0].tolist() == [0, 1, 1], "of numbers alone there is nothing else"


def test_repeated_posts_are_compared_once() -> None:
    words = post(1)
    texts = [" ".join(words), " ".join([*words, "and", "more"])] * 200
    first, pairs = near_duplicates(texts)
    assert first.tolist() == [0, 1] * 200
    assert pairs.tolist() == [[0, 1]]


def test_pairs_of_a_template_take_eight_bytes_each() -> None:
    words = post(1, 20)
    first, pairs = near_duplicates([" ".join([*words, word]) for word in post(2, 100)])
    assert first.tolist() == list(range(100))
    assert (pairs.dtype, pairs.shape, pairs.nbytes) == (np.int32, (4950, 2), 8 * 4950)
    assert pairs.tolist() == [[earlier, later] for later in range(100) for earlier in range(later)]


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("shuttle launch delayed the shuttle", "re shuttle launch delayed in article", True),
        ("Shuttle Launch: delayed!", "Re: re: shuttle launch delayed, I hear", True),
        ("shuttle launch delayed", "shuttle orbit", False),
    ],
)
def test_a_reply_belongs_to_its_thread(first: str, second: str, same: bool) -> None:
    assert threads([first, "goalie saved the puck", second]).tolist() == ([[0, 2]] if same else [])


def test_a_greeting_is_no_thread() -> None:
    greeted = [f"Hello, I have {' '.join(post(seed, 8))}" for seed in range(30)]
    others = ["shuttle launch delayed", *(" ".join(post(100 + seed, 8)) for seed in range(30))]
    assert threads([*greeted, *others, "re shuttle launch delayed"]).tolist() == [[30, 61]]


def test_a_thread_of_a_large_corpus_may_be_longer() -> None:
    subjects = [f"{chr(97 + i % 26)}{chr(97 + i // 26 % 26)}{chr(97 + i // 676)} launch delayed" for i in range(2000)]
    # 21 of 2,020 posts are more than a hundredth, 25 of 3,024 are not.
    assert len(threads([*subjects, *subjects[:1] * 20])) == 0
    others = [f"another {' '.join(post(seed, 4))}" for seed in range(1000)]
    assert len(threads([*subjects, *others, *subjects[:1] * 24])) == 24


def test_a_thread_of_a_small_corpus_stays_whole() -> None:
    texts = [" ".join(post(seed, 8)) for seed in range(400)]
    assert len(threads([*texts, *["gun control was said"] * 20])) == 19


@settings(max_examples=50)
@given(st.integers(1, 20).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.tuples(*[st.integers(0, n - 1)] * 2)))))
def test_groups_are_the_smallest_that_hold_every_pair(case: tuple[int, list[tuple[int, int]]]) -> None:
    count, pairs = case
    rows = np.array(pairs, dtype=np.int32).reshape(-1, 2)
    found = groups(count, rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "_PAIRS_AT_ONCE", 2)
        assert groups(count, rows).tolist() == found.tolist(), "in parts they are numbered alike"
    assert len(found) == count
    assert all(found[first] == found[second] for first, second in pairs)
    merging = {frozenset(pair) for pair in pairs if len(set(pair)) == 2}
    # Each pair joins two groups at most, and without pairs every post is alone.
    assert len(np.unique(found)) >= count - len(merging)
    assert merging or len(np.unique(found)) == count
