"""Calibration and rejection against their definitions."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages import confidence
from tests.test_metrics import answers, systems


@settings(max_examples=40)
@given(systems, st.integers(1, 20))
def test_calibration_error_is_its_definition(answer: tuple[np.ndarray, np.ndarray], bins: int) -> None:
    actual, probabilities = answer
    sure, hit = probabilities.max(axis=1), probabilities.argmax(axis=1) == actual
    expected = 0.0
    for low, high in zip(np.linspace(0, 1, bins + 1)[:-1], np.linspace(0, 1, bins + 1)[1:], strict=True):
        inside = (sure > low) & (sure <= high)
        if inside.any():
            expected += inside.mean() * abs(sure[inside].mean() - hit[inside].mean())
    assert confidence.calibration_error(actual, probabilities, bins) == pytest.approx(expected)


def test_calibration_error_of_the_certain_is_their_error_rate() -> None:
    certain = np.eye(2)[[0, 0, 0, 1]]
    assert confidence.calibration_error(np.array([0, 0, 1, 1]), certain) == pytest.approx(0.25)


def test_reliability_raises_no_warning_over_empty_bins() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        curve = confidence.reliability(*answers(5, 3, 0))
    assert curve["share"].sum() == pytest.approx(1)
    assert np.isnan(curve["accuracy"]).sum() == (curve["share"] == 0).sum()


@settings(max_examples=40)
@given(systems)
def test_risk_at_every_threshold_is_the_error_of_the_answers_given(answer: tuple[np.ndarray, np.ndarray]) -> None:
    actual, probabilities = answer
    sure, wrong = probabilities.max(axis=1), probabilities.argmax(axis=1) != actual
    coverage, risk = confidence.risk_coverage(actual, probabilities)
    for threshold in sure[:: max(1, len(sure) // 10)]:
        given_ = sure >= threshold
        place = int(given_.sum()) - 1
        assert coverage[place] == pytest.approx(given_.mean())
        assert risk[place] == pytest.approx(wrong[given_].mean())
    assert risk[-1] == pytest.approx(wrong.mean())


def test_risk_area_rewards_doubt_about_the_wrong_answers() -> None:
    actual = np.array([0, 0, 0, 0])
    good = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.4, 0.6]])
    bad = np.array([[0.6, 0.4], [0.7, 0.3], [0.8, 0.2], [0.1, 0.9]])
    assert confidence.risk_area(actual, good) == pytest.approx((0 + 0 + 0 + 1 / 4) / 4)
    assert confidence.risk_area(actual, bad) == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)


def test_precision_of_the_answers_given() -> None:
    hit = np.array([True, False, True, False])
    assert confidence.precision_answered(hit, np.array([False, True, False, False])) == pytest.approx(2 / 3)
    assert confidence.precision_answered(hit, np.ones(4, dtype=bool)) is None
