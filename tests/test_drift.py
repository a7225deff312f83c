"""Population stability: the figure, the bins, and the sliding window of served posts."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers import drift
from handlers.drift import STEP, WINDOW, Bins, Drift, features, place, stability
from handlers.predictor import Answer
from stages.drift import reference

LABELS = ("a", "b")


def answer(label: str = "a", words: int = 10, unknown: int = 1) -> Answer:
    return Answer(
        label=label,
        probabilities=np.array([0.9, 0.1]),
        path="full",
        tokens=12,
        windows=1,
        truncated=False,
        words=words,
        unknown=unknown,
        abstained=False,
    )


def test_the_index_of_a_known_case() -> None:
    # 50/50 against 25/75, so many posts that the half added to each bin is lost: 0.25 ln 2 + 0.25 ln 1.5.
    expected = -0.25 * math.log(0.5) + 0.25 * math.log(1.5)
    assert stability([500_000, 500_000], [250_000, 750_000]) == pytest.approx(expected, abs=1e-5)


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=1, max_size=20))
def test_it_is_finite_symmetric_and_never_negative(pairs: list[tuple[int, int]]) -> None:
    left, right = zip(*pairs, strict=True)
    assert 0 <= stability(left, right) < math.inf
    assert stability(left, right) == pytest.approx(stability(right, left))
    assert stability(left, left) == pytest.approx(0)


def test_chance_alone_gives_the_expected_index() -> None:
    generator = np.random.default_rng(0)
    shares = np.full(20, 1 / 20)
    draws = [stability(*generator.multinomial([1130, WINDOW], shares)) for _ in range(300)]
    assert np.mean(draws) == pytest.approx(19 * (1 / 1130 + 1 / WINDOW), rel=0.15)
    assert max(draws) < 0.1


def test_a_value_on_an_edge_belongs_to_the_bin_below() -> None:
    assert place(np.array([-1, 0, 0.5, 1, 7]), [0, 1]).tolist() == [0, 0, 1, 1, 2]
    assert Bins.of(np.array([-1, 0, 0.5, 1, 7]), [0, 1]) == Bins((0.0, 1.0), (2, 2, 1))


def test_features_of_answers() -> None:
    values = features([answer(), answer("b", words=0, unknown=0)], LABELS)
    assert {name: value.tolist() for name, value in values.items()} == {
        "length": [10, 0],
        "unknown": [0.1, 0.0],
        "label": [0, 1],
    }


def test_nothing_is_said_before_the_window_is_full() -> None:
    watch = Drift({"label": Bins.of(np.array([0, 1] * 500), [0])})
    assert watch.add({"label": np.zeros(WINDOW - 1, dtype=int)}) == {}
    assert watch.add({"label": np.zeros(1, dtype=int)})["label"] > 0.25


def test_only_the_latest_posts_count() -> None:
    watch = Drift({"label": Bins.of(np.array([0, 1] * 500), [0])})
    watch.add({"label": np.zeros(3 * WINDOW, dtype=int)})
    assert watch.add({"label": np.array([0, 1] * (WINDOW // 2))})["label"] == pytest.approx(0)


def test_a_figure_every_so_many_posts() -> None:
    watch = Drift({"label": Bins.of(np.array([0, 1] * 500), [0])})
    watch.add({"label": np.zeros(WINDOW, dtype=int)})
    told = [bool(watch.add({"label": np.zeros(1, dtype=int)})) for _ in range(3 * STEP)]
    assert [number + 1 for number, yes in enumerate(told) if yes] == [STEP, 2 * STEP, 3 * STEP]


def test_the_reference_travels_as_json(tmp_path: Path) -> None:
    reference = {"length": Bins.of(np.arange(10), [3, 7]), "label": Bins.of(np.array([0, 1]), [0])}
    drift.save(reference, tmp_path)
    assert drift.load(tmp_path) == reference


def test_the_reference_is_even_but_for_labels_and_matches_itself() -> None:
    answers = [answer("ab"[number % 5 == 0], words=number, unknown=number % 7) for number in range(1, 501)]
    found = reference(answers, LABELS)
    assert found["label"].counts == (400, 100)
    assert found["length"].counts == (50,) * 10
    values = features(answers, LABELS)
    told = Drift(found).add({name: np.tile(value, WINDOW // 500) for name, value in values.items()})
    assert told == pytest.approx({"length": 0, "unknown": 0, "label": 0}, abs=1e-3)


def test_what_was_always_the_same_and_is_not_any_more() -> None:
    found = reference([answer(unknown=0)] * WINDOW, LABELS)
    assert found["unknown"].counts == (WINDOW, 0)
    told = Drift(found).add(features([answer(unknown=3)] * WINDOW, LABELS))
    assert told["unknown"] > 0.25 and told["length"] == pytest.approx(0)
