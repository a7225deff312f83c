"""From raw samples to metrics, plot and recommendation: known samples in, known figures out."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from stages.benchmark import Result, capacity, main, metrics, plot_rows
from stages.loadrun import LAG_SHARE, Point, problems, read_point
from stages.serving_plot import COLUMNS, draw, recommendation
from stages.stage import StageError

SLO_MS = 250.0
POINT = Point(
    rate=50.0, users=None, requests=100, rps=49.0, p50_ms=20.0, p99_ms=90.0, errors=0, lag_p99_ms=1.0, core_share=0.2
)


def at(rate: float, p99_ms: float, **changes: float) -> Point:
    return dataclasses.replace(POINT, rate=rate, p99_ms=p99_ms, **changes)


def result(on: list[Point], off: list[Point]) -> Result:
    closed = [dataclasses.replace(POINT, rate=None, users=8)]
    return Result(size_mb=12.34, cold_start_s=5.67, rss_mb=800.4, closed=closed, on=on, off=off)


def write_samples(path: Path, rows: list[tuple[float, float, float, int]], core_share: float = 0.2) -> None:
    lines = [",".join(map(str, row)) for row in rows]
    path.write_text("\n".join(["scheduled_s,latency_ms,lag_ms,ok", *lines]) + "\n")
    path.with_suffix(".json").write_text(json.dumps({"generator_core_share": core_share, "problems": {"bad": 1}}))


def test_figures_come_exactly_from_the_samples(tmp_path: Path) -> None:
    # Latencies 1 to 200 ms, one request every 10 ms: p99 is the 198th, with no bucket around it.
    write_samples(tmp_path / "s.csv", [(i / 100, i + 1, 0.5, int(i != 7)) for i in range(200)])
    point = read_point(tmp_path / "s.csv", rate=100.0, users=None)
    assert (point.p50_ms, point.p99_ms, point.errors, point.requests) == (100, 198, 1, 200)
    assert point.rps == pytest.approx(200 / (1.99 + 0.2))
    assert problems(tmp_path / "s.csv") == ["bad"]
    assert not point.void(SLO_MS) and not point.sustained(SLO_MS)


def test_no_samples_is_an_error(tmp_path: Path) -> None:
    write_samples(tmp_path / "s.csv", [])
    with pytest.raises(StageError, match="holds no sample"):
        read_point(tmp_path / "s.csv", 100.0, None)


def test_what_counts_as_sustained() -> None:
    assert at(50, SLO_MS).sustained(SLO_MS)
    assert not at(50, SLO_MS + 0.1).sustained(SLO_MS)
    assert not at(50, 100, errors=1).sustained(SLO_MS)
    for late in (at(50, 100, lag_p99_ms=LAG_SHARE * SLO_MS + 1), at(50, 100, core_share=0.95)):
        assert late.void(SLO_MS) and not late.sustained(SLO_MS)


def test_capacity_is_the_highest_rate_that_held() -> None:
    assert capacity([at(40, 100), at(80, 400), at(60, 200)], SLO_MS) == {
        "capacity_rps": 60.0,
        "p50_ms": 20.0,
        "p99_ms": 200.0,
    }
    assert capacity([at(80, 900), at(40, 400)], SLO_MS) == {"capacity_rps": 0.0, "p50_ms": 20.0, "p99_ms": 400.0}


def test_the_metrics_have_their_fixed_keys() -> None:
    row = metrics(result([at(40, 100)], [at(10, 100)]), SLO_MS)
    assert {"capacity_rps", "p50_ms", "p99_ms", "size_mb", "rss_mb", "cold_start_s"} <= row.keys()
    assert row["capacity_rps"] == 40 and row["full_path"]["capacity_rps"] == 10
    assert row["closed_loop"] == {"users_8": {"rps": 49.0, "p50_ms": 20.0, "p99_ms": 90.0}}
    assert "full_path" not in metrics(result([at(40, 100)], []), SLO_MS)


def test_the_plot_shows_every_point(tmp_path: Path) -> None:
    table = plot_rows("newsgroups", result([at(80, 400), at(40, 100)], [at(10, 100)]))
    assert [row[:3] for row in table] == [
        ["newsgroups", "on", 40],
        ["newsgroups", "on", 80],
        ["newsgroups", "off", 10],
    ]
    assert all(len(row) == len(COLUMNS) for row in table)
    draw(table, SLO_MS, tmp_path / "serving.png")
    assert (tmp_path / "serving.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("capacities", "agreement", "expected"),
    [
        ((40.0, 60.0, 90.0), (1.0, 1.0, 0.99), "deploy newsgroups-onnx-int8: 90 "),
        # Within a tenth of each other: the answers decide, then the memory.
        ((40.0, 85.0, 90.0), (1.0, 1.0, 0.99), "deploy newsgroups-onnx: 85 "),
        ((88.0, 85.0, 70.0), (1.0, 1.0, 0.99), "deploy newsgroups-onnx: 85 "),
        # Answers that nobody has compared win no tie.
        ((88.0, 60.0, 90.0), (1.0, None, None), "deploy newsgroups: 88 "),
        ((0.0, 0.0, 0.0), (1.0, 1.0, 0.99), "deploy none"),
    ],
)
def test_the_recommendation_follows_its_rule(
    capacities: tuple[float, ...], agreement: tuple[float | None, ...], expected: str
) -> None:
    names = ("newsgroups", "newsgroups-onnx", "newsgroups-onnx-int8")
    memory = (900, 800, 700)
    rows = {n: {"capacity_rps": c, "rss_mb": m} for n, c, m in zip(names, capacities, memory, strict=True)}
    assert recommendation(rows, dict(zip(names, agreement, strict=True)), SLO_MS).startswith(expected)


def test_without_archives_the_stage_says_the_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    (tmp_path / "params.yaml").write_bytes((request.config.rootpath / "params.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="run the package stage"):
        main()
