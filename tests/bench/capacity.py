"""The highest rate that one server sustains, as the benchmark stage measures it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stages.benchmark import Bench, Plan, confirm
from stages.loadrun import Point, Target
from stages.serving_figures import capacity


@dataclass(frozen=True)
class Load:
    """What all measurements of one comparison share, as in params.yaml: steps of the search, requests and seconds at
    each rate, rounds of the confirmation."""

    posts: Path
    seed: int
    slo_ms: float
    steps: int
    requests: int = 500
    least_seconds: float = 8.0
    most_seconds: float = 12.0
    rounds: int = 3

    def closed(self, server: Target, model: str, folder: Path, users: int, requests: int, full_path: bool) -> Point:
        """A closed loop of `users` users."""
        return self._bench(server, model, folder).closed(users, requests, f"users-{users}", full_path)

    def capacity(
        self, server: Target, model: str, folder: Path, start: float, full_path: bool
    ) -> dict[str, float | None]:
        """capacity_rps with its 95% interval, whether it is confirmed, and p99_ms near it. start: of the search."""
        bench = self._bench(server, model, folder)
        (curve,) = confirm([bench], [bench.search(start, full_path)], full_path)
        found = capacity(curve, self.slo_ms)
        kept = ("capacity_rps", "capacity_low_rps", "capacity_high_rps", "confirmed", "p99_ms")
        return {name: found[name] for name in kept}

    def _bench(self, server: Target, model: str, folder: Path) -> Bench:
        plan = Plan(
            seed=self.seed,
            slo_ms=self.slo_ms,
            requests=self.requests,
            warmup=0,
            steps=self.steps,
            least_seconds=self.least_seconds,
            most_seconds=self.most_seconds,
            users=(),
            rounds=self.rounds,
            full_path=False,
        )
        return Bench(server, model, self.posts, folder, plan)
