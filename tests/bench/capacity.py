"""The highest rate that one server sustains, as the benchmark stage measures it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.benchmark import Bench, confirm
from stages.loadrun import Point, Target
from stages.params import Benchmark
from stages.serving_figures import capacity


@dataclass(frozen=True)
class Load:
    """What all measurements of one comparison share. knobs: of the search and the confirmation, as in params.yaml."""

    posts: Path
    seed: int
    knobs: Benchmark

    def closed(self, server: Target, model: str, folder: Path, users: int, requests: int, full_path: bool) -> Point:
        """A closed loop of `users` users."""
        return self._bench(server, model, folder).closed(users, requests, f"users-{users}", full_path)

    def capacity(self, server: Target, model: str, folder: Path, start: float, full_path: bool) -> dict[str, Any]:
        """capacity_rps with its 95% interval, what each round found, whether it is confirmed, and p99_ms near it.

        start: of the search.
        """
        (found,) = self.capacities([(server, model)], folder, [start], full_path)
        return found

    def capacities(
        self, served: Sequence[tuple[Target, str]], folder: Path, starts: Sequence[float], full_path: bool
    ) -> list[dict[str, Any]]:
        """The same of several servers, which take turns in every round."""
        benches = [self._bench(server, model, folder / model) for server, model in served]
        searches = [bench.search(start, full_path) for bench, start in zip(benches, starts, strict=True)]
        kept = ("capacity_rps", "capacity_low_rps", "capacity_high_rps", "rounds_rps", "confirmed", "p99_ms")
        found = [capacity(curve, self.knobs.slo_ms) for curve in confirm(benches, searches, full_path)]
        return [{name: each[name] for name in kept} for each in found]

    def _bench(self, server: Target, model: str, folder: Path) -> Bench:
        return Bench(server, model, self.posts, folder, self.knobs, self.seed)
