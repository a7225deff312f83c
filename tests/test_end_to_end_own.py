"""Somebody's own corpus, as far as the archives: by parameters alone, with real DVC and the real checkpoint."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from handlers.onnx_engine import GRAPH_FILE, OnnxEngine
from handlers.predictor import Predictor
from handlers.schema import PROVENANCE_FILE
from handlers.torch_engine import TorchEngine
from tests.project import ROOT, SMALL, VARIANTS, Project

pytestmark = pytest.mark.e2e

# Eighteen posts of three classes, at data.path: each part needs one of each class.
OWN: dict[str, dict[str, Any]] = {"data": {"source": "files", "test": 0.34}, "prepare": {"validation": 0.34}}


def test_ones_own_corpus_becomes_archives_that_answer_with_its_classes(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    own = Project(tmp_path / "project", tmp_path / "tmp", SMALL, OWN)
    own.run("dvc", "repro", "package")
    classes = sorted(folder.name for folder in (ROOT / "tests" / "corpus").iterdir())
    for variant in VARIANTS[:2]:
        unpacked = tmp_path / variant
        with zipfile.ZipFile(own.root / "outputs" / "model_store" / f"{variant}.mar") as archive:
            archive.extractall(unpacked)
        graph = unpacked / GRAPH_FILE
        predictor = Predictor(unpacked, OnnxEngine(graph) if graph.is_file() else TorchEngine(unpacked))
        assert list(predictor.labels) == classes
        for fast_path in (True, False):
            (answer,) = predictor.predict(["Sow the seeds in spring and water them."], fast_path)
            assert answer.label in classes
        corpus = json.loads((unpacked / PROVENANCE_FILE).read_text())["data"]["corpus"]
        assert corpus["source"] == "files"
        assert [list(corpus["posts_per_class"][split]) for split in ("train", "test")] == [classes, classes]
