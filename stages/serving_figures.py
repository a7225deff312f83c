"""What a benchmark's runs say: capacity with an interval, one row of metrics a variant, and which one to deploy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.loadrun import ENOUGH, Point


@dataclass(frozen=True)
class Curve:
    """Open-loop runs of one variant, the cascade on or off, each [runs] in the order in which they were made.

    search: of the bisection. rounds: of the interleaved confirmation. pooled: a point for each confirmed rate, of the
    samples of all rounds.
    """

    search: list[Point]
    rounds: list[Point]
    pooled: list[Point]

    @property
    def points(self) -> list[Point]:
        """Latency over rate, a point a rate."""
        return sorted([*self.search, *self.pooled], key=rate)


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


def interval(runs: Sequence[Point], slo_ms: float) -> tuple[float, float | None]:
    """Between which rates the capacity lies, by every single run of the confirmation: (low, high) requests a second.

    low: up to here each run held the objective. high: from here on none did; None where the fastest one still held.
    Runs in which the generator was the limit are no evidence.
    """
    valid = sorted((point for point in runs if not point.void(slo_ms)), key=rate)
    held = [point.sustained(slo_ms) for point in valid]
    low, high = 0.0, None
    for tried in dict.fromkeys(map(rate, valid)):
        if all(ok for point, ok in zip(valid, held, strict=True) if rate(point) <= tried):
            low = tried
        if high is None and not any(ok for point, ok in zip(valid, held, strict=True) if rate(point) >= tried):
            high = tried
    return low, high


def capacity(curve: Curve, slo_ms: float) -> dict[str, Any]:
    """capacity_rps with its interval, and p50_ms, p99_ms, processor time at that rate.

    It is the highest rate that the confirmation held, all rounds together; where it held none, the highest one below
    them that the search did; else 0, with the times of the lowest rate.
    """
    held = [point for point in curve.pooled if point.sustained(slo_ms)]
    lowest = min(map(rate, curve.pooled))
    below = [point for point in curve.search if point.sustained(slo_ms) and rate(point) < lowest]
    best = max(held or below, key=rate, default=min(curve.points, key=rate))
    low, high = interval(curve.rounds, slo_ms)
    return {
        "capacity_rps": round(rate(best), 1) if held or below else 0.0,
        "capacity_low_rps": round(low, 1),
        "capacity_high_rps": None if high is None else round(high, 1),
        "confirmed": bool(held),
        "p50_ms": round(best.p50_ms, 1),
        "p99_ms": round(best.p99_ms, 1),
        "cpu_ms": round(best.cpu_ms, 1),
        "requests": best.requests,
        "enough_requests": best.requests >= ENOUGH,
    }


def metrics(result: Result, quality: Mapping[str, Any], slo_ms: float) -> dict[str, Any]:
    """One variant's row of serving.json. quality: its row of export.json."""
    opened = [point for curve in result.curves.values() for point in (*curve.search, *curve.rounds)]
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


def more(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    """Whether one capacity is larger than another beyond doubt: their intervals do not overlap."""
    return right["capacity_high_rps"] is not None and left["capacity_low_rps"] >= right["capacity_high_rps"]


def differences(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A sentence for each pair of variants: which one sustains more, where the intervals of the capacities say so."""
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
    best = max(rows.values(), key=lambda row: row["capacity_rps"])
    if not best["capacity_rps"]:
        return (
            f"deploy none on this machine: no variant answered 99% of requests within {slo_ms:g} ms at any rate tried"
        )
    equal = [variant for variant, row in rows.items() if row["capacity_rps"] and not more(best, row)]
    chosen = max(equal, key=lambda variant: (round(rows[variant]["agreement"], 3), -rows[variant]["rss_mb"]))
    return (
        f"deploy {chosen}: {rows[chosen]['capacity_rps']:g} requests/s with 99% of them within {slo_ms:g} ms, macro-F1 "
        f"{rows[chosen]['macro_f1']:.4f} (rule: of the variants within their gates the highest capacity; those whose "
        "intervals overlap with its own count as equal, then the one closest to PyTorch's answers, then the one with "
        "least memory)"
    )
