"""Open-loop arrivals and exact percentiles: what a load test needs in order to be believed. Standard library only."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence


def schedule(rate: float, requests: int, seed: int) -> list[float]:
    """Send times, in seconds from the start, of a Poisson process: the waits between them are exponential.

    rate: requests a second. The same seed gives the same arrivals, scaled by the rate. Users who are many and
    independent arrive so, whatever the server does (MLPerf inference, server scenario,
    https://arxiv.org/abs/1911.02549). Raises ValueError for a rate or a number of requests that is not positive.
    """
    if not (rate > 0 and math.isfinite(rate)):
        raise ValueError(f"the rate is {rate:g}: give a positive number of requests a second")
    if requests < 1:
        raise ValueError(f"the number of requests is {requests}: give 1 or more")
    generator = random.Random(seed)
    times, now = [], 0.0
    for _ in range(requests):
        now += generator.expovariate(1.0)
        times.append(now / rate)
    return times


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that at least `share` (0 to 1) of all samples do not exceed (nearest rank; no buckets).

    Raises ValueError where there are no samples.
    """
    if not samples:
        raise ValueError("no samples: nothing was measured")
    # The rounding keeps 0.29 * 100, which is 28.999999999999996 in binary, at rank 29.
    rank = math.ceil(round(share * len(samples), 9))
    return sorted(samples)[max(rank, 1) - 1]
