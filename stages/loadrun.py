"""One run of the locust file against a started server, and what its raw samples say."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from loadtest.openloop import percentile, void
from stages.files import read_json
from stages.paths import PROJECT
from stages.stage import StageError

LOCUSTFILE = PROJECT / "loadtest" / "locustfile.py"
# Seconds for locust to start and for the answers that are still due; answers a second below which a run is given up.
SLACK_S, SLOWEST_RPS = 60.0, 1.0
# With so many requests and none over the objective, 99% of all are within it with 99% confidence: 0.99 ** 459 < 0.01
# (MLPerf inference, https://arxiv.org/abs/1911.02549). A 99th percentile of fewer is a rougher figure.
ENOUGH = 459


class Target(Protocol):
    """A server under load: its address without a slash at the end, the file with its key, what it has used so far."""

    @property
    def url(self) -> str: ...

    @property
    def key_file(self) -> Path: ...

    def cpu_seconds(self) -> float:
        """Processor time of all its processes."""
        ...


@dataclass(frozen=True)
class Point:
    """What one run measured.

    Percentiles are exact, over the requests that were answered rightly, or over all where none was: refusals come fast,
    and would make a server that turns clients away look quick.

    rate: offered requests a second, None in a closed loop. users: of a closed loop, None in an open one. rps: requests
    answered rightly, a second. lag_p99_ms: how late the generator sent. core_share: of one core that it used.
    machine_share: of all cores. cpu_ms: processor time of the server, a request.
    """

    rate: float | None
    users: int | None
    requests: int
    rps: float
    p50_ms: float
    p99_ms: float
    errors: int
    lag_p99_ms: float
    core_share: float
    machine_share: float
    cpu_ms: float

    def void(self, slo_ms: float) -> bool:
        """Whether the generator of an open loop, not the server, was the limit."""
        return self.rate is not None and void(self.lag_p99_ms, self.core_share, slo_ms) is not None

    def sustained(self, slo_ms: float) -> bool:
        """Whether the rate was met: p99 within the objective, no errors, and a generator that kept its schedule."""
        return self.p99_ms <= slo_ms and not self.errors and not self.void(slo_ms)

    def __str__(self) -> str:
        load = f"{self.users} users" if self.rate is None else f"{self.rate:.1f} requests/s offered"
        times = f"p50 {self.p50_ms:.0f} ms, p99 {self.p99_ms:.0f} ms"
        generator = f"generator {self.lag_p99_ms:.0f} ms late, {self.core_share:.0%} of a core"
        return f"{load}: {self.rps:.1f} answered/s, {times}, {self.errors} errors ({generator})"


def run(
    server: Target,
    model: str,
    posts: Path,
    seed: int,
    requests: int,
    samples: Path,
    rate: float | None = None,
    users: int | None = None,
    full_path: bool = False,
) -> Point:
    """Run locust in a process of its own: open loop at `rate` requests a second, or closed loop with `users`.

    samples: CSV file to write. full_path: ask for the cascade to be off. Raises StageError where nothing was measured.
    """
    samples.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary"]
    command += ["--loglevel", "WARNING", "--host", server.url, "--model", model, "--key-file", str(server.key_file)]
    command += ["--posts", str(posts), "--seed", str(seed), "--requests", str(requests), "--samples", str(samples)]
    if rate is not None:
        command += ["--rate", repr(rate)]
    if users is not None:
        command += ["--users", str(users), "--spawn-rate", str(users)]
    if full_path:
        command += ["--full-path"]
    samples.unlink(missing_ok=True)
    before = server.cpu_seconds()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SLACK_S + requests / min(rate or SLOWEST_RPS, SLOWEST_RPS)
        )
    except subprocess.TimeoutExpired as error:
        raise StageError(f"{model}: the load test did not end within {error.timeout:.0f} s") from None
    # Wrong answers and a void run make locust fail too, but then there are samples that say so.
    if not samples.is_file():
        lines = done.stderr.strip().splitlines() or ["locust said nothing"]
        raise StageError(f"{model}: the load test failed: {lines[-1]}")
    point = read_point([samples], rate, users, server.cpu_seconds() - before)
    if rate is not None and point.requests < requests:
        # The slowest answers would be missing.
        raise StageError(f"{model}: the load test was cut off after {point.requests} of {requests} requests")
    return point


def read_point(runs: Sequence[Path], rate: float | None, users: int | None, cpu_s: float) -> Point:
    """What the raw samples of one or several runs at the same load say, taken together: CSV files, with the JSON file
    beside each. cpu_s: processor time that the server used for all of them. Raises StageError for an empty one."""
    rows: list[dict[str, str]] = []
    seconds, shares, machine = 0.0, [], []
    for samples in runs:
        if not (own := read_samples(samples)):
            raise StageError(f"{samples} holds no sample: the load test asked nothing")
        details = read_json(samples.with_suffix(".json"))
        shares.append(details["generator_core_share"])
        machine.append(details["generator_machine_share"])
        ends = [float(row["scheduled_s"]) + float(row["latency_ms"]) / 1000 for row in own]
        seconds += max(ends) - min(float(row["scheduled_s"]) for row in own)
        rows += own
    right = answered(rows)
    times = [float(row["latency_ms"]) for row in right or rows]
    return Point(
        rate=rate,
        users=users,
        requests=len(rows),
        rps=len(right) / seconds,
        p50_ms=percentile(times, 0.5),
        p99_ms=percentile(times, 0.99),
        errors=len(rows) - len(right),
        lag_p99_ms=percentile([float(row["lag_ms"]) for row in rows], 0.99),
        core_share=max(shares),
        machine_share=max(machine),
        cpu_ms=1000 * cpu_s / len(rows),
    )


def latencies(runs: Sequence[Path]) -> list[float]:
    """Every latency, in ms, of the requests of several runs that were answered rightly."""
    return [float(row["latency_ms"]) for samples in runs for row in answered(read_samples(samples))]


def read_samples(samples: Path) -> list[dict[str, str]]:
    """The rows of a CSV file of samples."""
    with samples.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def answered(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Those samples whose answer was right."""
    return [row for row in rows if row["ok"] == "1"]


def problems(samples: Path) -> Sequence[str]:
    """What was wrong with answers of a run, the most frequent first."""
    return list(read_json(samples.with_suffix(".json"))["problems"])
