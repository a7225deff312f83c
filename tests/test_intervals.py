"""The interval of a mean against SciPy's own."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from stages.intervals import mean_interval


def test_interval_is_students() -> None:
    values = [0.70, 0.72, 0.77]
    expected = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert mean_interval(values) == pytest.approx((0.73, *expected))
    assert mean_interval([0.5, 0.5, 0.5]) == (0.5, 0.5, 0.5)
    assert mean_interval([0.7]) == (0.7, None, None)
