"""What a benchmark's runs say: capacity with an interval, one row of metrics a variant, and which one to deploy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.intervals import mean_interval
from stages.loadrun import ENOUGH, Point


@dataclass(frozen=True)
class Curve:
    """Open-loop runs of one variant, the cascade on or off.

    search: of the bisection. rounds: of the confirmation, each of which enclosed the capacity anew. near: all rounds
    together, of each the run at the highest rate that it held; near_ms: the latencies of these runs.
    """

    search: list[Point]
    rounds: list[list[Point]]
    near: Point
    near_ms: list[float]

    @property
    def runs(self) -> list[Point]:
        """Every run, in the order in which they were made."""
        return [*self.search, *(point for points in self.rounds for point in points)]

    @property
    def points(self) -> list[Point]:
        """Latency over rate, a point a run."""
        return sorted(self.runs, key=rate)


@dataclass(frozen=True)
class Result:
    """What was measured of one variant. closed: its closed loops. curves: by "on" and, unless quick, "off"."""

    size_mb: float
    cold_start_s: float
    rss_mb: float
    closed: list[Point]
    curves: dict[str, Curve]


def rate(point: Point) -> float:
    """The offered rate of an open-loop point."""
    assert point.rate is not None
    return point.rate


def nearest(points: Sequence[Point], slo_ms: float) -> int:
    """Which of a round's runs was at the highest rate that held; at the lowest one where none did."""
    held = [index for index, point in enumerate(points) if point.sustained(slo_ms)]
    if held:
        return max(held, key=lambda index: rate(points[index]))
    return min(range(len(points)), key=lambda index: rate(points[index]))


def enclosed(points: Sequence[Point], slo_ms: float) -> tuple[float, bool]:
    """The capacity that one round found, requests a second, and whether it lies between a rate that held and one that
    did not.

    Between them the logarithm of p99 is taken to grow evenly with that of the rate. Where what did not hold failed by
    other than its latency, nothing says where between them, and it is the middle. Where only one of them was found, it
    is the highest rate that held, or 0.
    """
    best = points[nearest(points, slo_ms)]
    if not best.sustained(slo_ms):
        return 0.0, False
    # A generator that was the limit itself says nothing about the server.
    missed = [point for point in points if not point.sustained(slo_ms) and not point.void(slo_ms)]
    if not missed:
        return rate(best), False
    worst = min(missed, key=rate)
    if worst.errors:
        return math.sqrt(rate(best) * rate(worst)), True
    share = math.log(slo_ms / best.p99_ms) / math.log(worst.p99_ms / best.p99_ms)
    return rate(best) * (rate(worst) / rate(best)) ** share, True


def capacity(curve: Curve, slo_ms: float) -> dict[str, Any]:
    """capacity_rps, the mean of the rounds, with its 95% interval; and p50_ms, p99_ms, processor time near it.

    confirmed: whether each round found a rate that held and one that did not. enough_requests: whether each run of the
    rounds had so many that its p99 can be relied on.
    """
    found = [enclosed(points, slo_ms) for points in curve.rounds]
    mean, low, high = mean_interval([each for each, _ in found])
    return {
        "capacity_rps": round(mean, 1),
        "capacity_low_rps": None if low is None else round(max(low, 0.0), 1),
        "capacity_high_rps": None if high is None else round(high, 1),
        "rounds_rps": {str(turn): round(each, 1) for turn, (each, _) in enumerate(found, 1)},
        "confirmed": all(both for _, both in found),
        "p50_ms": round(curve.near.p50_ms, 1),
        "p99_ms": round(curve.near.p99_ms, 1),
        "cpu_ms": round(curve.near.cpu_ms, 1),
        "requests": curve.near.requests,
        "enough_requests": all(point.requests >= ENOUGH for points in curve.rounds for point in points),
    }


