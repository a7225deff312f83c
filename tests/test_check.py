"""The description of what params.yaml allows."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from stages import check
from stages.check import allowed
from stages.params import Params

ROOT = Path(__file__).parent.parent


def test_every_key_of_params_is_described() -> None:
    described = allowed(Params)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert described.keys() == params.keys()
    for section, values in params.items():
        if isinstance(values, dict):
            assert described[section].keys() == values.keys()


def test_a_corpus_that_is_missing_is_told_before_dvc_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = (ROOT / "params.yaml").read_text()
    assert "\n  path: tests/corpus\n" in params
    (tmp_path / "params.yaml").write_text(params)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"data\.path: tests/corpus is missing; give a corpus"):
        check.main()
    (tmp_path / "tests" / "corpus").mkdir(parents=True)
    check.main()


def test_keys_that_contradict_each_other_are_told_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = (ROOT / "params.yaml").read_text()
    assert "least_seconds: 7" in params
    (tmp_path / "params.yaml").write_text(params.replace("least_seconds: 7", "least_seconds: 30"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"least_seconds is 30; allowed: at most benchmark\.most_seconds, \d+$"):
        check.main()


def test_kinds_and_bounds_are_told() -> None:
    described = allowed(Params)
    assert described["data"]["source"] == "str: one of auto, sklearn, pypi, files"
    assert described["train"]["head"] == "list of int: 1 to 8192"
    assert described["fuse"]["enabled"] == "bool"
    assert described["benchmark"]["least_seconds"] == "float: 0 to 600, at most most_seconds"
