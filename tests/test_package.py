"""Archives: the same bytes from the same contents, no pickle, and a worker that needs nothing else of ours."""

from __future__ import annotations

import json
import os
import pickletools
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.files import sha256
from stages.package import BUNDLE, PROJECT, Facts, package
from stages.stage import StageError

SCORES = {"test": {"accuracy": 0.9, "macro_f1": 0.89}}
FACTS = Facts(
    source={
        "corpus": {"version": "corpus==1", "content_sha256": "c" * 64},
        "checkpoints": {"minilm": {"version": "checkpoint==2"}},
    },
    posts={"train": 7, "validation": 2, "test": 3},
    quality={"selected": {"name": "minilm", **SCORES}, "baseline": SCORES},
)

# What TorchServe's worker does with an unpacked archive, its folder the only one of ours that Python knows.
WORKER = """
import json, sys
from pathlib import Path
from ts.context import RequestProcessor
from ts.model_loader import ModelLoaderFactory

folder = sys.argv[1]
sys.path.insert(0, folder)
manifest = json.loads(Path(folder, "MAR-INF", "MANIFEST.json").read_text())["model"]
service = ModelLoaderFactory.get_model_loader().load(manifest["modelName"], folder, manifest["handler"], None, 16)
context = service.context
context.request_processor = [RequestProcessor({"body": {"content-type": "application/json"}})]
[body] = service._entry_point([{"body": {"text": "the rocket reached orbit", "fast_path": "off"}}], context)
imported = [name for name in ("transformers", "handlers.torch_engine", "onnxruntime", "stages") if name in sys.modules]
print(json.dumps({"answer": json.loads(body), "imported": imported, "config": context.model_yaml_config}))
"""


@pytest.fixture(scope="module")
def onnx(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny classifier as an ONNX graph, in the folder of the float32 variant; no int8 variant beside it."""
    from stages.export import export_onnx

    root = tmp_path_factory.mktemp("onnx")
    (root / "newsgroups-onnx").mkdir()
    export_onnx(tiny_bundle, root / "newsgroups-onnx" / "model.onnx", 18)
    return root


@pytest.fixture(scope="module")
def store(tiny_bundle: Path, onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package") / "model_store"
    folder.mkdir()
    (folder / "stale.mar").touch()
    summary = package(tiny_bundle, onnx, FACTS, "1.0", folder)
    assert {path.stem: sha256(path) for path in folder.iterdir()} == {k: v["sha256"] for k, v in summary.items()}
    return folder


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
    # At the same time, because the archiver by itself stages both under one name.
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda folder: package(bundle, onnx, FACTS, "1.0", folder), stores))
    hashes = {path.name: sha256(path) for path in store.iterdir()}
    for again in stores:
        assert {path.name: sha256(path) for path in again.iterdir()} == hashes


@pytest.mark.parametrize("name", ["newsgroups", "newsgroups-onnx"])
def test_contents(store: Path, tiny_bundle: Path, name: str) -> None:
    with zipfile.ZipFile(store / f"{name}.mar") as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
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
    assert not [path for path in members if path.endswith((".pyc", ".pkl", ".pt", ".bin")) or "__pycache__" in path]
    assert not [path for path, content in members.items() if _is_pickle(content)]
    _check_provenance(members, tiny_bundle)
    _check_card(members, name)


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


def test_the_pickle_detector_detects(tiny_bundle: Path, tmp_path: Path) -> None:
    import pickle

    import torch

    torch.save({"a": 1}, tmp_path / "a.pt")
    assert _is_pickle((tmp_path / "a.pt").read_bytes())
    assert _is_pickle(pickle.dumps({"a": 1}))
    assert not _is_pickle((tiny_bundle / "model.safetensors").read_bytes())


def _check_provenance(members: dict[str, bytes], bundle: Path) -> None:
    provenance = json.loads(members["provenance.json"])
    assert provenance["data"] == FACTS.source
    assert provenance["model"]["fusion.json"] == sha256(bundle / "fusion.json")
    assert provenance["code"].keys() == {path for path in members if path.endswith(".py")}
    assert provenance["code"]["handlers/text.py"] == sha256(PROJECT / "handlers" / "text.py")


def _check_card(members: dict[str, bytes], name: str) -> None:
    _, metadata, page = members["MODEL_CARD.md"].decode().split("---\n", 2)
    card = yaml.safe_load(metadata)
    assert card["license"] == "apache-2.0" and card["pipeline_tag"] == "text-classification"
    [result] = card["model-index"][0]["results"]
    assert [metric["value"] for metric in result["metrics"]] == [0.9, 0.89]
    assert f"# {name} 1.0" in page and "| this model | 0.9000 | 0.8900 |" in page


@pytest.mark.parametrize("name", ["newsgroups", "newsgroups-onnx"])
def test_a_worker_serves_the_unpacked_archive(store: Path, tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(store / f"{name}.mar") as archive:
        archive.extractall(tmp_path)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-P", "-c", WORKER, str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    reply: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert reply["answer"]["model"] == {"name": name, "version": "1.0"}
    assert reply["answer"]["path"] == "full"
    assert reply["config"]["maxWorkers"] == 1
    expected = ["onnxruntime"] if name.endswith("onnx") else ["transformers", "handlers.torch_engine"]
    assert reply["imported"] == expected


def test_a_missing_file_is_named(tiny_bundle: Path, onnx: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    (bundle / "fusion.json").unlink()
    with pytest.raises(StageError, match=r"fusion\.json is missing"):
        package(bundle, onnx, FACTS, "1.0", tmp_path / "store")
    assert not list(tmp_path.glob("*store*"))
    with pytest.raises(StageError, match=r"quality\.json is missing"):
        Facts.read(bundle / "config.json", bundle / "config.json", tmp_path / "quality.json")