def metrics(result: Result, quality: Mapping[str, Any], slo_ms: float) -> dict[str, Any]:
    """One variant's row of serving.json. quality: its row of export.json."""
    opened = [point for curve in result.curves.values() for point in curve.runs]
    runs = [*result.closed, *opened]
    row: dict[str, Any] = {
        **capacity(result.curves["on"], slo_ms),
        "size_mb": round(result.size_mb, 1),
        "rss_mb": round(result.rss_mb),
        "cold_start_s": round(result.cold_start_s, 1),
        "accuracy": quality["accuracy"],
        "macro_f1": quality["macro_f1"],
        "agreement": quality["agreement"],
        "errors": sum(point.errors for point in result.closed),
        "void_runs": sum(point.void(slo_ms) for point in opened),
        "generator_core_share": round(max(point.core_share for point in runs), 2),
        "generator_machine_share": round(max(point.machine_share for point in runs), 2),
        "closed_loop": {
            f"users_{point.users}": {
                "rps": round(point.rps, 1),
                "p50_ms": round(point.p50_ms, 1),
                "p99_ms": round(point.p99_ms, 1),
                "cpu_ms": round(point.cpu_ms, 1),
            }
            for point in result.closed
        },
    }
    if off := result.curves.get("off"):
        row["full_path"] = {**capacity(off, slo_ms), "macro_f1": quality["full_macro_f1"]}
    return row


def headline(row: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of one variant that people compare first, from its row of serving.json; full_rps: its capacity with
    the cascade off."""
    full = {"full_rps": row["full_path"]["capacity_rps"]} if "full_path" in row else {}
    same = ("p50_ms", "p99_ms", "size_mb", "rss_mb", "cold_start_s", "macro_f1", "agreement")
    return {"rps": row["capacity_rps"], **full} | {key: row[key] for key in same}


def more(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    """Whether one capacity is larger than another: the 95% interval of their difference, round by round, is above 0.

    The variants took turns in every round, so that what slowed the machine then is in neither's favour. One round alone
    proves nothing.
    """
    ours, theirs = (list(row["rounds_rps"].values()) for row in (left, right))
    _, low, _ = mean_interval([a - b for a, b in zip(ours, theirs, strict=True)])
    return low is not None and low > 0


def differences(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A sentence for each pair of variants: which one sustains more, where the interval of the difference says so."""
    names, said = list(rows), []
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            left, right = rows[first], rows[second]
            if more(left, right):
                said.append(f"{first} sustains more than {second}")
            elif more(right, left):
                said.append(f"{second} sustains more than {first}")
            else:
                said.append(f"{first} and {second} cannot be told apart")
    return said


def recommendation(rows: Mapping[str, Mapping[str, Any]], slo_ms: float) -> str:
    """One sentence: which variant to deploy, and the rule that says so. rows: serving.json."""
    if not any(row["capacity_rps"] for row in rows.values()):
        if void := sum(row["void_runs"] for row in rows.values()):
            return (
                f"no variant can be named: none held a rate within {slo_ms:g} ms, and in {void} runs it was the load "
                "generator that was late; raise benchmark.slo_ms, or give it a machine with more cores"
            )
        return (
            f"deploy none on this machine: no variant answered 99% of requests within {slo_ms:g} ms at any rate tried"
        )
    # By all, not by the best alone: one whose rounds are far apart can be told from none.
    beaten = {name for name, row in rows.items() if any(more(other, row) for other in rows.values())}
    equal = [name for name, row in rows.items() if row["capacity_rps"] and name not in beaten]
    chosen = max(equal, key=lambda variant: (round(rows[variant]["agreement"], 3), -rows[variant]["rss_mb"]))
    # Where not every round met a rate that was too high, or one that was held.
    roughly = "" if rows[chosen]["confirmed"] else "about "
    return (
        f"deploy {chosen}: {roughly}{rows[chosen]['capacity_rps']:g} requests/s with 99% of them within {slo_ms:g} ms, "
        f"macro-F1 {rows[chosen]['macro_f1']:.4f} (rule: of the variants within their gates those than which no other "
        "sustains more, told round by round; of these the one closest to PyTorch's answers, then the one with least "
        "memory)"
    )
