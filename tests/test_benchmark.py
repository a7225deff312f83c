"""The rounds of the benchmark on servers that are not there, and what it refuses to measure."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stages import benchmark
from stages.benchmark import Bench, check_archive, confirm, guess, main, quick
from stages.loadrun import Point, Target
from stages.params import Benchmark
from stages.serving_figures import capacity
from stages.stage import StageError
from tests.measured import POINT, SLO_MS, at, write_samples

SEED = 20
KNOBS = Benchmark(
    slo_ms=SLO_MS, requests=500, warmup=10, steps=1, least_seconds=8, most_seconds=12, rounds=1, minutes=0, users=(1, 8)
)


class NoServer:
    """Stands where a server would: what would ask it is replaced."""

    url, key_file = "", Path()

    def cpu_seconds(self) -> float:
        raise AssertionError("there is no server to ask")


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
    knobs = dataclasses.replace(KNOBS, steps=4, rounds=3)
    return [Bench(NoServer(), name, folder, folder / name, knobs, SEED) for name in capacities], tried


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


@pytest.mark.parametrize(("until", "rounds"), [(0.0, 2), (150.0, 3), (200.0, 4), (399.0, 7)])
def test_time_that_is_left_goes_into_more_rounds(
    until: float, rounds: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    benches, tried = fake_benches(monkeypatch, tmp_path, {"a": 10})
    now = 0.0

    def fifty_seconds(_bench: Bench, *_: object) -> list[Point]:
        nonlocal now
        now += 50
        return [at(10, 100), at(12, 900)]

    monkeypatch.setattr(Bench, "round", fifty_seconds)
    monkeypatch.setattr(benchmark, "nearest", lambda *_: 0)
    monkeypatch.setattr(benchmark, "read_point", lambda *_: POINT)
    monkeypatch.setattr(benchmark, "latencies", lambda _: [100.0])
    monkeypatch.setattr(benchmark.time, "monotonic", lambda: now)
    knobs = dataclasses.replace(KNOBS, rounds=2)
    [curve] = confirm([dataclasses.replace(benches[0], knobs=knobs)], [[at(10, 100)]], full_path=False, until=until)
    # Two are asked for; none begins that would end too late.
    assert len(curve.rounds) == rounds and not tried


class IdleServer(NoServer):
    """Says of itself what a started server would."""

    def __init__(self, cold_start_s: float) -> None:
        self.cold_start_s = cold_start_s

    def resident_mb(self) -> float:
        return 100 * self.cold_start_s


def test_every_variant_is_measured_with_the_cascade_on_and_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limits = {("a", False): 40.0, ("a", True): 10.0, ("b", False): 90.0, ("b", True): 30.0}
    started: list[str] = []

    @contextlib.contextmanager
    def fake_serving(_archive: Path, model: str) -> Iterator[IdleServer]:
        started.append(model)
        yield IdleServer(float(len(started)))

    def fake_run(*asked: Any, rate: float | None = None, users: int | None = None, full_path: bool = False) -> Point:
        _, model, _, _, requests, samples = asked
        limit = limits[model, full_path]
        latency = 100.0 if rate is None or rate <= limit else 900.0
        samples.parent.mkdir(parents=True, exist_ok=True)
        write_samples(samples, [(i / (rate or limit), latency, 0.5, 1) for i in range(requests)])
        point = at(rate or limit, latency, requests=requests, users=users, rps=limit)
        return point if rate else dataclasses.replace(point, rate=None)

    monkeypatch.setattr(benchmark, "serving", fake_serving)
    monkeypatch.setattr(benchmark, "run", fake_run)
    archives = [tmp_path / f"{name}.mar" for name in "ab"]
    for archive in archives:
        archive.write_bytes(bytes(2_000_000))
    knobs = dataclasses.replace(KNOBS, rounds=2)
    found = benchmark.measure(archives, tmp_path, tmp_path / "samples", knobs, SEED, full_path=True)
    # The first start, which finds nothing in memory, counts for none.
    assert started == ["a", "a", "b"]
    for turn, (name, result) in enumerate(found.items(), 2):
        assert (result.size_mb, result.cold_start_s, result.rss_mb) == (2.0, turn, 100 * turn)
        assert [point.users for point in result.closed] == [1, 8]
        for cascade, curve in result.curves.items():
            own = capacity(curve, SLO_MS)
            limit = limits[name, cascade == "off"]
            assert own["confirmed"] and 0.8 * limit < own["capacity_rps"] < 1.2 * limit
    assert {name: set(result.curves) for name, result in found.items()} == {"a": {"on", "off"}, "b": {"on", "off"}}
    on_alone = benchmark.measure(archives, tmp_path, tmp_path / "samples", knobs, SEED, full_path=False)
    assert set(on_alone["a"].curves) == {"on"}


def test_rounds_that_miss_by_refusals_still_have_an_interval(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    benches, _ = fake_benches(monkeypatch, tmp_path, {"a": 10}, errors=5)
    (each,) = confirm(
        [dataclasses.replace(benches[0], knobs=dataclasses.replace(KNOBS, rounds=4))], [[at(9, 100)]], False
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

    def fake(_server: Target, _model: str, _posts: Path, _seed: int, requests: int, *_: object, **__: object) -> Point:
        asked.append(requests)
        return POINT

    monkeypatch.setattr("stages.benchmark.run", fake)
    monkeypatch.setattr("stages.benchmark.problems", lambda _: [])
    Bench(NoServer(), "a", tmp_path, tmp_path, KNOBS, SEED).opened(offered, "on/search-0", False, 20)
    assert asked == [requests]


@pytest.mark.parametrize(("problem", "wrong"), [("the label is unknown", True), ("status 503: full", False)])
def test_a_wrong_answer_under_load_is_no_matter_of_the_rate(
    problem: str, wrong: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("stages.benchmark.run", lambda *_, **__: POINT)
    monkeypatch.setattr("stages.benchmark.problems", lambda _: [problem])
    bench = Bench(NoServer(), "a", tmp_path, tmp_path, KNOBS, SEED)
    for load in (lambda: bench.opened(50, "on/search-0", False, 20), lambda: bench.closed(8, 50, "users-8")):
        with pytest.raises(StageError, match="a gives wrong answers: the label") if wrong else contextlib.nullcontext():
            load()


def test_a_variant_that_holds_no_rate_costs_bounded_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    benches, tried = fake_benches(monkeypatch, tmp_path, {"a": 0})
    benches = [dataclasses.replace(benches[0], knobs=dataclasses.replace(KNOBS, rounds=9))]
    confirm(benches, [benches[0].search(100.0, full_path=False)], full_path=False)
    rates = [rate for _, rate, _ in tried]
    assert min(rates) == pytest.approx(benches[0].least) and len(rates) < 30
    assert sum(benchmark.FEWEST_REQUESTS / rate for rate in rates) < 12 * 5 * KNOBS.most_seconds


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
    check_archive(archive, {"newsgroups-onnx": {"sha256": good, "packaged": True}})
    with pytest.raises(StageError, match="missed its gate"):
        check_archive(archive, {"newsgroups-onnx": {"sha256": good, "packaged": False}})
    for quality in ({}, {"newsgroups-onnx": {}}, {"newsgroups-onnx": {"sha256": "0" * 64}}):
        with pytest.raises(StageError, match="another commit"):
            check_archive(archive, quality)
    archive.write_bytes(b"no zip")
    with pytest.raises(StageError, match="run the package stage again"):
        check_archive(archive, {})


def test_a_quick_run_measures_less() -> None:
    less = quick(KNOBS, limit=40)
    assert (less.slo_ms, less.requests, less.warmup, less.steps, less.rounds) == (SLO_MS, 200, 10, 1, 1)
    assert less.least_seconds <= less.most_seconds == 4 and less.users == (8,)


def test_without_what_earlier_stages_wrote_the_stage_says_the_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    (tmp_path / "params.yaml").write_bytes((request.config.rootpath / "params.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="run the package stage"):
        main()
    (tmp_path / "outputs" / "model_store").mkdir(parents=True)
    (tmp_path / "outputs" / "model_store" / "newsgroups.mar").touch()
    with pytest.raises(SystemExit, match=r"export\.json is missing: run the export stage"):
        main()
