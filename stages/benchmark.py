"""Stage `benchmark`: which variant to deploy on this machine, for this latency objective? Each archive under load."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import math
import time
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from loadtest.answers import NO_ANSWER
from stages.capacity import STEP, enclose, highest_rate
from stages.files import replacing, write_csv, write_json, write_rows
from stages.html import write_section
from stages.inputs import read_earlier
from stages.loadrun import Point, Target, latencies, problems, read_point, run
from stages.params import Benchmark, load
from stages.paths import METRICS, MODEL_STORE, PLOTS, PREPARED, SAMPLES
from stages.serving_figures import (
    Curve,
    Result,
    differences,
    enclosed,
    headline,
    metrics,
    nearest,
    rate,
    recommendation,
)
from stages.serving_page import section
from stages.serving_plot import COLUMNS, draw_curves, draw_latencies, draw_quality
from stages.stage import StageError, stage
from stages.torchserve import Server, serving
from stages.variants import VARIANTS

# Where the search begins, as a share of what a closed loop got through.
FIRST_RATE = 0.7
# Rates that a round of the confirmation tries at most, to enclose a capacity.
TRIES = 4
FEWEST_REQUESTS = 50
# The lowest rate of all is the one at which so few take that many times `most_seconds`; a variant that does not hold it
# holds none.
LONGEST = 5
# Its multiples, modulo 1, spread evenly however many there are (Weyl's sequence).
GOLDEN_RATIO = (5**0.5 - 1) / 2

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bench:
    """One served variant under test: its server, its served name, the posts to send, where raw samples go.

    knobs: what is measured, as in params.yaml. seed: of the posts and the arrivals.
    """

    server: Target
    variant: str
    posts: Path
    samples: Path
    knobs: Benchmark
    seed: int

    @property
    def least(self) -> float:
        """The lowest rate that is tried, requests a second."""
        return FEWEST_REQUESTS / (LONGEST * self.knobs.most_seconds)

    def closed(self, users: int, requests: int, name: str, full_path: bool = False) -> Point:
        """A closed loop of `users` users. Raises StageError where an answer was wrong."""
        return self._loaded(name, self.seed, requests, users=users, full_path=full_path)

    def opened(self, offered: float, name: str, full_path: bool, seed: int) -> Point:
        """Poisson arrivals at `offered` requests a second. Raises StageError where an answer was wrong."""
        # As long for fast variants as for slow ones: what arrives beyond the capacity waits longer and longer, which
        # takes its time to show.
        fewest, most = offered * self.knobs.least_seconds, offered * self.knobs.most_seconds
        requests = max(FEWEST_REQUESTS, round(min(max(self.knobs.requests, fewest), most)))
        point = self._loaded(name, seed, requests, rate=offered, full_path=full_path)
        slo_ms = self.knobs.slo_ms
        verdict = "held" if point.sustained(slo_ms) else "VOID" if point.void(slo_ms) else "not held"
        log.info("%s, cascade %s: %s: %s", self.variant, mode(full_path), point, verdict)
        return point

    def _loaded(self, name: str, seed: int, requests: int, **load: Any) -> Point:
        path = self.samples / f"{name}.csv"
        point = run(self.server, self.variant, self.posts, seed, requests, path, **load)
        # A server that is full refuses; one that answers, and wrongly, is no matter of its rate.
        if wrong := [problem for problem in problems(path) if not problem.startswith(NO_ANSWER)]:
            raise self._faulty(wrong[0])
        return point

    def _faulty(self, problem: str) -> StageError:
        return StageError(f"{self.variant} gives wrong answers: {problem}; mend its handler and package it again")

    def warm_up(self) -> None:
        """Leave the first requests out. Raises StageError where the variant does not answer all of them rightly."""
        if self.closed(1, self.knobs.warmup, "warm-up").errors:
            raise self._faulty(problems(self.samples / "warm-up.csv")[0])

    def closed_loops(self) -> list[Point]:
        """A closed loop for each of the numbers of users."""
        points = []
        for users in self.knobs.users:
            points.append(self.closed(users, max(self.knobs.requests // 2, users), f"users-{users}"))
            log.info("%s: %s", self.variant, points[-1])
        return points

    def search(self, start: float, full_path: bool) -> list[Point]:
        """The open-loop points of the search for the highest sustained rate, in the order in which they were tried.

        Each has a schedule of its own, the same for all variants as far as it goes: the bursts of a single one would
        decide the search.
        """
        points: list[Point] = []

        def sustained(offered: float) -> bool:
            name = f"{mode(full_path)}/search-{len(points)}"
            points.append(self.opened(offered, name, full_path, self.seed + len(points)))
            return points[-1].sustained(self.knobs.slo_ms)

        highest_rate(sustained, max(start, self.least), self.knobs.steps)
        return points

    def round(self, turn: int, start: float, full_path: bool) -> list[Point]:
        """The open-loop points of one round of the confirmation, which encloses the capacity from `start` on.

        All its rates, of all variants, have the same schedule, drawn out or pressed together; faster ones go on longer
        in it.
        """
        points: list[Point] = []

        def sustained(offered: float) -> bool:
            path, seed = round_samples(full_path, turn, len(points)), self.seed + self.knobs.steps + turn
            points.append(self.opened(offered, path, full_path, seed))
            return points[-1].sustained(self.knobs.slo_ms)

        # From elsewhere within a step each time, evenly spread: on the same rates, all rounds would find the same, and
        # their interval would say that the capacity is known to the digit.
        enclose(sustained, start * STEP ** (turn * GOLDEN_RATIO % 1 - 0.5), TRIES, self.least)
        return points


def mode(full_path: bool) -> str:
    """How figures call the cascade: off where every post meets the transformer."""
    return "off" if full_path else "on"


def round_samples(full_path: bool, turn: int, number: int) -> str:
    """Where the samples of a round's run lie in the variant's folder, without suffix."""
    return f"{mode(full_path)}/round-{turn}-{number}"


def confirm(
    benches: list[Bench], searches: list[list[Point]], full_path: bool, until: float = -math.inf
) -> list[Curve]:
    """Enclose each variant's capacity again in every round, from what the search and the rounds before it found.

    The variants take turns, so that a noisy neighbour meets all. until: where there are rounds enough, another one
    begins only if the longest so far would end before that, in seconds of the monotonic clock. Never for what the
    rounds have found: who goes on until a difference shows finds one.
    """
    knobs = benches[0].knobs
    rounds: list[list[list[Point]]] = [[] for _ in benches]
    longest = 0.0
    for turn in itertools.count():
        started = time.monotonic()
        if turn >= knobs.rounds and started + longest > until:
            break
        for bench, search, own in zip(benches, searches, rounds, strict=True):
            own.append(bench.round(turn, guess(search, own, knobs.slo_ms), full_path))
        longest = max(longest, time.monotonic() - started)
    return [curve(*each, full_path) for each in zip(benches, searches, rounds, strict=True)]


def guess(search: list[Point], rounds: list[list[Point]], slo_ms: float) -> float:
    """The first rate of the next round: the mean of what the rounds before it found, else the best of the search, else
    half of the lowest rate that was tried."""
    if found := [each for points in rounds if (each := enclosed(points, slo_ms)[0])]:
        return sum(found) / len(found)
    tried = [*search, *(point for points in rounds for point in points)]
    return max((rate(point) for point in search if point.sustained(slo_ms)), default=min(map(rate, tried)) / 2)


def curve(bench: Bench, search: list[Point], rounds: list[list[Point]], full_path: bool) -> Curve:
    """All runs of one variant, with the samples near its capacity taken together."""
    chosen = [nearest(points, bench.knobs.slo_ms) for points in rounds]
    samples = [bench.samples / f"{round_samples(full_path, turn, number)}.csv" for turn, number in enumerate(chosen)]
    points = [own[number] for own, number in zip(rounds, chosen, strict=True)]
    cpu_s = sum(point.cpu_ms * point.requests for point in points) / 1000
    offered = sum(map(rate, points)) / len(points)
    return Curve(search, rounds, read_point(samples, offered, None, cpu_s), latencies(samples))


def measure(
    archives: list[Path], posts: Path, samples: Path, knobs: Benchmark, seed: int, full_path: bool
) -> dict[str, Result]:
    """Serve the archives, each in a server of its own, and measure them; one under load at a time.

    All servers stay up: an idle one costs memory alone, and starting them again for each turn of the confirmation
    would cost minutes. full_path: also with the cascade off. Raises StageError where a variant gives wrong answers even
    while warming up.
    """
    until = time.monotonic() + 60 * knobs.minutes
    # Not measured: the first start brings Java and the libraries into memory, where those after it find them. PyTorch's
    # is the one that needs most of them.
    with serving(archives[0], archives[0].stem):
        pass
    with contextlib.ExitStack() as stack:
        servers: list[Server] = []
        benches, closed, on, off = [], [], [], []
        for archive in archives:
            variant = archive.stem
            servers.append(stack.enter_context(serving(archive, variant)))
            log.info("%s: first answer after %.1f s", variant, servers[-1].cold_start_s)
            benches.append(Bench(servers[-1], variant, posts, samples / variant, knobs, seed))
        for bench in benches:
            bench.warm_up()
            closed.append(bench.closed_loops())
            fastest = max(point.rps for point in closed[-1])
            on.append(bench.search(fastest * FIRST_RATE, full_path=False))
            if full_path:
                users = knobs.users[-1]
                loop = bench.closed(users, max(knobs.requests // 4, users), "users-off", full_path=True)
                off.append(bench.search(loop.rps * FIRST_RATE, full_path=True))
        # What is deployed comes last, and has the time that is left.
        curves = {"off": confirm(benches, off, full_path=True)} if full_path else {}
        curves["on"] = confirm(benches, on, full_path=False, until=until)
        return {
            # Memory after the load: what a server that has been used holds on to.
            archive.stem: Result(
                archive.stat().st_size / 1e6,
                server.cold_start_s,
                server.resident_mb(),
                loops,
                {cascade: each[index] for cascade, each in curves.items()},
            )
            for index, (archive, server, loops) in enumerate(zip(archives, servers, closed, strict=True))
        }


def check_archive(archive: Path, quality: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise StageError where export.json, whose figures stand beside the speed, is not of the archive's weights, or
    says that the variant missed its gate."""
    try:
        with zipfile.ZipFile(archive) as content, content.open(VARIANTS[archive.stem].weights) as weights:
            packed = hashlib.file_digest(weights, "sha256").hexdigest()
    except (zipfile.BadZipFile, KeyError) as error:
        raise StageError(f"{archive} is no archive of this project ({error}): run the package stage again") from None
    if quality.get(archive.stem, {}).get("sha256") != packed:
        raise StageError(
            f"{METRICS / 'export.json'} is of another commit than {archive}: dvc checkout one of them, or dvc repro"
        )
    if not quality[archive.stem]["packaged"]:
        raise StageError(f"{archive} is of a variant that missed its gate since: run the package stage again")


