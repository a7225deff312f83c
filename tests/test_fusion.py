"""Fusion and cascade against their formulas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from handlers.fusion import Fusion, log_softmax, margins, softmax

SCORES = arrays(np.float32, st.tuples(st.integers(0, 4), st.integers(2, 6)), elements=st.floats(-50, 50, width=32))


@given(SCORES)
def test_softmax_is_scipys(scores: np.ndarray) -> None:
    np.testing.assert_allclose(softmax(scores), scipy.special.softmax(scores.astype(float), axis=1), atol=1e-12)
    np.testing.assert_allclose(log_softmax(scores), scipy.special.log_softmax(scores.astype(float), axis=1), atol=1e-9)


def test_softmax_of_huge_scores_stays_finite() -> None:
    np.testing.assert_allclose(softmax(np.array([[1e30, 0.0]], dtype=np.float32)), [[1.0, 0.0]])


@given(SCORES, st.floats(0.01, 10), st.floats(0, 10), st.floats(0, 1))
def test_fused_rows_are_probabilities(scores: np.ndarray, deep: float, wide: float, flat: float) -> None:
    fusion = Fusion(deep=deep, wide=wide, fast=1.0, margin=None, flat=flat)
    fused = fusion.full(scores, scores[:, ::-1])
    assert (fused >= 0).all()
    np.testing.assert_allclose(fused.sum(axis=1), 1.0)


@given(SCORES, st.floats(0.01, 10))
def test_without_the_wide_part_it_is_temperature_scaling(logits: np.ndarray, deep: float) -> None:
    fused = Fusion(deep=deep, wide=0.0, fast=1.0, margin=None).full(logits, np.ones_like(logits))
    np.testing.assert_allclose(fused, scipy.special.softmax(deep * logits.astype(float), axis=1), atol=1e-9)


def test_fusion_is_log_linear() -> None:
    logits, scores = np.array([[1.0, 3.0, 2.0]]), np.array([[0.5, -0.5, 0.1]])
    expected = scipy.special.softmax(0.3 * scipy.special.log_softmax(logits) + 4 * scores)
    fusion = Fusion(deep=0.3, wide=4.0, fast=2.0, margin=None)
    np.testing.assert_allclose(fusion.full(logits, scores), expected)
    np.testing.assert_allclose(fusion.alone(scores), scipy.special.softmax(2.0 * scores))


def test_the_flatter_softmax_takes_its_share_and_changes_no_order() -> None:
    scores = np.array([[3.0, 1.5, 0.0]])
    steep, flat = scipy.special.softmax(scores), scipy.special.softmax(scores / 3)
    fusion = Fusion(deep=1.0, wide=0.0, fast=1.0, margin=0.0, flat=0.2, fast_flat=0.4)
    np.testing.assert_allclose(fusion.full(scores, scores), 0.8 * steep + 0.2 * flat)
    np.testing.assert_allclose(fusion.alone(scores), 0.6 * steep + 0.4 * flat)
    assert fusion.alone(scores).argsort().tolist() == scores.argsort().tolist()


@given(SCORES)
def test_margin_is_best_minus_second(scores: np.ndarray) -> None:
    ranked = np.sort(scores, axis=1)
    np.testing.assert_array_equal(margins(scores), ranked[:, -1] - ranked[:, -2])


def test_the_margin_decides_who_is_sure() -> None:
    scores = np.array([[1.0, 0.0], [0.0, 0.5], [0.25, 0.0]])
    assert Fusion(1.0, 1.0, 1.0, margin=0.5).sure(scores).tolist() == [True, True, False]
    assert Fusion(1.0, 1.0, 1.0, margin=None).sure(scores).tolist() == [False, False, False]


def test_shipped_takes_the_path_that_the_margin_says() -> None:
    logits, scores = np.array([[0.0, 1.0], [0.0, 1.0]]), np.array([[2.0, 0.0], [0.1, 0.0]])
    fusion = Fusion(1.0, 1.0, 3.0, margin=1.0)
    expected = [fusion.alone(scores)[0], fusion.full(logits, scores)[1]]
    np.testing.assert_array_equal(fusion.shipped(logits, scores), expected)


def test_the_unsure_abstain_and_none_does_by_default() -> None:
    probabilities = np.array([[0.6, 0.4], [0.5, 0.5], [0.1, 0.9]])
    assert Fusion(1.0, 1.0, 1.0, None, reject=0.6).abstains(probabilities).tolist() == [False, True, False]
    assert not Fusion(1.0, 1.0, 1.0, None).abstains(probabilities).any()


@pytest.mark.parametrize("margin", [None, 0.75])
def test_fusion_comes_back_from_disk(margin: float | None, tmp_path: Path) -> None:
    fusion = Fusion(deep=0.31, wide=4.2, fast=2.5, margin=margin, reject=0.4, flat=0.01, fast_flat=0.02)
    fusion.save(tmp_path)
    assert Fusion.load(tmp_path) == fusion
