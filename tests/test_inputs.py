"""What an earlier stage should have written, and did not, is one line that says what to run."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.files import write_json
from stages.inputs import candidate_argument, read_earlier, require, selected_name
from stages.paths import SELECTED_FILE
from stages.stage import StageError


def test_what_is_there_is_given_back(tmp_path: Path) -> None:
    write_json(tmp_path / SELECTED_FILE, {"name": "minilm"})
    assert require(tmp_path) == tmp_path
    assert read_earlier(tmp_path / SELECTED_FILE) == {"name": "minilm"}
    assert selected_name(tmp_path) == "minilm"


def test_what_is_missing_is_named_with_its_mend(tmp_path: Path) -> None:
    path = tmp_path / "none"
    with pytest.raises(StageError) as caught:
        require(path, "run the baseline stage")
    assert str(caught.value) == f"{path} is missing: run the baseline stage, or simply dvc repro"
    with pytest.raises(StageError, match="none is missing: run the stage that writes it, or simply dvc repro"):
        read_earlier(path)
    with pytest.raises(StageError, match=r"selected\.json is missing: run the select stage"):
        selected_name(path)


def test_the_command_line_names_a_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/project/stages/fuse.py", "minilm"])
    assert candidate_argument() == "minilm"
    monkeypatch.setattr("sys.argv", ["/project/stages/fuse.py"])
    with pytest.raises(SystemExit) as caught:
        candidate_argument()
    assert caught.value.code == "fuse: name a candidate: python -m stages.fuse minilm"
