"""Runs as a benchmark measures them, and their samples; for the tests of what is made of them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from stages.loadrun import Point

SLO_MS = 250.0
POINT = Point(
    rate=50.0,
    users=None,
    requests=500,
    rps=49.0,
    p50_ms=20.0,
    p99_ms=90.0,
    errors=0,
    lag_p99_ms=1.0,
    core_share=0.2,
    machine_share=0.1,
    cpu_ms=30.0,
)


def at(rate: float, p99_ms: float, **changes: float) -> Point:
    """A run at that rate with that latency, else like any other."""
    return dataclasses.replace(POINT, rate=rate, p99_ms=p99_ms, **changes)


def write_samples(path: Path, rows: list[tuple[float, float, float, int]], core_share: float = 0.2) -> None:
    """What a run leaves. rows: of each request when it was due, its latency, its lag and whether it was right."""
    lines = [",".join(map(str, row)) for row in rows]
    path.write_text("\n".join(["scheduled_s,latency_ms,lag_ms,ok", *lines]) + "\n")
    path.with_suffix(".json").write_text(
        json.dumps(
            {
                "generator_core_share": core_share,
                "generator_machine_share": core_share / 2,
                "problems": {"status 503: full": 1},
            }
        )
    )
