"""Behavioural tests: the changes change what they say, a good model passes, a bad one is caught."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.linear import Linear
from handlers.predictor import Answer, Predictor
from stages import behaviour, checklist, perturbation
from stages.behaviour_page import marked, section
from stages.corpus import features, save_split
from stages.files import read_json
from tests.conftest import LABELS

WORDS = st.lists(st.sampled_from(["engine", "John", "the", "a", "moon.", "(orbit)", "x2", "MARY", "goalie", "ab"]))
POSTS = WORDS.map(" ".join) | st.text(max_size=60)


class Oracle:
    """A predictor that answers by one rule: the class of the first of its words, else the first class, unsure."""

    labels = LABELS
    words = ("engine", "puck", "orbit")
    cleaning = str

    def __init__(self, linear: Linear) -> None:
        self.linear = linear

    def predict(self, texts: list[str], fast_path: Sequence[bool] | None = None) -> list[Answer]:
        assert fast_path is None or len(fast_path) == len(texts)
        answers = []
        for text in texts:
            scores = np.array([text.lower().count(word) + 0.1 for word in self.words])
            probabilities = scores / scores.sum()
            label = LABELS[int(probabilities.argmax())]
            answers.append(Answer(label, probabilities, "full", 1, 1, False, len(text.split()), 0, False))
        return answers


@pytest.fixture
def oracle() -> Oracle:
    weights = np.eye(3, dtype=np.float32)
    return Oracle(Linear(Oracle.words, np.ones(3, dtype=np.float32), weights, np.zeros(3, dtype=np.float32)))


def test_names_are_replaced_everywhere_in_their_case() -> None:
    after = perturbation.other_name("John wrote: john and JOHN met Johnson and Susan", random.Random(0))
    words = after.split()
    assert words[0].lower() == words[2] == words[4].lower()
    assert words[0].istitle()
    assert words[4].isupper()
    assert words[6] == "Johnson"
    assert words[0] != "John"
    assert words[8] not in ("Susan", words[0]), "two people stay two people"
    assert perturbation.other_name("nobody here", random.Random(0)) is None


@given(POSTS, st.integers(0, 1000))
def test_a_typo_swaps_letters_within_few_words(text: str, seed: int) -> None:
    after = perturbation.typos(text, random.Random(seed))
    if after is None:
        return
    assert after != text
    assert sorted(after) == sorted(text)
    before, now = text.split(), after.split()
    assert len(before) == len(now)
    different = [pair for pair in zip(before, now, strict=True) if pair[0] != pair[1]]
    assert 1 <= len(different) <= max(1, len(before) // perturbation.WORDS_PER_TYPO)
    assert all(sorted(was) == sorted(is_) for was, is_ in different)


def test_text_without_a_longer_word_gets_no_typo() -> None:
    assert perturbation.typos("a of x2 12345 !!!", random.Random(0)) is None
    hindi = {perturbation.typos("हिन्दी प्रधानमंत्री", random.Random(seed)) for seed in range(20)}
    assert hindi == {"हिन्दी प्रधामनंत्री", "हिन्दी प्धरानमंत्री"}, "a mark is no letter"
    assert perturbation.typos("aaaa", random.Random(0)) is None, "equal letters swapped are no typo"


@given(POSTS, st.integers(0, 1000))
def test_signature_and_shouting_keep_the_post(text: str, seed: int) -> None:
    assert perturbation.signature(text, random.Random(seed)).startswith(text)
    shouted = perturbation.shouting(text, random.Random(seed))
    kept = [word.rstrip(",") for word in shouted.removesuffix("!!!").split()]
    assert kept == [word.rstrip(",") for word in text.upper().split()]


def test_topical_words_are_the_strongest_single_words_of_each_class() -> None:
    weights = np.array([[3, -1], [9, 9], [1, 2], [-1, 5]], dtype=np.float32)
    linear = Linear(["alpha", "two words", "beta", "gamma"], np.ones(4), weights, np.zeros(2))
    assert perturbation.topical_words(linear, 2) == [["alpha", "beta"], ["gamma", "beta"]]


def test_a_model_that_behaves_fails_nothing(oracle: Oracle) -> None:
    texts = ["John has an engine", "Mary and Susan saw the puck", "in orbit around the moon", "nothing to say here"]
    cases = checklist.behave(oracle, list("abcd"), texts, posts=6, seed=1)
    assert set(cases) == {"invariance", "direction", "minimum"}
    for name in ("name", "signature", "shouting"):
        assert not any(case.failed for case in cases["invariance"][name])
    assert len(cases["invariance"]["name"]) == 2, "only two posts name anybody"
    assert len(cases["minimum"]["topical_words"]) == 6


def test_failures_of_every_kind_are_seen(oracle: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "puck engine engine"
    shorter = checklist.invariance(oracle, [(text, "puck"), (text, text)])
    assert [case.failed for case in shorter] == [True, False]
    # A class whose word is another one's: adding it lowers the class, and alone it is answered wrongly.
    swapped = [["puck"], ["orbit"], ["engine"]]
    sample = [("a", "puck engine orbit"), ("b", "orbit orbit")]
    assert all(case.failed for case in checklist.direction(oracle, sample, swapped, seed=0))
    assert all(case.failed for case in checklist.minimum(oracle, swapped, posts=3, seed=0))
    monkeypatch.setattr(checklist, "INVARIANCES", {"cut": lambda text, _: text[:4]})
    cases = checklist.behave(oracle, ["a"], [text], posts=1, seed=0)
    assert cases["invariance"]["cut"][0].failed


def test_a_direction_that_only_the_full_model_misses_fails(oracle: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = [("a", "puck engine orbit"), ("b", "orbit orbit")]
    own = [["engine"], ["puck"], ["orbit"]]
    assert not any(case.failed for case in checklist.direction(oracle, sample, own, seed=0))
    shipped = oracle.predict

    def deaf(texts: list[str], fast_path: Sequence[bool] | None = None) -> list[Answer]:
        # The full model reads the last word alone, and so never what is put in front.
        return shipped(texts if fast_path is None else [text.split()[-1] for text in texts], fast_path)

    monkeypatch.setattr(oracle, "predict", deaf)
    assert all(case.failed for case in checklist.direction(oracle, sample, own, seed=0))


def test_a_class_without_words_is_left_out(oracle: Oracle) -> None:
    sample = [(str(number), "puck") for number in range(20)] + [("x", "orbit")]
    one = [[], [], ["orbit"]]
    moved = checklist.direction(oracle, sample, one, seed=0)
    # The last post is of the only class that has a word.
    assert [case.expected for case in moved] == ["space gains from orbit"] * 20
    alone = checklist.minimum(oracle, one, posts=6, seed=0)
    assert [(case.expected, case.after[0]) for case in alone] == [("space", "orbit")] * 6
    none = [[], [], []]
    assert checklist.direction(oracle, sample, none, seed=0) == checklist.minimum(oracle, none, 6, seed=0) == []


def test_failure_rates_have_intervals_and_nothing_is_none() -> None:
    answer = Answer("x", np.ones(1), "full", 1, 1, False, 1, 0, False)
    cases = [checklist.Case(None, ("", answer), "x", failed=number < 3) for number in range(30)]
    figures = checklist.failures(cases)
    assert (figures["posts"], figures["failed"]) == (30, 0.1)
    low, high = figures["failed_95"]
    assert 0.02 < low < 0.1 < high < 0.3
    assert checklist.failures([]) == {"posts": 0, "failed": None, "failed_95": None}


def test_more_posts_change_no_other_post(oracle: Oracle) -> None:
    texts = [f"the engine of John number {number} turns" for number in range(8)]
    ids = [str(number) for number in range(8)]
    few, many = (checklist.behave(oracle, ids, texts, posts=count, seed=3)["invariance"]["typo"] for count in (3, 8))
    assert [case.after[0] for case in few] == [case.after[0] for case in many[:3]]


def test_marks_show_the_change_and_leave_out_the_rest() -> None:
    before = [f"w{number}" for number in range(100)]
    after = [*before[:50], "<new>", *before[51:]]
    html = marked(before, after)
    assert "<del>w50</del> <ins>&lt;new&gt;</ins>" in html
    assert "w10" not in html


def test_a_change_that_cleaning_undoes_does_not_count() -> None:
    pairs = checklist.changed([("1", "a B"), ("2", "c d")], lambda text, _: text.upper(), "", 5, str.lower)
    assert pairs == []
    assert checklist.changed([("1", "a B")], lambda text, _: text.upper(), "", 5, str) == [("a B", "A B")]


def test_the_stage_writes_figures_and_a_section(
    predictor: Predictor, corpus: tuple[list[str], list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datasets import Dataset

    texts, labels = corpus
    texts = [f"John says {text} <b>" for text in texts]
    columns = {"id": [str(number) for number in range(len(texts))], "text": texts, "clean": texts, "label": labels}
    params = (Path(__file__).parent.parent / "params.yaml").read_text()
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(params)
    save_split(Dataset.from_dict(columns, features(list(LABELS))), Path("outputs/data/prepared"), "test")
    monkeypatch.setattr(behaviour, "load_predictor", lambda _: predictor)
    behaviour.main()
    figures = read_json(Path("outputs/metrics/behaviour.json"))
    assert {name for tests in figures.values() for name in tests} == {
        "name",
        "typo",
        "signature",
        "shouting",
        "topical_word",
        "topical_words",
    }
    # Letters alone, in lower case, are what this bundle reads: of shouting it sees nothing.
    unseen = {name for tests in figures.values() for name, row in tests.items() if not row["posts"]}
    assert unseen == {"shouting"} and figures["invariance"]["shouting"]["failed"] is None
    html = Path("outputs/sections/behaviour.html").read_text()
    assert "<b>" not in html
    cases = checklist.behave(predictor, columns["id"], texts, posts=9, seed=0)
    parts = "".join(section(figures, cases))
    assert parts.count("<summary>") == sum(
        any(case.failed for case in tested) for tests in cases.values() for tested in tests.values()
    )
