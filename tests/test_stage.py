"""The frame around every stage: one line for an expected failure, times and memory for a success."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from stages import params
from stages import stage as stage_module
from stages.files import read_json
from stages.memory_watch import MemoryWatch
from stages.params import ParamsError
from stages.stage import TIMES, StageError, stage

ROOT = Path(__file__).parent.parent


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


def test_times_of_another_run_are_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    TIMES.mkdir(parents=True)
    came_with_the_commit = TIMES / "train.json"
    came_with_the_commit.write_text('{"seconds": 539.7, "peak_memory_mib": 2993}')
    os.utime(came_with_the_commit, (0, 0))
    with stage("check"):
        pass
    printed = capsys.readouterr().out
    assert "check" in printed and "train" not in printed


def test_what_is_no_stage_leaves_no_time(capsys: pytest.CaptureFixture[str]) -> None:
    with stage("tune", timed=False):
        pass
    assert not TIMES.exists() and not capsys.readouterr().out


@pytest.mark.parametrize(("name", "module"), [("dvc", False), ("dvc.py", True)], ids=["dvc", "python -m dvc"])
def test_a_run_began_with_its_dvc(name: str, module: bool, tmp_path: Path) -> None:
    """As in `dvc repro`, a shell lies between them."""
    (tmp_path / name).write_text(
        "import subprocess, sys, time\nbegun = time.time()\ntime.sleep(0.5)\n"
        "code = 'import stages.stage; print(stages.stage.run_began())'\n"
        "shell = ['sh', '-c', f'{sys.executable} -c \"{code}\"; true']\n"
        "print(begun, subprocess.run(shell, capture_output=True, text=True, check=True).stdout)\n"
    )
    command = [sys.executable, "-m", "dvc"] if module else [sys.executable, str(tmp_path / name)]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    begun, told = map(float, done.stdout.split())
    assert told <= begun < told + 30
    assert stage_module.run_began() == pytest.approx(psutil.Process().create_time(), abs=2)


def test_every_committed_stage_stays_under_six_gibibytes() -> None:
    peaks = {path.stem: read_json(path)["peak_memory_mib"] for path in (ROOT / TIMES).glob("*.json")}
    assert "benchmark" in peaks and max(peaks.values()) < 6 * 1024, peaks


def test_the_memory_written_down_is_that_of_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryWatch, "peak_bytes", lambda _: 7 * 2**20)
    with stage("fetch"):
        pass
    assert read_json(TIMES / "fetch.json")["peak_memory_mib"] == 7


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
