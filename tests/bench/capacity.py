"""The highest rate that a server sustains, by the project's own load test and bisection."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from loadtest.capacity import highest_rate
from stages.loadrun import Point
from stages.loadrun import run as run_locust
from stages.torchserve import Server


@dataclass(frozen=True)
class Load:
    """What all measurements of one comparison share. requests, seconds: at most so many at each rate."""

    posts: Path
    seed: int
    slo_ms: float
    steps: int
    requests: int = 500
    seconds: float = 15.0

    def closed(self, server: Server, model: str, folder: Path, users: int, requests: int, full_path: bool) -> Point:
        """A closed loop of `users` users."""
        path = folder / f"users-{users}.csv"
        return run_locust(server, model, self.posts, self.seed, requests, path, users=users, full_path=full_path)

    def capacity(self, server: Server, model: str, folder: Path, start: float, full_path: bool) -> dict[str, float]:
        """capacity_rps, and p99_ms at that rate; 0 and the p99 of the lowest rate where none was sustained."""
        points: list[Point] = []

        def sustained(rate: float) -> bool:
            count, path = max(50, min(self.requests, round(rate * self.seconds))), folder / f"{len(points)}.csv"
            point = run_locust(server, model, self.posts, self.seed, count, path, rate=rate, full_path=full_path)
            points.append(point)
            print(f"{model}, cascade {'off' if full_path else 'on'}: {point}", file=sys.stderr)
            return point.sustained(self.slo_ms)

        found = highest_rate(sustained, start, self.steps)
        at = next((p for p in points if p.rate == found), min(points, key=lambda p: p.rate or 0.0))
        return {"capacity_rps": round(found, 1), "p99_ms": round(at.p99_ms, 1)}
