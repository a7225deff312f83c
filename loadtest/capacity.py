"""The highest rate that a server sustains, found by bisection."""

from __future__ import annotations

from collections.abc import Callable

GROWTH = 1.5


def highest_rate(sustained: Callable[[float], bool], start: float, steps: int) -> float:
    """Try `steps` rates, the first of them `start`; returns the highest that was sustained, 0 where none was.

    sustained: measures one rate (requests a second) and says whether it met the objective. As long as all rates hold,
    the next is larger by GROWTH; after the first that does not, the interval between the best and the worst is halved.
    Raises ValueError for a start that is not positive.
    """
    if not start > 0:
        raise ValueError(f"the first rate is {start:g}: give a positive number of requests a second")
    low, high, rate = 0.0, None, start
    for _ in range(steps):
        if sustained(rate):
            low = rate
        else:
            high = rate
        rate = rate * GROWTH if high is None else (low + high) / 2
    return low
