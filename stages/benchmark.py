"""Stage `benchmark`: which variant to deploy on this machine, for this latency objective? Each archive under load."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path

from loadtest.capacity import highest_rate
from stages.files import read_json, replacing, write_csv, write_json
from stages.loadrun import Point, problems, run
from stages.params import load
from stages.paths import METRICS, MODEL_STORE, PLOTS, PREPARED, SAMPLES
from stages.serving_plot import COLUMNS, draw, recommendation
from stages.stage import StageError, stage
from stages.torchserve import Server, serving

VARIANTS = ("newsgroups", "newsgroups-onnx", "newsgroups-onnx-int8")
# Where the search begins, as a share of what a closed loop got through.
FIRST_RATE = 0.7
FEWEST_REQUESTS = 50

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What is measured of every variant; figures as in params.yaml.

    seconds: that one rate may take. full_path: also with the cascade off.
    """

    seed: int
    slo_ms: float
    requests: int
    warmup: int
    steps: int
    seconds: float
    users: tuple[int, ...]
    full_path: bool


@dataclass(frozen=True)
class Result:
    """What was measured of one variant: closed loops, then the open loops with the cascade on and off."""

    size_mb: float
    cold_start_s: float
    rss_mb: float
    closed: list[Point]
    on: list[Point]
    off: list[Point]


