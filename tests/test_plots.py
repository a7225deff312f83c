"""What is drawn of an evaluation and of an explanation, whatever the names in it are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stages import plots
from stages.confidence import calibration_error, reliability, risk_area, risk_coverage


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["$", "$$", "$$$"], [r"\$", r"\$\$", r"\$\$\$"]),
        (["c_1 $x^{y$", "b", "c" * 200], [r"c_1 \$x^{y\$", "b", "c" * 39 + "…"]),
    ],
)
def test_a_class_may_have_any_name(tmp_path: Path, names: list[str], shown: list[str]) -> None:
    path = tmp_path / "confusion.png"
    (axes,) = plots.confusion_matrix(path, np.eye(3, dtype=int), names).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == shown
    assert [label.get_text() for label in axes.get_yticklabels()] == shown
    assert path.read_bytes().startswith(b"\x89PNG")


def test_confusions_are_counts_shaded_by_their_share_of_the_class(tmp_path: Path) -> None:
    (axes,) = plots.confusion_matrix(tmp_path / "c.png", np.array([[3, 1], [0, 0]]), ["a", "b"]).axes
    assert [(text.get_position(), text.get_text(), text.get_color()) for text in axes.texts] == [
        ((0, 0), "3", "white"),
        ((1, 0), "1", "black"),
    ]
    # A class without posts has no share.
    assert axes.images[0].get_array().tolist() == [[0.75, 0.25], [0, 0]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "actual")


def test_confusions_of_many_classes_are_shades_alone(tmp_path: Path) -> None:
    many = plots.LEGIBLE_CLASSES + 1
    figure = plots.confusion_matrix(tmp_path / "c.png", np.eye(many, dtype=int), [f"class {i}" for i in range(many)])
    few = plots.confusion_matrix(tmp_path / "d.png", np.eye(many - 1, dtype=int), ["x"] * (many - 1))
    assert not figure.axes[0].texts and len(few.axes[0].texts) == many - 1
    assert max(figure.get_size_inches()) <= max(few.get_size_inches())


def test_long_names_leave_the_cells_their_size(tmp_path: Path) -> None:
    def cells(names: list[str]) -> float:
        figure = plots.confusion_matrix(tmp_path / "c.png", np.eye(2, dtype=int), names)
        return figure.axes[0].get_window_extent().width

    assert cells(["w" * 40, "i" * 40]) > 0.8 * cells(["w", "i"])


def test_reliability_leaves_out_empty_bins_and_names_the_error(tmp_path: Path) -> None:
    actual = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
    curve, error = reliability(actual, probabilities), calibration_error(actual, probabilities)
    figure = plots.reliability_diagram(tmp_path / "r.png", {"shipped": curve}, {"shipped": error})
    upper, lower = figure.axes
    diagonal, line = upper.lines
    assert diagonal.get_label() == "calibrated"
    assert line.get_label() == f"shipped (ECE {error:.3f})"
    np.testing.assert_allclose(line.get_xydata(), [[0.6, 1], [0.9, 2 / 3]])
    (steps,) = lower.patches
    assert steps.get_data().values.tolist() == curve["share"].tolist()
    assert (lower.get_xlabel(), upper.get_ylabel(), lower.get_ylabel()) == ("confidence", "accuracy", "share of posts")


def test_risk_over_coverage_marks_where_the_model_abstains(tmp_path: Path) -> None:
    actual = np.array([0, 1])
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2]])
    coverage, risk = risk_coverage(actual, probabilities)
    area = risk_area(actual, probabilities)
    (axes,) = plots.risk_coverage_curve(tmp_path / "r.png", coverage, risk, area, answered=0.5).axes
    curve, mark = axes.lines
    assert curve.get_xydata().tolist() == [[0.5, 0], [1, 0.5]]
    assert (curve.get_label(), mark.get_label()) == ("area 0.250", "answered: 50.0%")
    assert list(mark.get_xdata()) == [0.5, 0.5]


def test_attention_is_mapped_from_word_to_word(tmp_path: Path) -> None:
    weights = np.arange(9).reshape(3, 3) / 9
    (axes,) = plots.attention_map(tmp_path / "a.png", ["the", "$car", "w" * 20], weights).axes
    assert axes.images[0].get_array().tolist() == weights.tolist()
    assert [label.get_text() for label in axes.get_xticklabels()] == ["the", r"\$car", "w" * 13 + "…"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("attended to", "from")


def test_every_head_has_a_map(tmp_path: Path) -> None:
    heads = np.arange(20).reshape(5, 2, 2) / 20
    figure = plots.attention_heads(tmp_path / "h.png", heads)
    assert [axes.get_title() for axes in figure.axes] == [*(f"head {number}" for number in range(1, 6)), "", "", ""]
    shown = [axes.images[0].get_array().tolist() for axes in figure.axes if axes.images]
    assert shown == heads.tolist()


def test_every_score_has_a_panel_with_a_mark_and_an_interval_a_method(tmp_path: Path) -> None:
    scores = {"more": np.array([[0.2, 0.1, 0.4], [0.5, 0.4, 0.6]]), "less": np.array([[0.1, 0, 0.2], [0.3, 0.2, 0.4]])}
    panels = plots.faithfulness(tmp_path / "f.png", ["LIME", "random"], scores).axes
    assert [axes.get_title() for axes in panels] == list(scores)
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["LIME", "random"]
    for axes, values in zip(panels, scores.values(), strict=True):
        marks, _, (bars,) = axes.containers[0]
        np.testing.assert_allclose(marks.get_xydata(), [[values[0, 0], 0], [values[1, 0], 1]])
        np.testing.assert_allclose([segment[:, 0] for segment in bars.get_segments()], values[:, 1:])
    # The first method on top.
    assert panels[0].yaxis_inverted()
