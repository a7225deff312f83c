"""Outputs are written whole or not at all."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from datasets import Dataset

from stages.corpus import features, label_names, load_split, save_split
from stages.files import copy_into, read_json, remove, replacing, sha256, write_csv, write_json, write_rows
from stages.stage import StageError


def make(path: Path, kind: str, content: str) -> None:
    """A file, or a folder with one file in it."""
    if kind == "folder":
        path.mkdir()
        path = path / "inside.txt"
    path.write_text(content)


def content_of(path: Path) -> str:
    return (path / "inside.txt" if path.is_dir() else path).read_text()


@pytest.mark.parametrize("new", ["file", "folder"])
@pytest.mark.parametrize("old", [None, "file", "folder"])
def test_success_takes_the_targets_place(old: str | None, new: str, tmp_path: Path) -> None:
    target = tmp_path / "out" / "result"
    target.parent.mkdir()
    if old:
        make(target, old, "old")
    with replacing(target) as temporary:
        make(temporary, new, "new")
    assert target.is_dir() == (new == "folder")
    assert content_of(target) == "new"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_on_error_the_old_content_stays_and_nothing_partial(
    kind: str, error: type[BaseException], tmp_path: Path
) -> None:
    target = tmp_path / "result"
    make(target, kind, "old")
    with pytest.raises(error), replacing(target) as temporary:
        make(temporary, kind, "half")
        raise error
    assert content_of(target) == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_what_a_killed_run_left_does_not_get_in(tmp_path: Path) -> None:
    target = tmp_path / "result"
    (tmp_path / ".result.partial").mkdir()
    (tmp_path / ".result.partial" / "stale.txt").write_text("stale")
    with replacing(target) as temporary:
        make(temporary, "folder", "new")
    assert [path.name for path in target.iterdir()] == ["inside.txt"]


def test_missing_parents_are_made(tmp_path: Path) -> None:
    write_json(tmp_path / "a" / "b" / "c.json", {})
    assert read_json(tmp_path / "a" / "b" / "c.json") == {}


def test_remove_takes_files_folders_links_and_nothing(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    make(kept, "folder", "kept")
    link = tmp_path / "link"
    link.symlink_to(kept)
    make(tmp_path / "file", "file", "")
    make(tmp_path / "folder", "folder", "")
    for name in ("link", "file", "folder", "nothing"):
        remove(tmp_path / name)
    assert list(tmp_path.iterdir()) == [kept]
    assert content_of(kept) == "kept"


def test_json_is_readable_text(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"name": "café", "numbers": [1, 2.5]})
    assert "café" in path.read_text(encoding="utf-8")
    assert read_json(path) == {"name": "café", "numbers": [1, 2.5]}
    with pytest.raises(TypeError):
        write_json(path, {"name": object()})
    assert json.loads(path.read_text(encoding="utf-8"))["name"] == "café"


def test_csv_has_a_header_and_a_line_a_row(tmp_path: Path) -> None:
    write_csv(tmp_path / "table.csv", ["step", "loss"], [[1, 0.5], [2, 0.25]])
    assert (tmp_path / "table.csv").read_text() == "step,loss\n1,0.5\n2,0.25\n"


def test_hash_is_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content" * 100_000)
    assert sha256(tmp_path / "file") == hashlib.sha256(b"content" * 100_000).hexdigest()


def test_copies_of_several_folders_come_together(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.txt").write_text(name)
    copy_into(tmp_path / "both", tmp_path / "one", tmp_path / "two")
    assert sorted(path.name for path in (tmp_path / "both").iterdir()) == ["one.txt", "two.txt"]


def test_a_split_comes_back_with_its_label_names(tmp_path: Path) -> None:
    labels = ["sci.space", "rec.autos"]
    columns = {"id": ["p1", "p2"], "text": ["Raw!", "\x00"], "clean": ["raw", ""], "label": [1, 0]}
    save_split(Dataset.from_dict(columns, features=features(labels)), tmp_path / "splits", "train")
    loaded = load_split(tmp_path / "splits", "train")
    assert loaded[:] == columns
    assert label_names(loaded) == labels
    with pytest.raises(StageError, match=r"test\.parquet is missing"):
        load_split(tmp_path / "splits", "test")


def test_rows_are_a_file_each_and_those_of_another_run_go(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows", {"old": {"x": 1}, "kept": {"x": 2}})
    write_rows(tmp_path / "rows", {"kept": {"x": 3}, "new": {"x": 4}})
    assert {path.name: read_json(path) for path in (tmp_path / "rows").iterdir()} == {
        "kept.json": {"x": 3},
        "new.json": {"x": 4},
    }
