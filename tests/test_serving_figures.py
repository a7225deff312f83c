"""From runs to capacity with its interval, metrics, plots and recommendation: known runs in, known figures out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from stages.benchmark import plot_rows
from stages.loadrun import ENOUGH, Point
from stages.serving_figures import Curve, Result, capacity, differences, enclosed, metrics, nearest, recommendation
from stages.serving_page import section
from stages.serving_plot import COLUMNS, draw_curves, draw_latencies, draw_quality
from tests.measured import POINT, SLO_MS, at

QUALITY = {"accuracy": 0.9, "macro_f1": 0.88, "full_macro_f1": 0.89, "agreement": 0.99, "sha256": ""}


def curve(search: list[Point], *rounds: list[Point]) -> Curve:
    return Curve(search, list(rounds), rounds[0][nearest(rounds[0], SLO_MS)], [20.0, 90.0])


def result(**curves: Curve) -> Result:
    closed = [dataclasses.replace(POINT, rate=None, users=8)]
    return Result(size_mb=12.34, cold_start_s=5.67, rss_mb=800.4, closed=closed, curves=curves)


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
    # Of the export stage.
    (tmp_path / "sensitivity.png").write_bytes((tmp_path / "quality.png").read_bytes())
    for name in ("serving", "latency", "quality"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    page = "".join(section(rows, ["newsgroups-onnx-int8"], recommendation(rows, SLO_MS), SLO_MS, tmp_path))
    assert page.startswith("<p>Deploy newsgroups") and page.count("<img") == 4
    # Every rate was measured with enough requests.
    assert "rougher" not in page
    few = {"newsgroups": rows["newsgroups"] | {"enough_requests": False}}
    assert "rougher: newsgroups with the cascade on." in "".join(section(few, [], "deploy x", SLO_MS, tmp_path))
    # No round met a rate that was too high, and the generator was never the limit.
    assert "known less well: newsgroups with the cascade on, newsgroups with the cascade off, newsgroups-onnx" in page
    assert "are void" not in page
    void = {"newsgroups": rows["newsgroups"] | {"confirmed": True, "void_runs": 2}}
    page_of_void = "".join(section(void, [], "deploy x", SLO_MS, tmp_path))
    assert "2 runs are void" in page_of_void and "cascade on" not in page_of_void.partition("known less well")[2]
    assert "missed a gate" in page and "newsgroups and newsgroups-onnx cannot be told apart" in page


def test_curves_have_a_panel_a_cascade_and_a_mark_a_run(tmp_path: Path) -> None:
    # The slower run at the lower rate is noise: the fitted line runs between.
    on, off = curve([at(20, 90), at(40, 40), at(80, 400, errors=3)], [at(10, 30)]), curve([at(8, 90)], [at(9, 95)])
    table = plot_rows("newsgroups", result(on=on, off=off))
    panels = draw_curves(table, SLO_MS, tmp_path / "serving.png").axes
    assert [axes.get_title() for axes in panels] == ["cascade on", "cascade off"]
    assert {(axes.get_xlabel(), axes.get_ylabel()) for axes in panels} == {
        ("requests a second, offered", "latency, ms")
    }
    fitted, right, wrong, median, *_, objective = panels[0].lines
    assert (fitted.get_label(), median.get_label()) == ("newsgroups, p99", "newsgroups, p50")
    assert list(fitted.get_xdata()) == [10, 20, 40, 80]
    np.testing.assert_allclose(fitted.get_ydata(), [30, 60, 60, 400])
    assert right.get_xydata().tolist() == [[10, 30], [20, 90], [40, 40]]
    assert wrong.get_xydata().tolist() == [[80, 400]] and wrong.get_marker() == "x"
    assert list(objective.get_ydata()) == [SLO_MS, SLO_MS] and "250 ms" in objective.get_label()


def test_latencies_are_the_share_of_slower_requests(tmp_path: Path) -> None:
    latencies = {"newsgroups": [40.0, 10.0, 20.0, 30.0], "newsgroups-onnx": [5.0, 6.0]}
    (axes,) = draw_latencies(latencies, SLO_MS, tmp_path / "latency.png").axes
    first, second, objective, percentile = axes.lines
    assert [line.get_label() for line in (first, second)] == list(latencies)
    # Of the slowest none is slower, which a logarithmic axis cannot show.
    assert first.get_xydata().tolist() == [[10, 0.75], [20, 0.5], [30, 0.25]]
    assert second.get_xydata().tolist() == [[5, 0.5]]
    assert (objective.get_xdata()[0], percentile.get_ydata()[0]) == (SLO_MS, 0.01)
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


def test_quality_has_a_mark_a_variant_and_cascade_with_its_interval(tmp_path: Path) -> None:
    def figures(best: float, low: float | None, high: float | None, macro_f1: float) -> dict[str, float | None]:
        return {"capacity_rps": best, "capacity_low_rps": low, "capacity_high_rps": high, "macro_f1": macro_f1}

    rows = {
        "newsgroups": figures(40, 35, 50, 0.88) | {"full_path": figures(10, None, None, 0.89)},
        "newsgroups-onnx": figures(60, 55, 65, 0.88),
    }
    (axes,) = draw_quality(rows, tmp_path / "quality.png").axes
    on, off, onnx = axes.containers
    labels = ["newsgroups, cascade on", "newsgroups, cascade off", "newsgroups-onnx, cascade on"]
    assert [each.get_label() for each in (on, off, onnx)] == labels
    assert [each[0].get_xydata().tolist() for each in (on, off, onnx)] == [[[40, 0.88]], [[10, 0.89]], [[60, 0.88]]]
    # One round has no interval.
    assert (on.has_xerr, off.has_xerr) == (True, False)
    assert on[2][0].get_segments()[0][:, 0].tolist() == [35, 50]
    assert (on[0].get_markerfacecolor(), off[0].get_markerfacecolor()) == ("C0", "none")
    assert axes.get_ylim() == (0.87, 0.9)


NAMES = ("newsgroups", "newsgroups-onnx", "newsgroups-onnx-int8")


def serving(rounds: list[tuple[float, ...]], agreement: tuple[float, ...]) -> dict[str, dict]:
    return {
        name: {
            "capacity_rps": sum(found) / len(found),
            "rounds_rps": {str(turn): each for turn, each in enumerate(found, 1)},
            "agreement": same,
            "rss_mb": memory,
            "macro_f1": 0.88,
            "confirmed": True,
            "void_runs": 0,
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
        # Nothing can be told apart from the last, whose rounds are far apart; the first is less than the second.
        ([(38, 40, 42), (55, 60, 65), (10, 90, 170)], (1.0, 0.999, 0.99), "deploy newsgroups-onnx: 60 "),
        # One round says nothing about differences.
        ([(40,), (60,), (90,)], (1.0, 0.99, 0.99), "deploy newsgroups: 40 "),
    ],
)
def test_the_recommendation_follows_its_rule(
    rounds: list[tuple[float, ...]], agreement: tuple[float, ...], expected: str
) -> None:
    assert recommendation(serving(rounds, agreement), SLO_MS).startswith(expected)


def test_a_generator_that_was_late_is_no_fault_of_the_variants() -> None:
    rows = serving([(0, 0, 0)] * 3, (1.0, 1.0, 0.99))
    rows["newsgroups"]["void_runs"] = 2
    verdict = recommendation(rows, SLO_MS)
    assert verdict.startswith("no variant can be named") and "in 2 runs it was the load generator" in verdict


def test_a_rough_capacity_is_called_so() -> None:
    rows = serving([(38, 40, 42), (55, 60, 65), (85, 90, 95)], (1.0, 1.0, 0.99))
    rows["newsgroups-onnx-int8"]["confirmed"] = False
    assert recommendation(rows, SLO_MS).startswith("deploy newsgroups-onnx-int8: about 90 ")


def test_a_difference_is_called_only_where_the_rounds_say_so() -> None:
    # All share a noisy second round; what is left of the difference between the last two is noise.
    rows = serving([(40, 20, 42), (60, 42, 63), (65, 40, 60)], (1, 1, 1))
    assert differences(rows) == [
        "newsgroups-onnx sustains more than newsgroups",
        "newsgroups-onnx-int8 sustains more than newsgroups",
        "newsgroups-onnx and newsgroups-onnx-int8 cannot be told apart",
    ]
