"""How long things take: each step of a batch, or a call at its best. Knows nothing of a server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Timings:
    """Seconds by step, in the order in which the steps began; a step that is taken twice adds up."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Count the time of the block, however it ends."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


def shortest(call: Callable[[], object], seconds: float) -> float:
    """Seconds of the fastest of the calls that `seconds` have room for, or of the first two.

    On a busy machine nearly every call has to wait, but not all of so many.
    """
    took: list[float] = []
    end = time.perf_counter() + seconds
    while len(took) < 2 or time.perf_counter() < end:
        started = time.perf_counter()
        call()
        took.append(time.perf_counter() - started)
    return min(took)
