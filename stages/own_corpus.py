"""One's own corpus from a folder of text files, or from CSV or Parquet; everything is checked before any other work."""

from __future__ import annotations

import codecs
import csv
import logging
import math
import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from datasets import ClassLabel, Dataset, Value
from datasets.table import InMemoryTable

from stages.splitting import held_out
from stages.stage import StageError

log = logging.getLogger(__name__)

PARTS = ("train", "test")
COLUMNS = ("text", "label")
TABLES = (".csv", ".parquet")

Rows = list[tuple[str, str]]  # (label, text)

# Of a field of a CSV file, the most that Python's reader can be told everywhere; of itself it stops at 131,072.
_MOST_CHARACTERS = 2**31 - 1
_SHOWN_CHARACTERS = 200

SHAPES = (
    "expected a CSV or Parquet file with the columns text and label, or a folder with train.csv or train.parquet (and "
    "test.* beside it), with a sub-folder of text files for each class, or with train/ and test/ of such sub-folders"
)


def read_corpus(path: Path, test_share: float, seed: int) -> dict[str, Rows]:
    """The posts of `train` and `test`; without a test part, a stratified `test_share` of the posts, at most a half,
    becomes it, with posts that are nearly the same kept together.

    Raises StageError where the path is missing or of another shape, a file is not UTF-8 or not readable, a column is
    missing, a row has no label or not the header's number of fields, or a class has too few posts.
    """
    parts = {split: _rows(source) for split, source in _sources(path).items()}
    if "test" in parts:
        _check_counts("train", parts["train"], 2)
        return parts
    rows = parts["train"]
    _check_counts(str(path), rows, 3)
    labels, texts = zip(*rows, strict=True)
    try:
        test = set(held_out(texts, labels, "duplicates", test_share, seed).tolist())
    except ValueError as error:
        raise StageError(
            f"{path} cannot be split by class: {error}; add others, or give train and test parts of your own"
        ) from error
    return {
        "train": [row for i, row in enumerate(rows) if i not in test],
        "test": [row for i, row in enumerate(rows) if i in test],
    }


def _sources(path: Path) -> dict[str, Path]:
    """Where each split lies: a table or a folder of classes; `train` alone where the corpus has no test part."""
    if path.is_file() and path.suffix.lower() in TABLES:
        return {"train": path}
    if not path.exists():
        raise StageError(f"data.path: {path} is missing; {SHAPES}")
    if path.is_dir():
        found = {}
        for split in PARTS:
            places = [path / split, *(path / f"{split}{suffix}" for suffix in TABLES)]
            present = [place for place in places if place.exists()]
            if len(present) > 1:
                names = ", ".join(place.name for place in present)
                raise StageError(f"data.path: {path} has {split} more than once: {names}; keep one of them")
            if present:
                found[split] = present[0]
        if "train" in found:
            return found
        if not found and any(place.is_dir() for place in path.iterdir()):
            return {"train": path}
    raise StageError(f"data.path: {path} is no corpus; {SHAPES}")


def _rows(source: Path) -> Rows:
    rows = list(_folder_rows(source)) if source.is_dir() else _table_rows(source)
    if not rows:
        raise StageError(f"{source} has no posts; {SHAPES}")
    return rows


def _folder_rows(folder: Path) -> Iterator[tuple[str, str]]:
    kinds = sorted(place for place in folder.iterdir() if place.is_dir())
    if hidden := [kind.name for kind in kinds if _hidden(kind, folder)]:
        log.warning("%s: hidden folders are no classes: %s", folder, ", ".join(hidden))
    for kind in (kind for kind in kinds if not _hidden(kind, folder)):
        try:
            kind.name.encode()
        except UnicodeEncodeError:
            raise StageError(f"{folder} has a folder {kind.name!a}, whose name is not UTF-8: rename it") from None
        for path in sorted(place for place in kind.rglob("*") if place.is_file() and not _hidden(place, folder)):
            _check_utf8(path)
            yield kind.name, path.read_text(encoding="utf-8")


def _hidden(path: Path, folder: Path) -> bool:
    """Whether a file manager or an editor put it below `folder`: .DS_Store, .ipynb_checkpoints/ and the like."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _table_rows(path: Path) -> Rows:
    """Rows of a table; labels that are numbers become text, those of a Hugging Face data set their names."""
    try:
        found = _read_csv(path) if path.suffix.lower() == ".csv" else _read_parquet(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise StageError(f"{path} cannot be read as {path.suffix[1:]}: {' '.join(str(error).split())}") from error
    rows: Rows = []
    for number, (label, text) in enumerate(found, start=1):
        if text is None or label is None or not label.strip():
            raise StageError(f"{path}: row {number} has no {'text' if text is None else 'label'}; fill or remove it")
        rows.append((label.strip(), text))
    return rows


def _read_csv(path: Path) -> Rows:
    """As text and without a guess: a label "01" stays what it is, and a post "NA" is no missing value."""
    _check_utf8(path)
    csv.field_size_limit(_MOST_CHARACTERS)
    rows: Rows = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            names = next(reader, [])
            _check_columns(path, names)
            label, text = names.index("label"), names.index("text")
            # An empty line is no row.
            for row in filter(None, reader):
                if len(row) != len(names):
                    raise StageError(
                        f"{path}: row {len(rows) + 1} has {len(row)} fields and the header {len(names)}: every row "
                        "needs as many, and a text that has commas quotes around it"
                    )
                rows.append((row[label], row[text]))
        except csv.Error as error:
            raise StageError(f"{path}: row {len(rows) + 1} cannot be read as csv: {error}") from error
    return rows


def _read_parquet(path: Path) -> list[tuple[str | None, str | None]]:
    _check_columns(path, pyarrow.parquet.read_schema(path).names)
    table = Dataset(InMemoryTable(pyarrow.parquet.read_table(path, columns=list(COLUMNS))))
    kind, written = table.features["label"], table.features["text"]
    if not (isinstance(written, Value) and "string" in written.dtype):
        raise StageError(f"{path}: the column text is no text but {written}; write it as strings")
    if not isinstance(kind, ClassLabel) and not (isinstance(kind, Value) and "binary" not in kind.dtype):
        raise StageError(f"{path}: the column label is no name but {kind}; write one string or number a row")

    def name(label: Any) -> str | None:
        if label is None or (isinstance(label, float) and math.isnan(label)):
            return None
        # As -1 is, of a data set's split without labels.
        if isinstance(kind, ClassLabel) and label not in range(kind.num_classes):
            return None
        return kind.int2str(label) if isinstance(kind, ClassLabel) else str(label)

    return [(name(label), text) for label, text in zip(table["label"], table["text"], strict=True)]


def _check_columns(path: Path, names: list[str]) -> None:
    if missing := [name for name in COLUMNS if name not in names]:
        # Without a header the first post is taken for one.
        has = textwrap.shorten(", ".join(names), _SHOWN_CHARACTERS)
        raise StageError(f"{path} lacks the column {missing[0]}; it has {has}, and needs text and label")


def _check_utf8(path: Path) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        try:
            while block := file.read(1 << 20):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise StageError(f"{path} is not UTF-8 ({error.reason}): convert it, with iconv for example") from None


def _check_counts(where: str, rows: Rows, least: int) -> None:
    counts = Counter(label for label, _ in rows)
    if len(counts) < 2:
        raise StageError(f"{where} has one class only: {next(iter(counts))}; a classifier needs two or more")
    if few := [f"{label} ({count})" for label, count in sorted(counts.items()) if count < least]:
        raise StageError(f"{where}: too few posts of {', '.join(few)}; every class needs {least} or more")
