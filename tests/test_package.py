"""Archives: the same bytes from the same contents, no pickle, nothing volatile, a true provenance and card."""

from __future__ import annotations

import ast
import getpass
import json
import os
import pickletools
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx as onnx_format
import pytest
import safetensors.numpy
import yaml
from datasets import ClassLabel, Dataset, Features, Value

from handlers.fusion import Fusion
from handlers.model import WEIGHTS_FILE
from handlers.onnx_engine import GRAPH_FILE
from stages.corpus import save_split
from stages.evaluate import predictions
from stages.files import sha256, write_json
from stages.package import BUNDLE, MODEL_CONFIG, PROJECT, Facts, licences, package, release, shaping
from stages.params import load
from stages.presets import PRESETS
from stages.stage import StageError
from stages.variants import FLOAT32, TORCH, VARIANTS
from tests import packaged
from tests.packaged import FACTS, SCORES

onnx, store = packaged.onnx, packaged.store

POSTS = Features({"id": Value("string"), "label": ClassLabel(names=["a", "b"])})

# Another machine, as far as a build can notice: another process, folder, time zone, locale, mask and order of hashes.
BUILDER = """
import os, sys
from pathlib import Path
from stages.package import Facts, package

os.umask(0o077)
bundle, onnx, store, facts = sys.argv[1:]
package(Path(bundle), Path(onnx), Facts(**__import__("json").loads(facts)), "1.0", Path(store))
"""


def test_only_archives_of_this_run(store: Path) -> None:
    assert sorted(path.name for path in store.iterdir()) == ["newsgroups-onnx.mar", "newsgroups.mar"]


