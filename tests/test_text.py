"""Cleaning, tokenising and batching: properties over any text."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.text import FEWEST_BATCHES, MOST_MARKS, Cleaning, Encoder, pack_by_length, pad
from handlers.words import WORD

STOP_WORDS = ("the", "of", "and")
# Letters that compose with a mark in one case only, and a script whose vowels are marks.
COMPOSED = "İΣßǅH\u0331J\u030cहिन्दी\u200d"
ANY_TEXT = st.text() | st.text(st.sampled_from(f"aAéE\u0301{COMPOSED} \t\n\r\x00\x85\u2028\ufeff.,'-_0123the"))


@pytest.mark.parametrize("letters_only", [True, False])
@pytest.mark.parametrize("stop_words", [(), STOP_WORDS])
@given(text=ANY_TEXT)
def test_cleaning_twice_is_cleaning_once(text: str, letters_only: bool, stop_words: tuple[str, ...]) -> None:
    cleaning = Cleaning(letters_only, stop_words)
    once = cleaning(text)
    assert cleaning(once) == once


@given(ANY_TEXT)
def test_letters_only_leaves_lower_case_letters_and_single_spaces(text: str) -> None:
    cleaned = Cleaning(letters_only=True)(text)
    assert cleaned == cleaned.lower()
    assert all(WORD.fullmatch(word) for word in cleaned.split(" ") if cleaned)
    assert not any(character.isdecimal() for character in cleaned)


@given(ANY_TEXT)
def test_no_control_characters_are_left(text: str) -> None:
    cleaned = Cleaning(letters_only=False)(text)
    assert not {character for character in cleaned if ord(character) < 32 or 127 <= ord(character) < 160}
    assert cleaned == cleaned.strip()


@pytest.mark.parametrize(
    ("raw", "letters_only", "expected"),
    [
        ("Re: the  CAR's\n\x00engine, 4WD!", True, "re the car s engine wd"),
        ("Re: the  CAR's\n\x00engine, 4WD!", False, "Re: the CAR's engine, 4WD!"),
        ("\ufeffcafe\u0301 \ufffd", False, "caf\u00e9"),
        (" \t\n", True, ""),
        ("हिन्दी में 20 किताबें।", True, "हिन्दी में किताबें"),
        ("\u05e9\u05b8\u05dc\u05d5\u05b9\u05dd!", True, "\u05e9\u05b8\u05dc\u05d5\u05b9\u05dd"),
        ("H\u0331 1\ufe0f\u20e3 \u2764\ufe0f", True, "\u1e96"),
        ("\U00011107\U0001112c\U00011109\U00011134", True, "\U00011107\U0001112c\U00011109\U00011134"),
        ("\u0646\u06cc\u200c\u0645 ශ්\u200dරී", True, "\u0646\u06cc\u200c\u0645 ශ්\u200dරී"),
        ("a\u200d \u200dcar\u200c", True, "a car"),
        ("Windows\u2122\ufe0f I\ufe0f am \u845b\U000e0100", True, "windowstm i am \u845b"),
        ("Windows\ufe0f 7", False, "Windows 7"),
    ],
)
def test_cleaning_by_example(raw: str, letters_only: bool, expected: str) -> None:
    assert Cleaning(letters_only)(raw) == expected


@pytest.mark.parametrize("marks", ["\u0316\u0300", "\uff9e\u0300", "\u0344"])
def test_a_tower_of_marks_is_cut(marks: str) -> None:
    # The time to normalise it grows with the square of its height: half a million marks would kill a worker.
    clean = Cleaning(letters_only=False)
    assert len(clean("a" + marks * 1000)) <= 1 + MOST_MARKS
    assert clean(clean("a" + marks * 1000)) == clean("a" + marks * 1000)
    assert clean("Cafe\u0301 a" + "\u0316" * MOST_MARKS) == "Caf\u00e9 a" + "\u0316" * MOST_MARKS


def test_stop_words_go_in_any_case() -> None:
    assert Cleaning(letters_only=False, stop_words=STOP_WORDS)("The end of theory AND practice") == (
        "end theory practice"
    )


def test_stem_takes_porters_stem() -> None:
    cleaning = Cleaning(letters_only=True, stop_words=STOP_WORDS, stem=True)
    assert cleaning("The engines of running ponies") == "engin run poni"


@pytest.mark.parametrize(
    "cleaning", [Cleaning(letters_only=True), Cleaning(letters_only=False, stop_words=STOP_WORDS, stem=True)]
)
def test_cleaning_comes_back_from_disk(cleaning: Cleaning, tmp_path: Path) -> None:
    cleaning.save(tmp_path)
    assert Cleaning.load(tmp_path) == cleaning


@pytest.mark.parametrize(
    ("text", "tokens", "truncated"),
    [
        ("", 2, False),
        ("car " * 30, 32, False),  # with the two special tokens exactly full
        ("car " * 31, 32, True),
        ("car" + " " * 600, 3, True),  # what was cut were characters
    ],
)
def test_encoder_reads_the_first_tokens_and_says_so(tiny_bundle: Path, text: str, tokens: int, truncated: bool) -> None:
    [encoded] = Encoder(tiny_bundle, max_tokens=32)([text])
    assert (len(encoded.ids), encoded.truncated) == (tokens, truncated)


def test_encoder_encodes_each_text_by_itself(tiny_bundle: Path, corpus: tuple[list[str], list[int]]) -> None:
    encoder = Encoder(tiny_bundle, max_tokens=8)
    texts = corpus[0]
    assert encoder(texts) == [encoder([text])[0] for text in texts]


def test_many_texts_are_encoded_in_parts(
    tiny_bundle: Path, corpus: tuple[list[str], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Encoder(tiny_bundle, max_tokens=8)
    whole = encoder(corpus[0])
    monkeypatch.setattr("handlers.text.ENCODED_AT_ONCE", 4)
    assert len(corpus[0]) % 4 and encoder(corpus[0]) == whole


def test_encoder_without_a_tokenizer_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json is missing"):
        Encoder(tmp_path, max_tokens=32)


@given(st.lists(st.integers(1, 600), max_size=60), st.integers(1, 1024), st.integers(0, 500))
def test_packing_takes_every_index_once_and_keeps_the_budget(
    lengths: list[int], budget: int, batch_tokens: int
) -> None:
    batches = pack_by_length(lengths, budget, batch_tokens)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert batch
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= budget
    in_order = [lengths[index] for batch in batches for index in batch]
    assert in_order == sorted(in_order)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.integers(1, 200), st.integers(0, 100))
def test_no_other_way_to_pack_costs_less(lengths: list[int], budget: int, batch_tokens: int) -> None:
    def cost(batches: list[list[int]]) -> int:
        return sum(batch_tokens + len(batch) * max(batch) for batch in batches)

    def fits(batch: list[int]) -> bool:
        return len(batch) == 1 or len(batch) * max(batch) <= budget

    ordered = sorted(lengths)
    ways = []
    for cuts in itertools.product([False, True], repeat=len(ordered) - 1):
        edges = [0, *(place for place, cut in enumerate(cuts, start=1) if cut), len(ordered)]
        ways.append([ordered[start:end] for start, end in itertools.pairwise(edges)])
    packed = [[lengths[i] for i in batch] for batch in pack_by_length(lengths, budget, batch_tokens)]
    assert cost(packed) == min(cost(way) for way in ways if all(map(fits, way)))


def test_a_long_post_does_not_slow_short_ones_by_padding_unless_a_batch_costs_more() -> None:
    lengths = [20, 128, 22, 25]
    assert pack_by_length(lengths, 1024, 32) == [[0, 2, 3], [1]]
    assert pack_by_length(lengths, 1024, FEWEST_BATCHES) == [[0, 2, 3, 1]]


@given(st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=9), min_size=1, max_size=9), st.integers(0, 200))
def test_padding_keeps_the_ids_and_masks_the_rest(ids: list[list[int]], pad_id: int) -> None:
    input_ids, mask = pad(ids, pad_id)
    assert input_ids.shape == mask.shape == (len(ids), max(map(len, ids)))
    assert input_ids.dtype == mask.dtype == np.int64
    for row, item in enumerate(ids):
        assert input_ids[row, mask[row] == 1].tolist() == item
        assert (input_ids[row, len(item) :] == pad_id).all()
