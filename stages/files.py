"""Outputs written whole: under a temporary name beside the target, then renamed. Hashes beside them."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a temporary path in the target's folder; on success it takes the target's place, on error it is removed.

    The caller makes a file or a folder there. A target that exists is replaced.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.partial")
    remove(temporary)
    try:
        yield temporary
        if target.is_dir() or temporary.is_dir():
            # A folder is renamed neither over a file nor over another folder that has content.
            remove(target)
        temporary.replace(target)
    finally:
        remove(temporary)


def remove(path: Path) -> None:
    """Delete a file or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, whole."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_rows(folder: Path, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Write a JSON file for each row, the folder whole: DVC shows metrics as a table, with a row for each file."""
    with replacing(folder) as temporary:
        temporary.mkdir()
        for name, figures in rows.items():
            write_json(temporary / f"{name}.json", figures)


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises FileNotFoundError where it is missing."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_csv(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    """Write a table for DVC's plots, whole."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def sha256(path: Path) -> str:
    """Hash of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy_into(folder: Path, *sources: Path) -> None:
    """Copy every file of the given folders into `folder`, flat."""
    folder.mkdir(parents=True, exist_ok=True)
    for source in sources:
        for path in sorted(source.iterdir()):
            shutil.copy2(path, folder / path.name)