def plot_rows(variant: str, result: Result) -> list[list[object]]:
    """One row of the plot's table (COLUMNS) per rate."""
    return [
        [variant, cascade, *(round(asdict(point)[name], 2) for name in COLUMNS[2:])]
        for cascade, curve in result.curves.items()
        for point in curve.points
    ]


def quick(knobs: Benchmark, limit: int) -> Benchmark:
    """For a run on `limit` posts a class, which only shows that the chain works: few requests and rates, one round."""
    return replace(
        knobs,
        requests=min(knobs.requests, 5 * limit),
        warmup=min(knobs.warmup, 20),
        steps=min(knobs.steps, 2),
        least_seconds=0,
        most_seconds=min(knobs.most_seconds, 4),
        users=knobs.users[-1:],
        rounds=1,
        minutes=0,
    )


def main() -> None:
    with stage("benchmark"):
        params = load()
        limit = params.data.limit
        knobs = quick(params.benchmark, limit) if limit else params.benchmark
        archives = [path for path in (MODEL_STORE / f"{variant}.mar" for variant in VARIANTS) if path.is_file()]
        if not archives:
            raise StageError(f"{MODEL_STORE} holds no archive: run the package stage, or simply dvc repro")
        quality = read_earlier(METRICS / "export.json", "run the export stage")
        for archive in archives:
            check_archive(archive, quality)
        with replacing(SAMPLES) as folder:
            results = measure(archives, PREPARED / "test.parquet", folder, knobs, params.seed, full_path=not limit)
        rows = {variant: metrics(result, quality[variant], knobs.slo_ms) for variant, result in results.items()}
        for variant, row in rows.items():
            log.info("%s: %s requests/s within %g ms", variant, row["capacity_rps"], knobs.slo_ms)
        for sentence in differences(rows):
            log.info("%s", sentence)
        verdict = recommendation(rows, knobs.slo_ms)
        log.info("%s", verdict)
        table = [row for variant, result in results.items() for row in plot_rows(variant, result)]
        write_csv(PLOTS / "serving.csv", list(COLUMNS), table)
        draw_curves(table, knobs.slo_ms, PLOTS / "serving.png")
        near = {variant: result.curves["on"].near_ms for variant, result in results.items()}
        draw_latencies(near, knobs.slo_ms, PLOTS / "latency.png")
        draw_quality(rows, PLOTS / "quality.png")
        left_out = [variant for variant in quality if variant not in rows]
        write_section("serving", *section(rows, left_out, verdict, knobs.slo_ms, PLOTS))
        write_json(METRICS / "serving.json", rows)
        write_rows(METRICS / "serving", {variant: headline(row) for variant, row in rows.items()})


if __name__ == "__main__":
    main()