def measure(archive: Path, posts: Path, samples: Path, plan: Plan) -> Result:
    """Serve one archive and measure it. Raises StageError where it gives wrong answers even while warming up."""
    variant = archive.stem
    with serving(archive, variant) as server:
        log.info("%s: first answer after %.1f s", variant, server.cold_start_s)
        common = {"server": server, "model": variant, "posts": posts, "seed": plan.seed}
        first = samples / "warm-up.csv"
        if run(**common, requests=plan.warmup, users=1, samples=first).errors:
            raise StageError(
                f"{variant} gives wrong answers: {problems(first)[0]}; mend its handler and package it again"
            )
        closed = []
        for users in plan.users:
            path = samples / f"users-{users}.csv"
            closed.append(run(**common, requests=max(plan.requests // 2, users), users=users, samples=path))
            log.info("%s: %s", variant, closed[-1])
        fastest = max(point.rps for point in closed)
        on = search(server, variant, posts, samples / "on", plan, fastest * FIRST_RATE, full_path=False)
        off: list[Point] = []
        if plan.full_path:
            path = samples / "users-off.csv"
            half = max(plan.requests // 4, plan.users[-1])
            loop = run(**common, requests=half, users=plan.users[-1], samples=path, full_path=True)
            off = search(server, variant, posts, samples / "off", plan, loop.rps * FIRST_RATE, full_path=True)
        # After the load: what a server that has been used holds on to.
        return Result(archive.stat().st_size / 1e6, server.cold_start_s, server.resident_mb(), closed, on, off)


def search(
    server: Server, variant: str, posts: Path, samples: Path, plan: Plan, start: float, full_path: bool
) -> list[Point]:
    """The open-loop points of the search for the highest sustained rate, in the order in which they were tried."""
    points: list[Point] = []

    def sustained(rate: float) -> bool:
        path = samples / f"{len(points)}.csv"
        # On a slow machine few requests take long: the time that a rate may take bounds their number.
        requests = min(plan.requests, max(FEWEST_REQUESTS, round(rate * plan.seconds)))
        points.append(run(server, variant, posts, plan.seed, requests, path, rate=rate, full_path=full_path))
        point = points[-1]
        verdict = "held" if point.sustained(plan.slo_ms) else "VOID" if point.void(plan.slo_ms) else "not held"
        log.info("%s, cascade %s: %s: %s", variant, "off" if full_path else "on", point, verdict)
        return verdict == "held"

    highest_rate(sustained, start, plan.steps)
    return points


def capacity(points: list[Point], slo_ms: float) -> dict[str, float]:
    """capacity_rps, and p50_ms and p99_ms at that rate; where none was sustained, 0 and those of the lowest rate."""
    held = [point for point in points if point.sustained(slo_ms)]
    best = max(held, key=_rate) if held else min(points, key=_rate)
    return {
        "capacity_rps": round(_rate(best), 1) if held else 0.0,
        "p50_ms": round(best.p50_ms, 1),
        "p99_ms": round(best.p99_ms, 1),
    }


def _rate(point: Point) -> float:
    return point.rate or 0.0


def metrics(result: Result, slo_ms: float) -> dict[str, object]:
    """One variant's row of serving.json."""
    row: dict[str, object] = {
        **capacity(result.on, slo_ms),
        "size_mb": round(result.size_mb, 1),
        "rss_mb": round(result.rss_mb),
        "cold_start_s": round(result.cold_start_s, 1),
        "errors": sum(point.errors for point in result.closed),
        "void_runs": sum(point.void(slo_ms) for point in [*result.on, *result.off]),
        "generator_core_share": round(max(point.core_share for point in [*result.closed, *result.on, *result.off]), 2),
        "closed_loop": {
            f"users_{point.users}": {
                "rps": round(point.rps, 1),
                "p50_ms": round(point.p50_ms, 1),
                "p99_ms": round(point.p99_ms, 1),
            }
            for point in result.closed
        },
    }
    if result.off:
        row["full_path"] = capacity(result.off, slo_ms)
    return row


def plot_rows(variant: str, result: Result) -> list[list[object]]:
    """One row of the plot's table (COLUMNS) per open-loop point."""
    return [
        [variant, cascade, *(round(asdict(point)[name], 2) for name in COLUMNS[2:])]
        for cascade, points in (("on", result.on), ("off", result.off))
        for point in sorted(points, key=_rate)
    ]


def main() -> None:
    with stage("benchmark"):
        params = load()
        knobs, quick = params.benchmark, params.data.limit
        plan = Plan(
            seed=params.seed,
            slo_ms=knobs.slo_ms,
            # A quick run of the chain only shows that it works: few requests, few rates, one closed loop.
            requests=min(knobs.requests, 5 * quick) if quick else knobs.requests,
            warmup=min(knobs.warmup, 20) if quick else knobs.warmup,
            steps=min(knobs.steps, 2) if quick else knobs.steps,
            seconds=4 if quick else 20,
            users=knobs.users[-1:] if quick else knobs.users,
            full_path=not quick,
        )
        archives = [path for path in (MODEL_STORE / f"{variant}.mar" for variant in VARIANTS) if path.is_file()]
        if not archives:
            raise StageError(f"{MODEL_STORE} holds no archive: run the package stage, or simply dvc repro")
        export = METRICS / "export.json"
        quality = read_json(export) if export.is_file() else {}
        agreement = {archive.stem: quality.get(archive.stem, {}).get("agreement") for archive in archives}
        if VARIANTS[0] in agreement:
            # The others are held against it.
            agreement[VARIANTS[0]] = 1.0
        results = {}
        with replacing(SAMPLES) as folder:
            for archive in archives:
                results[archive.stem] = measure(archive, PREPARED / "test.parquet", folder / archive.stem, plan)
        rows = {variant: metrics(result, plan.slo_ms) for variant, result in results.items()}
        for variant, row in rows.items():
            same = "" if agreement[variant] is None else f", agreement with PyTorch {agreement[variant]:.2%}"
            log.info("%s: %s requests/s within %g ms%s", variant, row["capacity_rps"], plan.slo_ms, same)
        log.info("%s", recommendation(rows, agreement, plan.slo_ms))
        table = [row for variant, result in results.items() for row in plot_rows(variant, result)]
        write_csv(PLOTS / "serving.csv", list(COLUMNS), table)
        draw(table, plan.slo_ms, PLOTS / "serving.png")
        write_json(METRICS / "serving.json", rows)


if __name__ == "__main__":
    main()
