"""From raw samples to metrics, plot and recommendation: known samples in, known figures out."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile
from pathlib import Path

import pytest

from stages.benchmark import Bench, Plan, check_archive, confirm, guess, main, plot_rows
from stages.loadrun import ENOUGH, LAG_SHARE, Point, latencies, problems, read_point
from stages.serving_figures import Curve, Result, capacity, differences, enclosed, metrics, nearest, recommendation
from stages.serving_page import section
from stages.serving_plot import COLUMNS, draw_curves, draw_latencies, draw_quality, draw_sensitivity
from stages.stage import StageError

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
PLAN = Plan(
    seed=20,
    slo_ms=SLO_MS,
    requests=500,
    warmup=10,
    steps=1,
    least_seconds=8,
    most_seconds=12,
    users=(1,),
    rounds=1,
    full_path=False,
)
QUALITY = {"accuracy": 0.9, "macro_f1": 0.88, "full_macro_f1": 0.89, "agreement": 0.99, "sha256": ""}


def at(rate: float, p99_ms: float, **changes: float) -> Point:
    return dataclasses.replace(POINT, rate=rate, p99_ms=p99_ms, **changes)


def curve(search: list[Point], *rounds: list[Point]) -> Curve:
    return Curve(search, list(rounds), rounds[0][nearest(rounds[0], SLO_MS)], [20.0, 90.0])


def result(**curves: Curve) -> Result:
    closed = [dataclasses.replace(POINT, rate=None, users=8)]
    return Result(size_mb=12.34, cold_start_s=5.67, rss_mb=800.4, closed=closed, curves=curves)


def write_samples(path: Path, rows: list[tuple[float, float, float, int]], core_share: float = 0.2) -> None:
    lines = [",".join(map(str, row)) for row in rows]
    path.write_text("\n".join(["scheduled_s,latency_ms,lag_ms,ok", *lines]) + "\n")
    path.with_suffix(".json").write_text(
        json.dumps(
            {"generator_core_share": core_share, "generator_machine_share": core_share / 2, "problems": {"bad": 1}}
        )
    )


def test_figures_come_exactly_from_the_samples(tmp_path: Path) -> None:
    # Latencies 1 to 200 ms but one, one request every 10 ms: p99 is the 198th of 199, with no bucket around it.
    write_samples(tmp_path / "s.csv", [(i / 100, i + 1, 0.5, int(i != 7)) for i in range(200)])
    point = read_point([tmp_path / "s.csv"], rate=100.0, users=None, cpu_s=3.0)
    assert (point.p50_ms, point.p99_ms, point.errors, point.requests) == (101, 199, 1, 200)
    assert point.rps == pytest.approx(200 / (1.99 + 0.2))
    assert (point.cpu_ms, point.machine_share) == (15, 0.1)
    assert problems(tmp_path / "s.csv") == ["bad"]
    assert not point.void(SLO_MS) and not point.sustained(SLO_MS)


def test_refusals_do_not_make_a_server_look_quick(tmp_path: Path) -> None:
    write_samples(tmp_path / "half.csv", [(i / 100, 200.0 if i % 2 else 2.0, 0.5, i % 2) for i in range(100)])
    half = read_point([tmp_path / "half.csv"], rate=100.0, users=None, cpu_s=1.0)
    assert (half.p50_ms, half.p99_ms, half.errors) == (200, 200, 50)
    write_samples(tmp_path / "none.csv", [(i / 100, 2.0, 0.5, 0) for i in range(100)])
    assert read_point([tmp_path / "none.csv"], rate=100.0, users=None, cpu_s=1.0).p99_ms == 2


def test_no_samples_is_an_error(tmp_path: Path) -> None:
    write_samples(tmp_path / "s.csv", [])
    with pytest.raises(StageError, match="holds no sample"):
        read_point([tmp_path / "s.csv"], 100.0, None, 1.0)


def test_what_counts_as_sustained() -> None:
    assert at(50, SLO_MS).sustained(SLO_MS)
    assert not at(50, SLO_MS + 0.1).sustained(SLO_MS)
    assert not at(50, 100, errors=1).sustained(SLO_MS)
    for late in (at(50, 100, lag_p99_ms=LAG_SHARE * SLO_MS + 1), at(50, 100, core_share=0.95)):
        assert late.void(SLO_MS) and not late.sustained(SLO_MS)


def test_rounds_are_taken_together(tmp_path: Path) -> None:
    # Three rounds of 100 samples; in one of them, three are slow: 1% of all.
    for turn, slow in enumerate((0, 3, 0)):
        rows = [(i / 100, 900.0 if i < slow else 10.0 + turn, 0.5, 1) for i in range(100)]
        write_samples(tmp_path / f"{turn}.csv", rows, core_share=0.1 * (turn + 1))
    files = sorted(tmp_path.glob("*.csv"))
    point = read_point(files, 100.0, None, cpu_s=3.0)
    assert (point.requests, point.p99_ms, point.cpu_ms) == (300, 12, 10)
    assert point.core_share == pytest.approx(0.3) and point.rps == pytest.approx(100, rel=0.3)
    assert sorted(latencies(files))[-3:] == [900] * 3
    assert read_point(files[1:2], 100.0, None, cpu_s=1.0).p99_ms == 900


def test_a_round_lies_between_what_held_and_what_did_not() -> None:
    # p99 doubles from 125 to 500 ms in two doublings, and so does the rate from 40 to 160: 250 ms is halfway.
    both = [at(160, 500), at(40, 125)]
    assert enclosed(both, SLO_MS) == (pytest.approx(80), True) and nearest(both, SLO_MS) == 1
    assert enclosed([at(40, 100), at(60, 200)], SLO_MS) == (60, False)
    assert (
        enclosed([at(40, 300), at(30, 900)], SLO_MS) == (0, False) and nearest([at(40, 300), at(30, 900)], SLO_MS) == 1
    )
    # Errors say that the rate was missed, not by how much: the middle.
    assert enclosed([at(40, 100), at(90, 50, errors=1)], SLO_MS) == (pytest.approx(60), True)
    # A late generator says nothing about the server.
    assert enclosed([at(40, 100), at(60, 900, core_share=0.95)], SLO_MS) == (40, False)


def test_capacity_is_the_mean_of_the_rounds_with_its_interval() -> None:
    rounds = [[at(rate, SLO_MS), at(2 * rate, 2 * SLO_MS)] for rate in (50, 60, 70)]
    found = capacity(curve([at(40, 100)], *rounds), SLO_MS)
    assert (found["capacity_rps"], found["confirmed"], found["rounds_rps"]) == (60, True, {"1": 50, "2": 60, "3": 70})
    # Student's t with two degrees of freedom, 4.303, times 10 / sqrt(3).
    assert (found["capacity_low_rps"], found["capacity_high_rps"]) == (35.2, 84.8)
    # A round in which nothing held counts as such.
    lost = capacity(curve([at(40, 100)], *rounds, [at(50, 900), at(20, 300)]), SLO_MS)
    assert (lost["capacity_rps"], lost["capacity_low_rps"], lost["confirmed"]) == (45, 0, False)
    alone = capacity(curve([at(40, 100)], rounds[0]), SLO_MS)
    assert (alone["capacity_rps"], alone["capacity_low_rps"], alone["capacity_high_rps"]) == (50, None, None)


def test_too_few_requests_are_admitted() -> None:
    for requests, enough in ((ENOUGH - 1, False), (ENOUGH, True)):
        rounds = [[at(36, 100)], [at(36, 100, requests=requests), at(40, 900)]]
        assert capacity(curve([at(40, 100)], *rounds), SLO_MS)["enough_requests"] == enough


def test_the_metrics_have_their_fixed_keys() -> None:
    on, off = curve([at(40, 100)], [at(44, 100)]), curve([at(10, 100)], [at(10, 100)])
    row = metrics(result(on=on, off=off), QUALITY, SLO_MS)
    assert {"capacity_rps", "p50_ms", "p99_ms", "size_mb", "rss_mb", "cold_start_s"} <= row.keys()
    assert (row["capacity_rps"], row["full_path"]["capacity_rps"]) == (44, 10)
    assert (row["macro_f1"], row["full_path"]["macro_f1"], row["agreement"]) == (0.88, 0.89, 0.99)
    assert row["closed_loop"] == {"users_8": {"rps": 49.0, "p50_ms": 20.0, "p99_ms": 90.0, "cpu_ms": 30.0}}
    assert "full_path" not in metrics(result(on=on), QUALITY, SLO_MS)


def test_every_point_is_shown(tmp_path: Path) -> None:
    on, off = curve([at(80, 400), at(40, 100)], [at(36, 90)]), curve([at(10, 100)], [at(9, 80)])
    measured = {"newsgroups": result(on=on, off=off), "newsgroups-onnx": result(on=on)}
    table = plot_rows("newsgroups", measured["newsgroups"])
    assert [(cascade, rate) for _, cascade, rate, *_ in table] == [
        ("on", 36),
        ("on", 40),
        ("on", 80),
        ("off", 9),
        ("off", 10),
    ]
    assert all(len(row) == len(COLUMNS) for row in table)
    rows = {variant: metrics(each, QUALITY, SLO_MS) for variant, each in measured.items()}
    draw_curves(table, SLO_MS, tmp_path / "serving.png")
    draw_latencies({"newsgroups": on.near_ms}, SLO_MS, tmp_path / "latency.png")
    draw_quality(rows, tmp_path / "quality.png")
    draw_sensitivity([["head.3", 0.98, 0.2], ["head.0", 1.0, 0.1]], tmp_path / "sensitivity.png")
    for name in ("serving", "latency", "quality", "sensitivity"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    page = "".join(section(rows, ["newsgroups-onnx-int8"], recommendation(rows, SLO_MS), SLO_MS, tmp_path))
    assert page.startswith("<p>Deploy newsgroups") and page.count("<img") == 4
    assert "missed a gate" in page and "newsgroups and newsgroups-onnx cannot be told apart" in page


NAMES = ("newsgroups", "newsgroups-onnx", "newsgroups-onnx-int8")


def serving(rounds: list[tuple[float, ...]], agreement: tuple[float, ...]) -> dict[str, dict]:
    return {
        name: {
            "capacity_rps": sum(found) / len(found),
            "rounds_rps": {str(turn): each for turn, each in enumerate(found, 1)},
            "agreement": same,
            "rss_mb": memory,
            "macro_f1": 0.88,
        }
        for name, found, same, memory in zip(NAMES, rounds, agreement, (900, 800, 700), strict=True)
    }


@pytest.mark.parametrize(
    ("rounds", "agreement", "expected"),
    [
        ([(38, 40, 42), (55, 60, 65), (85, 90, 95)], (1.0, 1.0, 0.99), "deploy newsgroups-onnx-int8: 90 "),
        # They cannot be told apart: the answers decide, then the memory.
        ([(38, 40, 42), (70, 80, 90), (80, 90, 70)], (1.0, 1.0, 0.99), "deploy newsgroups-onnx: 80 "),
        ([(70, 88, 106), (75, 85, 95), (60, 72, 84)], (1.0, 1.0, 1.0), "deploy newsgroups-onnx: 85 "),
        ([(0, 0, 0), (0, 0, 0), (0, 0, 0)], (1.0, 1.0, 0.99), "deploy none"),
        # What held nothing is never equal to what held something.
        ([(0, 0, 0), (0, 0, 0), (0, 0, 27)], (1.0, 1.0, 0.99), "deploy newsgroups-onnx-int8: 9 "),
        # One round says nothing about differences.
        ([(40,), (60,), (90,)], (1.0, 0.99, 0.99), "deploy newsgroups: 40 "),
    ],
)
def test_the_recommendation_follows_its_rule(
    rounds: list[tuple[float, ...]], agreement: tuple[float, ...], expected: str
) -> None:
    assert recommendation(serving(rounds, agreement), SLO_MS).startswith(expected)


def test_a_difference_is_called_only_where_the_rounds_say_so() -> None:
    # All share a noisy second round; what is left of the difference between the last two is noise.
    rows = serving([(40, 20, 42), (60, 42, 63), (65, 40, 60)], (1, 1, 1))
    assert differences(rows) == [
        "newsgroups-onnx sustains more than newsgroups",
        "newsgroups-onnx-int8 sustains more than newsgroups",
        "newsgroups-onnx and newsgroups-onnx-int8 cannot be told apart",
    ]


def fake_benches(
    monkeypatch: pytest.MonkeyPatch, folder: Path, capacities: dict[str, float], errors: int = 0
) -> tuple[list, list]:
    """Benches whose servers, which are not there, hold every rate up to their capacity; and what they are asked.

    errors: of a rate above it, which is late as well where there are none.
    """
    tried: list[tuple[str, float, int]] = []

    def fake(bench: Bench, offered: float, name: str, full_path: bool, seed: int) -> Point:
        assert not full_path
        tried.append((bench.variant, round(offered, 6), seed))
        path = bench.samples / f"{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        held = offered <= capacities[bench.variant]
        latency = 5.0 * seed if held or errors else 900.0
        write_samples(path, [(i / offered, latency, 0.5, 1) for i in range(50)])
        return at(offered, latency, requests=50, errors=0 if held else errors)

    monkeypatch.setattr(Bench, "opened", fake)
    plan = dataclasses.replace(PLAN, steps=4, rounds=3)
    # No server is asked: what would ask it is replaced.
    return [Bench(None, name, folder, folder / name, plan) for name in capacities], tried  # type: ignore[arg-type]


def test_the_confirmation_takes_turns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    benches, tried = fake_benches(monkeypatch, tmp_path, {"a": 10, "b": 20})
    curves = confirm(benches, [[at(10, 100), at(15, 900)], [at(40, 900)]], full_path=False)
    # Round after round, each variant from what its search or its rounds before found, up or down until enclosed.
    assert [variant for variant, *_ in tried] == [*"aabb"] * 3
    assert [seed - 24 for _, _, seed in tried] == [turn for turn in range(3) for _ in range(4)]
    low, high = 1.2**-0.5, 1.2**0.5
    assert [(name, rate) for name, rate, _ in tried[:4]] == [
        ("a", pytest.approx(10 * low)),
        ("a", pytest.approx(10 * high)),
        ("b", pytest.approx(20 * low)),
        ("b", pytest.approx(20 * high)),
    ]
    for each, held in zip(curves, (10, 20), strict=True):
        assert (
            capacity(each, SLO_MS)["confirmed"] and 0.9 * held <= capacity(each, SLO_MS)["capacity_rps"] <= 1.2 * held
        )
        assert each.near.requests == len(each.near_ms) == 150 and each.near.cpu_ms == pytest.approx(30)
    tried.clear()
    assert len(benches[0].search(4.0, full_path=False)) == 4
    assert [(rate, seed) for _, rate, seed in tried] == [(4, 20), (6, 21), (9, 22), (13.5, 23)]


def test_rounds_that_miss_by_refusals_still_have_an_interval(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    benches, _ = fake_benches(monkeypatch, tmp_path, {"a": 10}, errors=5)
    (each,) = confirm(
        [dataclasses.replace(benches[0], plan=dataclasses.replace(PLAN, rounds=4))], [[at(9, 100)]], False
    )
    found = capacity(each, SLO_MS)
    assert found["capacity_low_rps"] < 10 < found["capacity_high_rps"] and found["confirmed"]
    assert len(set(found["rounds_rps"].values())) == 4, "from another place each time"


@pytest.mark.parametrize(
    ("offered", "requests"),
    # 8 s of a fast variant, 12 s of a slow one, 500 requests between; and never so few that they say nothing.
    [(300.0, 2400), (50.0, 500), (20.0, 240), (1.0, 50)],
)
def test_every_rate_is_kept_up_long_enough(
    offered: float, requests: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[int] = []

    def fake(*arguments: object, **_: object) -> Point:
        asked.append(arguments[4])  # type: ignore[arg-type]
        return POINT

    monkeypatch.setattr("stages.benchmark.run", fake)
    Bench(None, "a", tmp_path, tmp_path, PLAN).opened(offered, "on/search-0", False, 20)  # type: ignore[arg-type]
    assert asked == [requests]


def test_a_misled_search_is_set_right(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # What is found without a search: 10 for all of them.
    limits = {"right": 10, "low": 15, "high": 6, "hopeless": 1}
    benches, _ = fake_benches(monkeypatch, tmp_path, limits)
    curves = confirm(benches, [[at(10, 100)]] * 4, full_path=False)
    found = [capacity(curve, SLO_MS) for curve in curves]
    for each, limit in list(zip(found, limits.values(), strict=True))[:3]:
        assert each["confirmed"] and 0.9 * limit < each["capacity_rps"] < 1.5 * limit
    # Too far away for one round.
    assert found[3]["rounds_rps"]["1"] == 0 and not found[3]["confirmed"]
    assert guess([at(10, 100), at(30, 900)], [[at(10, 900), at(8, 900)]], SLO_MS) == 10
    assert guess([at(30, 900)], [[at(15, 900), at(12, 900)]], SLO_MS) == 6


def test_figures_of_another_commit_are_refused(tmp_path: Path) -> None:
    archive = tmp_path / "newsgroups-onnx.mar"
    with zipfile.ZipFile(archive, "w") as content:
        content.writestr("model.onnx", b"weights")
    good = hashlib.sha256(b"weights").hexdigest()
    check_archive(archive, {"newsgroups-onnx": {"sha256": good}})
    for quality in ({}, {"newsgroups-onnx": {}}, {"newsgroups-onnx": {"sha256": "0" * 64}}):
        with pytest.raises(StageError, match="another commit"):
            check_archive(archive, quality)
    archive.write_bytes(b"no zip")
    with pytest.raises(StageError, match="run the package stage again"):
        check_archive(archive, {})


def test_without_archives_the_stage_says_the_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    (tmp_path / "params.yaml").write_bytes((request.config.rootpath / "params.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="run the package stage"):
        main()
