"""The search for the highest rate that is sustained, and the interval around a guess, on servers that are functions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.capacity import STEP, enclose, highest_rate


@pytest.mark.parametrize(("limit", "start"), [(83.0, 60.0), (83.0, 200.0), (83.0, 20.0)])
def test_the_search_closes_in_on_the_capacity(limit: float, start: float) -> None:
    tried: list[float] = []

    def sustained(rate: float) -> bool:
        tried.append(rate)
        return rate <= limit

    found = highest_rate(sustained, start, steps=12)
    assert len(tried) == 12 and tried[0] == start
    assert found in tried and found <= limit and found == pytest.approx(limit, rel=0.02)


def test_the_search_admits_that_nothing_held() -> None:
    assert highest_rate(lambda _: False, start=10, steps=4) == 0
    with pytest.raises(ValueError, match="positive"):
        highest_rate(lambda _: True, start=0, steps=4)


@given(capacity=st.floats(5, 500), start=st.floats(5, 500))
def test_a_capacity_is_enclosed_from_any_guess(capacity: float, start: float) -> None:
    tried: list[float] = []

    def sustained(rate: float) -> bool:
        tried.append(rate)
        return rate <= capacity

    enclose(sustained, start, tries=9, least=1)
    held, missed = [rate for rate in tried if rate <= capacity], [rate for rate in tried if rate > capacity]
    assert held and missed and max(held) < min(missed)
    # A good guess costs two tries and leaves a narrow interval.
    if capacity / STEP < start <= capacity:
        assert tried == [start, start * STEP]


def test_enclosing_gives_up() -> None:
    tried: list[float] = []
    enclose(lambda rate: bool(tried.append(rate)), start=10, tries=4, least=1)
    assert tried == pytest.approx([10, 10 / 1.2, 10 / 1.2**3, 10 / 1.2**7])
    with pytest.raises(ValueError, match="positive"):
        enclose(lambda _: True, start=0, tries=4, least=1)


@pytest.mark.parametrize(("start", "rates"), [(10, [10, 10 / 1.2, 6]), (6, [6]), (1, [6])])
def test_nothing_is_tried_below_the_least(start: float, rates: list[float]) -> None:
    tried: list[float] = []
    enclose(lambda rate: bool(tried.append(rate)), start, tries=4, least=6)
    assert tried == pytest.approx(rates)
