"""Overload: at several times the capacity, refusals are fast, accepted requests are in time, memory stays bounded.

    python -m tests.bench.overload --times 4 --seconds 60 --apart

--capacity is requests a second; without it, a search finds it first. --queue is how many requests may wait, where that
is not to be the server's own. A generator of so many requests takes most of a core: with --apart none that the server
has, which is then measured with half of the machine. Exit status 1 where the 99th percentile of the refusals or of the
accepted requests, counted from when they were sent, was over its objective, anything but a refusal failed, or the
server's resident memory grew by more than a quarter of what it was before.
"""

from __future__ import annotations

import contextlib
import csv
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from loadtest.answers import failure
from loadtest.openloop import percentile
from stages.benchmark import FIRST_RATE
from stages.files import read_json
from stages.loadrun import run as run_locust
from stages.params import Benchmark
from stages.params import load as params_file
from stages.stage import StageError
from stages.torchserve import Server, serving
from tests.bench.archives import with_config
from tests.bench.capacity import Load
from tests.bench.traffic import arguments, report
from tests.bench.watching import beside

# How the load test words what TorchServe answers when its queue is full.
FULL_QUEUE = failure(503, {"type": "ServiceUnavailableException"})
STEPS = 4
# Seconds between two looks at the server's memory.
WATCH_S = 1.0
# Most memory under overload, as a share of that before. What waits is bounded and small, 32 posts of a few kilobytes;
# runs so far grew by 3% at most. The rest is room for the front end's heap, which may fill a little more of what it is
# allowed (-Xmx512m in serve/config.properties), but not all of it.
MOST_MEMORY = 1.25


def run(
    archive: Path, posts: Path, seed: int, knobs: Benchmark, rate: float, times: float, seconds: float, *, apart: bool
) -> dict[str, Any]:
    """Measure one archive. rate: its capacity, 0 to search for it. apart: server and generator on unlike cores.

    Returns the figures. Raises StageError where there is one core only to put them apart, or no rate holds.
    """
    with contextlib.ExitStack() as stack:
        samples = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cores = os.sched_getaffinity(0)
        own, others = halves(cores) if apart else (cores, cores)
        with on(own):
            server = stack.enter_context(serving(archive, archive.stem))
        stack.enter_context(on(others))
        common = {"server": server, "model": archive.stem, "posts": posts, "seed": seed}
        run_locust(**common, requests=60, samples=samples / "warm-up.csv", users=4)
        if not rate:
            loop = run_locust(**common, requests=knobs.requests, samples=samples / "users.csv", users=knobs.users[-1])
            load = Load(posts, seed, replace(knobs, steps=STEPS))
            found = load.capacity(server, archive.stem, samples, loop.rps * FIRST_RATE, full_path=False)
            if not (rate := found["capacity_rps"]):
                raise StageError(f"no rate held: p99 {found['p99_ms']} ms at the lowest; give --capacity")
            if not found["confirmed"]:
                logging.warning("not every round found a rate that was too high: the capacity is at least %.0f", rate)
        at_capacity = run_locust(**common, requests=round(rate * 15), samples=samples / "capacity.csv", rate=rate)
        offered, path, before = rate * times, samples / "overload.csv", server.resident_mb()
        with beside(lambda over: _resident(server, over)) as watching:
            point = run_locust(**common, requests=round(offered * seconds), samples=path, rate=offered)
        return {
            "server_cores": len(own),
            "capacity_rps": rate,
            "offered_rps": round(offered, 1),
            "at_capacity": {"p99_ms": round(at_capacity.p99_ms, 1), "errors": at_capacity.errors},
            **split(path),
            "resident_mb": {"before": round(before), "most": round(max(before, *watching.result()))},
            "generator": {"lag_p99_ms": round(point.lag_p99_ms, 1), "core_share": round(point.core_share, 2)},
        }


def halves(cores: Collection[int]) -> tuple[set[int], set[int]]:
    """The cores of the server, and the others. Raises StageError where there is one only."""
    if len(cores) < 2:
        raise StageError("one core cannot be divided: leave --apart out")
    ordered = sorted(cores)
    return set(ordered[: len(cores) // 2]), set(ordered[len(cores) // 2 :])


@contextlib.contextmanager
def on(cores: Collection[int]) -> Iterator[None]:
    """Processes that the block starts run on these cores only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def split(samples: Path) -> dict[str, Any]:
    """Accepted and refused requests of a run, from its raw samples and from what it says of its failures."""
    with samples.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    wrong = {what: n for what, n in read_json(samples.with_suffix(".json"))["problems"].items() if what != FULL_QUEUE}
    span = max(float(row["scheduled_s"]) for row in rows) - min(float(row["scheduled_s"]) for row in rows)
    figures: dict[str, Any] = {"failed_otherwise": wrong}
    for name, ok in (("accepted", "1"), ("refused", "0")):
        kept = [row for row in rows if row["ok"] == ok]
        latencies = [float(row["latency_ms"]) for row in kept]
        # On shared cores a part of that is the generator being late. The server's own share counts from when a request
        # was sent, which hides no wait: requests are sent independently of each other's answers.
        server = [float(row["latency_ms"]) - float(row["lag_ms"]) for row in kept]
        figures[name] = {"requests": len(kept), "rps": round(len(kept) / span, 1)}
        for what, times in (("", latencies), ("server_", server)):
            for share in (0.5, 0.99):
                figures[name][f"{what}p{share * 100:.0f}_ms"] = round(percentile(times, share), 1) if times else None
    return figures


def _resident(server: Server, over: threading.Event) -> list[float]:
    """Resident megabytes of a server, one look after another."""
    seen = []
    while not over.wait(WATCH_S):
        seen.append(server.resident_mb())
    return seen


def missed(figures: dict[str, Any], slo_ms: float, refusal_ms: float) -> list[str]:
    """What was not as it must be, a line each. slo_ms, refusal_ms: p99 of accepted requests and of refusals."""
    lines = [f"{what}: {count}" for what, count in figures["failed_otherwise"].items()]
    for what, most in (("accepted", slo_ms), ("refused", refusal_ms)):
        p99 = figures[what]["server_p99_ms"]
        if p99 is None:
            lines.append(f"no request was {what}")
        elif p99 > most:
            lines.append(f"p99 of {what} requests was {p99:g} ms, over {most:g}")
    memory = figures["resident_mb"]
    if memory["most"] > MOST_MEMORY * memory["before"]:
        lines.append(f"memory grew from {memory['before']} to {memory['most']} MB")
    return lines


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    knobs = params_file().benchmark
    parser = arguments(__doc__)
    parser.add_argument("--capacity", type=float, default=0.0, help="requests a second (default: search for it)")
    parser.add_argument("--times", type=float, default=4)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--apart", action="store_true", help="server and generator on half of the cores each")
    parser.add_argument("--queue", type=int, help="jobQueueSize of the archive")
    parser.add_argument("--slo-ms", type=float, default=knobs.slo_ms, help="p99 of accepted requests")
    parser.add_argument("--refusal-ms", type=float, default=50, help="p99 of refusals")
    o = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            archive = with_config(o.archive, Path(folder), queue=o.queue)
            knobs = replace(knobs, slo_ms=o.slo_ms)
            figures = run(archive, o.posts, o.seed, knobs, o.capacity, o.times, o.seconds, apart=o.apart)
    except StageError as error:
        sys.exit(f"overload: {error}")
    report(figures, o.output)
    sys.exit("; ".join(missed(figures, o.slo_ms, o.refusal_ms)) or 0)


if __name__ == "__main__":
    main()
