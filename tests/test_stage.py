"""The frame around every stage: one line for an expected failure, times and memory for a success."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages import params
from stages.files import read_json
from stages.params import ParamsError
from stages.stage import TIMES, StageError, stage


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages write below the working directory."""
    monkeypatch.chdir(tmp_path)


def test_an_expected_failure_is_one_line_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught, stage("fetch"):
        raise StageError("the host is out of reach: try again")
    # The interpreter prints a text as it is, and exits with status 1.
    assert caught.value.code == "fetch: the host is out of reach: try again"
    assert capsys.readouterr().out == ""
    assert not (TIMES / "fetch.json").exists()


def test_bad_params_are_an_expected_failure() -> None:
    assert issubclass(ParamsError, StageError)
    with pytest.raises(SystemExit) as caught, stage("train"):
        params.load()
    assert str(caught.value.code).startswith("train: params.yaml is missing")


def test_an_unexpected_failure_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), stage("fetch"):
        _ = 1 / 0
    assert not (TIMES / "fetch.json").exists()


def test_success_writes_times_and_prints_those_so_far(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("fetch", "prepare"):
        with stage(name):
            pass
    figures = read_json(TIMES / "prepare.json")
    assert figures.keys() == {"seconds", "peak_memory_mib"}
    assert figures["seconds"] >= 0
    assert figures["peak_memory_mib"] > 1
    *_, fetch, prepare, total = capsys.readouterr().out.splitlines()
    assert fetch.startswith("fetch ")
    assert prepare.startswith("prepare ")
    assert total.startswith("total ")
