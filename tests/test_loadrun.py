"""From raw samples to the figures of one run: known samples in, known figures out."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.openloop import LAG_SHARE
from stages.loadrun import latencies, problems, read_point
from stages.stage import StageError
from tests.measured import SLO_MS, at, write_samples


def test_figures_come_exactly_from_the_samples(tmp_path: Path) -> None:
    # Latencies 1 to 200 ms but one, one request every 10 ms: p99 is the 198th of 199, with no bucket around it.
    write_samples(tmp_path / "s.csv", [(i / 100, i + 1, 0.5, int(i != 7)) for i in range(200)])
    point = read_point([tmp_path / "s.csv"], rate=100.0, users=None, cpu_s=3.0)
    assert (point.p50_ms, point.p99_ms, point.errors, point.requests) == (101, 199, 1, 200)
    assert point.rps == pytest.approx(199 / (1.99 + 0.2))
    assert (point.cpu_ms, point.machine_share) == (15, 0.1)
    assert problems(tmp_path / "s.csv") == ["status 503: full"]
    assert not point.void(SLO_MS) and not point.sustained(SLO_MS)


def test_refusals_do_not_make_a_server_look_quick(tmp_path: Path) -> None:
    write_samples(tmp_path / "half.csv", [(i / 100, 200.0 if i % 2 else 2.0, 0.5, i % 2) for i in range(100)])
    half = read_point([tmp_path / "half.csv"], rate=100.0, users=None, cpu_s=1.0)
    assert (half.p50_ms, half.p99_ms, half.errors) == (200, 200, 50)
    assert half.rps == pytest.approx(50 / (0.99 + 0.2))
    assert latencies([tmp_path / "half.csv"]) == [200] * 50
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
