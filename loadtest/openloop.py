"""Open-loop arrivals, exact percentiles, a generator's limits: what a load test needs in order to be believed.

Standard library only.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

# A generator that is late by more than this share of the objective, or that uses more than this share of its core, was
# the limit itself. Its lag counts as latency, so up to there the error is on the safe side.
LAG_SHARE = 0.1
CORE_SHARE = 0.9


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


def void(lag_p99_ms: float, core_share: float, slo_ms: float) -> str | None:
    """Why an open loop says nothing about its server: the generator was the limit. None where it was not.

    lag_p99_ms: how late it sent. core_share: of one core that it used. slo_ms: the objective for p99.
    """
    if lag_p99_ms > LAG_SHARE * slo_ms:
        return f"the generator was {lag_p99_ms:.1f} ms late, more than {LAG_SHARE:.0%} of the {slo_ms:g} ms objective"
    if core_share > CORE_SHARE:
        return f"the generator used {core_share:.0%} of its core, more than {CORE_SHARE:.0%}"
    return None