def test_other_folders_times_and_order_and_a_build_beside_it_give_the_same_bytes(
    store: Path, tiny_bundle: Path, onnx: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "copy, of [a] bundle"
    bundle.mkdir()
    for number, path in enumerate(sorted(tiny_bundle.iterdir(), reverse=True)):
        copy = Path(shutil.copyfile(path, bundle / path.name))
        copy.chmod(0o600)
        os.utime(copy, (number * 1e8, number * 1e8))
    stores = [tmp_path / "elsewhere" / "store", tmp_path / "another store"]
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    # At the same time and with one temporary folder, because the archiver by itself stages both under one name there.
    changed = {
        "TMPDIR": str(temporary),
        "SOURCE_DATE_EPOCH": "1",
        "TZ": "Asia/Tokyo",
        "LC_ALL": "C",
        "PYTHONPATH": str(PROJECT),
    }
    arguments = [str(bundle), str(onnx)], [json.dumps(asdict(FACTS))]
    builds = [
        subprocess.Popen(
            [sys.executable, "-c", BUILDER, *arguments[0], str(folder), *arguments[1]],
            cwd=tmp_path,
            env=os.environ | changed | {"PYTHONHASHSEED": seed},
        )
        for folder, seed in zip(stores, "12", strict=True)
    ]
    assert [build.wait() for build in builds] == [0, 0]
    hashes = {path.name: sha256(path) for path in store.iterdir()}
    for again in stores:
        assert {path.name: sha256(path) for path in again.iterdir()} == hashes
    assert not list(temporary.iterdir())


def members_of(archive: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(archive) as opened:
        return {info.filename: opened.read(info) for info in opened.infolist()}


@pytest.mark.parametrize("name", ["newsgroups", "newsgroups-onnx"])
def test_contents(store: Path, tiny_bundle: Path, name: str) -> None:
    members = members_of(store / f"{name}.mar")
    assert list(members) == sorted(members)
    entry = name.replace("-", "_") + ".py"
    manifest = json.loads(members["MAR-INF/MANIFEST.json"])
    assert manifest["model"] == {
        "modelName": name,
        "modelVersion": "1.0",
        "handler": entry,
        "configFile": "newsgroups.yaml",
    }
    assert "createdOn" not in manifest
    assert set(BUNDLE) < members.keys()
    weights = {"model.safetensors", "model.onnx"} & members.keys()
    assert weights == {"model.onnx" if name.endswith("onnx") else "model.safetensors"}
    told = json.loads(members["calibration.json"])
    assert told == FACTS.calibration | {"variant": "newsgroups", "split": "test", "threshold": 0.0}
    _check_provenance(members, tiny_bundle)
    _check_card(members, name)
    assert "apache-2.0, its text below" in members["LICENCES.md"].decode()
    assert "TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION" in members["LICENCES.md"].decode()
    assert "WordNet" not in members["LICENCES.md"].decode()


def test_wordnet_is_named_where_it_had_a_part() -> None:
    assert "augmented with WordNet (WordNet 3.0 license)" in licences(PRESETS["minilm"], FACTS.source, augmented=True)


# How every kind of member is read; none of them can carry a pickle that any reader of ours would run.
READERS: dict[str, Any] = {
    ".py": lambda content: ast.parse(content.decode()),
    ".json": json.loads,
    ".yaml": yaml.safe_load,
    ".md": bytes.decode,
    ".txt": bytes.decode,
    ".safetensors": safetensors.numpy.load,
    ".onnx": lambda content: onnx_format.checker.check_model(onnx_format.load_from_string(content)),
}


@pytest.mark.parametrize("name", ["newsgroups", "newsgroups-onnx"])
def test_every_member_is_of_a_kind_that_holds_no_pickle(store: Path, name: str) -> None:
    for path, content in members_of(store / f"{name}.mar").items():
        READERS[Path(path).suffix](content)
        assert not _is_pickle(content), path
        if path.endswith(".py"):
            nodes = list(ast.walk(ast.parse(content.decode())))
            imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
            imported |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
            assert not imported & {"pickle", "marshal", "shelve", "dill", "joblib"}, path
            assert b"torch.load" not in content, path


@pytest.mark.parametrize("name", ["newsgroups", "newsgroups-onnx"])
def test_nothing_inside_tells_where_or_when_it_was_built(store: Path, tiny_bundle: Path, name: str) -> None:
    here = [
        str(PROJECT),
        str(store.parent),
        str(tiny_bundle.parent),
        str(Path.home()),
        sys.prefix,
        tempfile.gettempdir(),
    ]
    here += [f"/home/{getpass.getuser()}", "site-packages"]
    # A machine may be called by a word that the code uses.
    if not any((host := socket.gethostname()) in path.read_text() for path in (PROJECT / "handlers").glob("*.py")):
        here.append(host)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=PROJECT, capture_output=True, text=True, check=False)
    volatile = [re.escape(word).encode() for word in [*here, commit.stdout.strip()] if len(word) > 2]
    volatile += [rb"createdOn", rb"20[2-9]\d-[01]\d-[0-3]\d"]
    for path, content in members_of(store / f"{name}.mar").items():
        # Weights are numbers: a short name may stand in them by chance.
        found = None if path.endswith(".safetensors") else re.search(b"|".join(volatile), content)
        assert not found, f"{path} holds {found}"


def _is_pickle(content: bytes) -> bool:
    """A pickle of protocol 2 or later, or a zip archive, the wrapping in which PyTorch puts one."""
    if content.startswith(b"PK\x03\x04"):
        return True
    if not content.startswith(b"\x80"):
        return False
    try:
        return any(opcode.name == "STOP" for opcode, _, _ in pickletools.genops(content))
    except ValueError:
        return False


def test_the_detector_of_pickles_detects(tiny_bundle: Path, tmp_path: Path) -> None:
    import pickle

    import torch

    torch.save({"a": 1}, tmp_path / "a.pt")
    assert _is_pickle((tmp_path / "a.pt").read_bytes())
    assert _is_pickle(pickle.dumps({"a": 1}))
    assert not _is_pickle((tiny_bundle / "model.safetensors").read_bytes())


def _check_provenance(members: dict[str, bytes], bundle: Path) -> None:
    provenance = json.loads(members["provenance.json"])
    assert provenance["data"] == FACTS.source
    assert provenance["params"] == FACTS.params
    assert provenance["model"]["fusion.json"] == sha256(bundle / "fusion.json")
    # With the card, the licences and itself, that is all there is.
    written = {"MAR-INF/MANIFEST.json", "MODEL_CARD.md", "LICENCES.md", "calibration.json", "provenance.json"}
    assert provenance["code"].keys() | provenance["model"].keys() == members.keys() - written
    assert provenance["code"]["handlers/text.py"] == sha256(PROJECT / "handlers" / "text.py")
    for name in ("numpy", "scikit-learn", "onnx", "onnxscript"):
        assert provenance["packages"][name] == release(name)


def _check_card(members: dict[str, bytes], name: str) -> None:
    _, metadata, page = members["MODEL_CARD.md"].decode().split("---\n", 2)
    card = yaml.safe_load(metadata)
    assert card["license"] == "apache-2.0" and card["pipeline_tag"] == "text-classification"
    [result] = card["model-index"][0]["results"]
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    if name == TORCH:
        assert values == {"accuracy": 0.9, "f1": 0.89}
        assert "This archive is the PyTorch variant." in page
    else:
        assert values == {"accuracy": 0.895, "f1": 0.885, "agreement": 0.99}
        assert "of accuracy 0.8950 and macro-F1 0.8850; 99.00% of its\nanswers" in page
    assert f"# {name} 1.0" in page
    assert "is\n0.0300. `calibration.json` has" in page
    assert "| accuracy | 0.9000 | 0.8700 to 0.9300 | 0.8800 |" in page
    assert "| ece | 0.0300 |  |  |" in page
    assert "+0.0100 macro_f1 (-0.0100 to +0.0300)" in page
    assert "It never abstains" in page


def test_where_ones_own_posts_lie_is_not_told() -> None:
    params = load(PROJECT / "params.yaml")
    own = replace(params, data=replace(params.data, source="files", path="/home/someone/posts.csv"))
    assert "someone" not in json.dumps(shaping(own, "minilm")) and shaping(own, "minilm")["data"]["source"] == "files"
    elsewhere = replace(own, data=replace(own.data, path="posts.csv"))
    assert shaping(elsewhere, "minilm") == shaping(own, "minilm")
    assert set(shaping(params, "minilm")) == {"seed", "data", "prepare", "augment", "wide", "train", "fuse", "export"}


def test_a_card_of_a_model_that_always_abstains(tiny_bundle: Path, onnx: Path, tmp_path: Path) -> None:
    scores = SCORES["test"] | {"answered": 0.0, "answered_precision": None}
    quality = {**FACTS.quality, "selected": {**FACTS.quality["selected"], "test": scores}}
    package(tiny_bundle, onnx, replace(FACTS, quality=quality), "1.0", tmp_path / "store")
    with zipfile.ZipFile(tmp_path / "store" / "newsgroups.mar") as archive:
        assert "| answered_precision |  |  |  |" in archive.read("MODEL_CARD.md").decode()


def test_a_card_of_the_transformer_alone(tiny_bundle: Path, onnx: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    Fusion(deep=1.0, wide=0.0, fast=1.0, margin=None).save(bundle)
    package(bundle, onnx, FACTS, "1.0", tmp_path / "store")
    page = members_of(tmp_path / "store" / "newsgroups.mar")["MODEL_CARD.md"].decode()
    assert "fused" not in page and "answer alone" not in page
    assert "nothing reads the rest" in page and "the linear part reads" not in page


def test_a_missing_file_is_named(tiny_bundle: Path, onnx: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    (bundle / "fusion.json").unlink()
    with pytest.raises(StageError, match=r"fusion\.json is missing"):
        package(bundle, onnx, FACTS, "1.0", tmp_path / "store")
    assert not list(tmp_path.glob("*store*"))
    with pytest.raises(StageError, match=r"quality\.json is missing"):
        Facts.read(tmp_path, tmp_path, tmp_path, {})


def test_the_variants_weights_are_called_as_the_handlers_call_them() -> None:
    assert VARIANTS[TORCH].weights == WEIGHTS_FILE
    assert {variant.weights for name, variant in VARIANTS.items() if name != TORCH} == {GRAPH_FILE}


def test_a_corpus_of_ones_own_is_not_the_public_one_whatever_it_is_called(
    tiny_bundle: Path, onnx: Path, tmp_path: Path
) -> None:
    corpus = {"source": "files", "version": "20 Newsgroups", "content_sha256": "c" * 64}
    source = FACTS.source | {"corpus": corpus}
    package(tiny_bundle, onnx, replace(FACTS, source=source), "1.0", tmp_path / "store")
    members = members_of(tmp_path / "store" / "newsgroups.mar")
    _, metadata, page = members["MODEL_CARD.md"].decode().split("---\n", 2)
    assert "datasets" not in (card := yaml.safe_load(metadata)) and "language" not in card
    assert card["model-index"][0]["results"][0]["dataset"]["type"] == "own"
    assert "1993" not in page and "sorted by date" not in page
    assert "states no licence" not in members["LICENCES.md"].decode()


SHAPE = {"num_hidden_layers": 6, "hidden_size": 384, "intermediate_size": 1536}
LARGER = {"num_hidden_layers": 12, "hidden_size": 768, "intermediate_size": 3072}


@pytest.mark.parametrize(
    ("changes", "max_tokens", "least", "most"),
    # In times of what the YAML says: never less; with the multiplications, and the passes that a longer post takes.
    [({}, 32, 1, 1), (SHAPE, 128, 1, 1), (LARGER, 128, 7, 9), (SHAPE, 256, 2.5, 3.5), (SHAPE, 512, 10, 16)],
)
def test_a_worker_is_given_the_time_that_its_transformer_needs(
    tiny_bundle: Path,
    onnx: Path,
    tmp_path: Path,
    changes: dict[str, int],
    max_tokens: int,
    least: float,
    most: float,
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    config = json.loads((bundle / "config.json").read_text())
    config = config | {"encoder": config["encoder"] | changes, "max_tokens": max_tokens}
    (bundle / "config.json").write_text(json.dumps(config))
    package(bundle, onnx, FACTS, "1.0", tmp_path / "store")
    members = members_of(tmp_path / "store" / "newsgroups.mar")
    shipped, served = yaml.safe_load(MODEL_CONFIG.read_text()), yaml.safe_load(members["newsgroups.yaml"])
    assert least <= served["responseTimeout"] / shipped["responseTimeout"] <= most
    assert served | {"responseTimeout": 0} == shipped | {"responseTimeout": 0}


def test_facts_are_the_same_for_the_same_model(tmp_path: Path) -> None:
    """Two runs differ in times and memory, and in nothing that an archive tells."""
    answers = Dataset.from_dict({"id": ["1", "2", "3", "4"], "label": [0, 1, 1, 0]}, POSTS)
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.55, 0.45]])
    shipped = {"ece": 0.1, "risk_area": 0.2, "answered": 0.5, "answered_precision": None}
    facts = []
    for run in (1, 2):
        root = tmp_path / str(run)
        row = {"accuracy": 0.9, "macro_f1": 0.8, "agreement": 1.0, "load_s": run / 7, "load_mb": 100 * run}
        files = {
            "source.json": FACTS.source,
            "data.json": {"posts": FACTS.posts},
            "quality.json": FACTS.quality,
            "export.json": {TORCH: row, FLOAT32: row},
            "candidates/minilm.json": {"test": {"shipped": shipped}},
        }
        for name, content in files.items():
            write_json(root / name, content)
        save_split(predictions(answers, probabilities, list("ab")), root / "minilm", "test")
        facts.append(Facts.read(root, root, root, {}))
    assert facts[0] == facts[1]
    assert facts[0].variants[FLOAT32] == {"accuracy": 0.9, "macro_f1": 0.8, "agreement": 1.0}
    assert facts[0].calibration["ece"] == 0.1 and facts[0].calibration["posts"] == 4
