"""The search over batch settings, on a model of a server, and the copies of an archive that it serves."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from tests.bench.batching import TRIED, Trial, search, settings, with_settings

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = {"batchSize": 16, "maxBatchDelay": 5, "maxWorkers": 1, "token_budget": 1024}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    with zipfile.ZipFile(tmp_path / "m.mar", "w") as content:
        content.write(ROOT / "serve" / "newsgroups.yaml", "newsgroups.yaml")
        content.writestr("model.onnx", b"batchSize: 3")
    return tmp_path / "m.mar"


def test_a_copy_differs_in_its_settings_alone(archive: Path, tmp_path: Path) -> None:
    before = settings(archive)
    assert before.keys() == SHIPPED.keys()
    changed = {"batchSize": 7, "maxBatchDelay": 9, "maxWorkers": 2, "token_budget": 64}
    with_settings(archive, tmp_path / "copy.mar", changed)
    assert settings(tmp_path / "copy.mar") == changed
    with zipfile.ZipFile(tmp_path / "copy.mar") as copy:
        assert b"minWorkers: 2" in copy.read("newsgroups.yaml") and copy.read("model.onnx") == b"batchSize: 3"
    with_settings(tmp_path / "copy.mar", tmp_path / "back.mar", before)
    assert settings(tmp_path / "back.mar") == before


def test_an_archive_without_a_setting_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.mar", "w") as content:
        content.writestr("newsgroups.yaml", "maxWorkers: 1\n")
    with pytest.raises(ValueError, match="does not set batchSize"):
        settings(tmp_path / "m.mar")


def test_the_search_finds_the_best_and_measures_nothing_twice() -> None:
    tried: list[tuple[int, ...]] = []

    def measure(values: dict[str, int]) -> Trial:
        tried.append(tuple(values.values()))
        # The largest batch is the fastest and too slow for the objective.
        late = values["batchSize"] > 8
        return Trial(1.0, values["batchSize"] + 10 / values["maxBatchDelay"], 300.0 if late else 100.0)

    best = search(measure, dict(SHIPPED), 250.0)
    assert best["batchSize"] == 8 and best["maxBatchDelay"] == 1
    assert len(tried) == len(set(tried)) == 1 + sum(len(values) - 1 for values in TRIED.values())
