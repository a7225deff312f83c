"""One's own corpus from a folder of text files, or from CSV or Parquet; everything is checked before any other work."""

from __future__ import annotations

import codecs
import csv
import logging
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pyarrow.parquet
from datasets import ClassLabel, Dataset, Features, Value, disable_progress_bars
from datasets.exceptions import DatasetGenerationError
from datasets.table import InMemoryTable

from stages.splitting import held_out
from stages.stage import StageError

log = logging.getLogger(__name__)

PARTS = ("train", "test")
COLUMNS = ("text", "label")
TABLES = (".csv", ".parquet")

Rows = list[tuple[str, str]]  # (label, text)

SHAPES = (
    "expected a CSV or Parquet file with the columns text and label, or a folder with train.csv or train.parquet (and "
    "test.* beside it), with a sub-folder of text files for each class, or with train/ and test/ of such sub-folders"
)


def read_corpus(path: Path, test_share: float, seed: int) -> dict[str, Rows]:
    """The posts of `train` and `test`; without a test part, a stratified `test_share` of the posts, at most a half,
    becomes it, with posts that are nearly the same kept together.

    Raises StageError where the path is missing or of another shape, a file is not UTF-8 or not readable, a column is
    missing, a row has no label, or a class has too few posts.
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
        for path in sorted(place for place in kind.rglob("*") if place.is_file() and not _hidden(place, folder)):
            _check_utf8(path)
            yield kind.name, path.read_text(encoding="utf-8")


def _hidden(path: Path, folder: Path) -> bool:
    """Whether a file manager or an editor put it below `folder`: .DS_Store, .ipynb_checkpoints/ and the like."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _table_rows(path: Path) -> Rows:
    """Rows of a table; labels that are numbers become text, those of a Hugging Face data set their names."""
    try:
        table = _read_csv(path) if path.suffix.lower() == ".csv" else _read_parquet(path)
    except (DatasetGenerationError, pyarrow.ArrowException, OSError) as error:
        reason = str(error.__cause__ or error)
        raise StageError(f"{path} cannot be read as {path.suffix[1:]}: {' '.join(reason.split())}") from error
    kind, written = table.features["label"], table.features["text"]
    if not (isinstance(written, Value) and "string" in written.dtype):
        raise StageError(f"{path}: the column text is no text but {written}; write it as strings")
    rows: Rows = []
    for number, (label, text) in enumerate(zip(table["label"], table["text"], strict=True), start=1):
        if label is None or text is None or not str(label).strip():
            raise StageError(f"{path}: row {number} has no {'text' if text is None else 'label'}; fill or remove it")
        rows.append((kind.int2str(label) if isinstance(kind, ClassLabel) else str(label).strip(), text))
    return rows


def _read_csv(path: Path) -> Dataset:
    _check_utf8(path)
    with path.open(encoding="utf-8-sig", newline="") as file:
        _check_columns(path, next(csv.reader(file), []))
    disable_progress_bars()
    # As text and without a guess: a label "01" stays what it is, and a post "NA" is no missing value.
    text = Features({name: Value("string") for name in COLUMNS})
    # The library caches what it converts in the user's home; nothing of a build should outlive it there.
    with tempfile.TemporaryDirectory() as cache:
        return Dataset.from_csv(str(path), features=text, cache_dir=cache, keep_in_memory=True, keep_default_na=False)


def _read_parquet(path: Path) -> Dataset:
    _check_columns(path, pyarrow.parquet.read_schema(path).names)
    return Dataset(InMemoryTable(pyarrow.parquet.read_table(path, columns=list(COLUMNS))))


def _check_columns(path: Path, names: list[str]) -> None:
    if missing := [name for name in COLUMNS if name not in names]:
        raise StageError(f"{path} lacks the column {missing[0]}; it has {', '.join(names)}, and needs text and label")


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
