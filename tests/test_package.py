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

import onnx as onnx_format
import pytest
import safetensors.numpy
import yaml

from stages.files import sha256
from stages.package import BUNDLE, PROJECT, Facts, licences, package, release, shaping
from stages.params import load
from stages.presets import PRESETS
from stages.stage import StageError
from tests import packaged
from tests.packaged import FACTS, SCORES

onnx, store = packaged.onnx, packaged.store

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
    here += [socket.gethostname(), f"/home/{getpass.getuser()}", "site-packages"]
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
    written = {"MAR-INF/MANIFEST.json", "MODEL_CARD.md", "LICENCES.md", "provenance.json"}
    assert provenance["code"].keys() | provenance["model"].keys() == members.keys() - written
    assert provenance["code"]["handlers/text.py"] == sha256(PROJECT / "handlers" / "text.py")
    assert provenance["packages"]["numpy"] == release("numpy")


def _check_card(members: dict[str, bytes], name: str) -> None:
    _, metadata, page = members["MODEL_CARD.md"].decode().split("---\n", 2)
    card = yaml.safe_load(metadata)
    assert card["license"] == "apache-2.0" and card["pipeline_tag"] == "text-classification"
    [result] = card["model-index"][0]["results"]
    assert [metric["value"] for metric in result["metrics"]] == [0.9, 0.89]
    assert f"# {name} 1.0" in page
    assert "| accuracy | 0.9000 | 0.8700 to 0.9300 | 0.8800 |" in page
    assert "| ece | 0.0300 |  |  |" in page
    assert "+0.0100 macro_f1 (-0.0100 to +0.0300)" in page
    assert "It never abstains" in page


def test_where_ones_own_posts_lie_is_not_told() -> None:
    params = load(PROJECT / "params.yaml")
    own = replace(params, data=replace(params.data, source="files", path="/home/someone/posts.csv"))
    assert "someone" not in json.dumps(shaping(own)) and shaping(own)["data"]["source"] == "files"
    elsewhere = replace(own, data=replace(own.data, path="posts.csv"))
    assert shaping(elsewhere) == shaping(own)
    assert set(shaping(params)) == {"seed", "data", "prepare", "augment", "wide", "train", "fuse", "export"}


def test_a_card_of_a_model_that_always_abstains(tiny_bundle: Path, onnx: Path, tmp_path: Path) -> None:
    scores = SCORES["test"] | {"answered": 0.0, "answered_precision": None}
    quality = {**FACTS.quality, "selected": {**FACTS.quality["selected"], "test": scores}}
    package(tiny_bundle, onnx, replace(FACTS, quality=quality), "1.0", tmp_path / "store")
    with zipfile.ZipFile(tmp_path / "store" / "newsgroups.mar") as archive:
        assert "| answered_precision |  |  |  |" in archive.read("MODEL_CARD.md").decode()


def test_a_missing_file_is_named(tiny_bundle: Path, onnx: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    (bundle / "fusion.json").unlink()
    with pytest.raises(StageError, match=r"fusion\.json is missing"):
        package(bundle, onnx, FACTS, "1.0", tmp_path / "store")
    assert not list(tmp_path.glob("*store*"))
    with pytest.raises(StageError, match=r"quality\.json is missing"):
        Facts.read(bundle / "config.json", bundle / "config.json", tmp_path / "quality.json", {})
