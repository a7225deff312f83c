"""Archives of the tiny bundle; for the tests of what is inside them and of what they need to run.

A test file gets the fixtures by naming them, as in `store = packaged.store`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from stages.files import sha256
from stages.package import Facts, package

SCORES = {"test": {"accuracy": 0.9, "accuracy_95": [0.87, 0.93], "macro_f1": 0.89, "ece": 0.03}}
GAIN = {"accuracy": 0.02, "accuracy_95": [0.01, 0.03], "macro_f1": 0.01, "macro_f1_95": [-0.01, 0.03]}
FACTS = Facts(
    source={
        "corpus": {"source": "pypi", "version": "corpus==1", "content_sha256": "c" * 64},
        "checkpoints": {"minilm": {"version": "checkpoint==2"}},
        "wordnet": {"licence": "WordNet 3.0 license"},
    },
    posts={"train": 7, "validation": 2, "test": 3},
    quality={
        "selected": {"name": "minilm", **SCORES, "over_baseline": GAIN},
        "baseline": {"test": {"accuracy": 0.88, "macro_f1": 0.88}},
    },
    variants={
        "newsgroups": {"accuracy": 0.9, "macro_f1": 0.89, "agreement": 1.0},
        "newsgroups-onnx": {"accuracy": 0.895, "macro_f1": 0.885, "agreement": 0.99},
    },
    calibration={"posts": 3, "ece": 0.03},
    params={"seed": 20, "train": {"epochs": 2}, "augment": {"share": 0.0}},
)


@pytest.fixture(scope="module")
def onnx(tiny_graph: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graph of the tiny classifier in the folder of the float32 variant; no int8 variant beside it."""
    root = tmp_path_factory.mktemp("onnx")
    (root / "newsgroups-onnx").mkdir()
    shutil.copyfile(tiny_graph, root / "newsgroups-onnx" / "model.onnx")
    return root


@pytest.fixture(scope="module")
def store(tiny_bundle: Path, onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archives of both variants, in a folder where another lay before."""
    folder = tmp_path_factory.mktemp("package") / "model_store"
    folder.mkdir()
    (folder / "stale.mar").touch()
    summary = package(tiny_bundle, onnx, FACTS, "1.0", folder)
    assert {path.stem: sha256(path) for path in folder.iterdir()} == {k: v["sha256"] for k, v in summary.items()}
    return folder
