"""Pictures are drawn whatever the names in them are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stages import plots


@pytest.mark.parametrize("names", [["$", "$$", "$$$"], ["c_1 $x^{y$", "b", "c" * 200]])
def test_a_class_may_have_any_name(tmp_path: Path, names: list[str]) -> None:
    path = tmp_path / "confusion.png"
    plots.confusion_matrix(path, np.eye(3, dtype=int), names)
    assert path.read_bytes().startswith(b"\x89PNG")
