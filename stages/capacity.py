"""The highest rate that a server sustains: searched for by bisection, or enclosed from a guess."""

from __future__ import annotations

from collections.abc import Callable

GROWTH = 1.5
# From a guess, the first step to another rate; each further one is the square of the last.
STEP = 1.2


def highest_rate(sustained: Callable[[float], bool], start: float, steps: int) -> float:
    """Try `steps` rates, the first of them `start`; returns the highest that was sustained, 0 where none was.

    sustained: measures one rate (requests a second) and says whether it met the objective. As long as all rates hold,
    the next is larger by GROWTH; after the first that does not, the interval between the best and the worst is halved.
    Raises ValueError for a start that is not positive.
    """
    _check(start)
    low, high, rate = 0.0, None, start
    for _ in range(steps):
        if sustained(rate):
            low = rate
        else:
            high = rate
        rate = rate * GROWTH if high is None else (low + high) / 2
    return low


def enclose(sustained: Callable[[float], bool], start: float, tries: int, least: float) -> None:
    """Try rates from `start` on, upwards while they hold or downwards while they do not, until one held and one did
    not; `tries` at most, and none below `least`. Steps grow, so that a bad guess costs few of them.

    sustained: as of `highest_rate`. Raises ValueError for a start that is not positive.
    """
    _check(start)
    rate, step = max(start, least), STEP
    upwards = sustained(rate)
    for _ in range(tries - 1):
        if not upwards and rate <= least:
            break
        rate, step = rate * step if upwards else max(rate / step, least), step**2
        if sustained(rate) is not upwards:
            break


def _check(start: float) -> None:
    if not start > 0:
        raise ValueError(f"the first rate is {start:g}: give a positive number of requests a second")
