"""A picture is written whole, and the same for the same figures."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from stages.figures import save


def test_a_figure_is_a_small_png_of_its_resolution(tmp_path: Path) -> None:
    figure = Figure(figsize=(2, 1))
    assert save(figure, tmp_path / "folder" / "a.png", dpi=100) is figure
    content = (tmp_path / "folder" / "a.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    # Width and height in pixels stand in its first chunk.
    assert [int.from_bytes(content[start : start + 4]) for start in (16, 20)] == [200, 100]
    save(Figure(figsize=(2, 1)), tmp_path / "b.png", dpi=100)
    assert (tmp_path / "b.png").read_bytes() == content
    assert b"Matplotlib" not in content, "a version of the library would change every picture"


def test_a_failure_leaves_the_picture_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    save(Figure(), path)
    before = path.read_bytes()

    def fail(_: Figure, temporary: Path, **__: object) -> None:
        temporary.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        save(Figure(), path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["a.png"]
