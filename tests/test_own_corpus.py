"""One's own corpus: every shape gives the same posts, and what cannot be used stops with one line before any work."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from handlers.text import Cleaning
from stages import fetch
from stages.corpus import label_names, load_split
from stages.own_corpus import read_corpus
from stages.params import Data
from stages.prepare import clean_split
from stages.splitting import split_validation
from stages.stage import StageError

EXAMPLE = Path(__file__).parent / "corpus"
CLASSES = ["garden", "kitchen", "workshop"]
ROWS = [(label, f"{label} post {word}\nNA, “quoted”") for label in ("01", "zwei") for word in "abcdefgh"]


PAIRS = [(label, word) for label in ("cold", "warm") for word in ("alpha", "beta", "gamma", "delta", "epsilon", "zeta")]


def as_folder(folder: Path, rows: list[tuple[str, str]]) -> Path:
    for number, (label, text) in enumerate(rows):
        (folder / label).mkdir(parents=True, exist_ok=True)
        (folder / label / f"{number:03d}.txt").write_text(text, encoding="utf-8")
    return folder


def as_csv(path: Path, rows: list[tuple[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("id", "label", "text"), *((i, *row) for i, row in enumerate(rows))])
    return path


def as_parquet(path: Path, rows: list[tuple[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_dict({"label": [label for label, _ in rows], "text": [text for _, text in rows]}).to_parquet(str(path))
    return path


def test_twins_are_not_divided_between_training_and_test(tmp_path: Path) -> None:
    twins = [(label, " ".join(f"{label}-{word}-{i}" for i in range(9))) for label, word in PAIRS * 2]
    parts = read_corpus(as_csv(tmp_path / "posts.csv", twins), 0.25, seed=1)
    assert len(parts["test"]) > 2
    assert not {text for _, text in parts["train"]} & {text for _, text in parts["test"]}


@pytest.mark.parametrize("seed", range(5))
def test_small_classes_beside_a_large_one_are_divided(tmp_path: Path, seed: int) -> None:
    counts = {"many": 200} | {f"few {kind}": 4 for kind in "abcdefghij"}
    rows = [
        (label, " ".join(f"{label}{chr(97 + n % 26)}{chr(97 + n // 26)} post" for _ in range(9)))
        for label, count in counts.items()
        for n in range(count)
    ]
    parts = read_corpus(as_csv(tmp_path / "posts.csv", rows), 0.2, seed)
    assert all({label for label, _ in part} == set(counts) for part in parts.values())
    assert 35 < len(parts["test"]) < 65


def test_a_class_that_repeats_one_post_is_named(tmp_path: Path) -> None:
    same = [("reply", "thank you for your message which will be answered as soon as we can")] * 9
    rows = [(label, " ".join(f"{label}-{word}-{i}" for i in range(9))) for label, word in PAIRS]
    with pytest.raises(StageError, match="the posts of reply are nearly the same"):
        read_corpus(as_csv(tmp_path / "posts.csv", [*rows, *same]), 0.25, seed=1)


def test_hidden_files_are_no_posts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = as_folder(tmp_path / "train", ROWS)
    (folder / "01" / ".DS_Store").write_bytes(b"\x00\xff")
    as_folder(folder / ".ipynb_checkpoints" / "zwei", ROWS)
    as_folder(tmp_path / "test", ROWS[::4])
    assert read_corpus(tmp_path, 0.25, 1)["train"] == ROWS
    assert "hidden folders are no classes: .ipynb_checkpoints" in caplog.text


@pytest.mark.parametrize(
    "write",
    [
        lambda place: as_folder(place, ROWS),
        lambda place: as_csv(place / "posts.csv", ROWS),
        lambda place: as_csv(place / "train.csv", ROWS).parent,
        lambda place: as_parquet(place / "posts.parquet", ROWS),
        lambda place: as_folder(place / "train", ROWS).parent,
    ],
    ids=["folder", "csv", "train.csv", "parquet", "train folder"],
)
def test_every_shape_gives_the_same_posts_and_a_stratified_test_split(
    write: Callable[[Path], Path], tmp_path: Path
) -> None:
    parts = read_corpus(write(tmp_path / "corpus"), 0.25, seed=1)
    assert sorted(parts["train"] + parts["test"]) == sorted(ROWS)
    assert Counter(label for label, _ in parts["test"]) == {"01": 2, "zwei": 2}


def test_the_test_split_hangs_on_the_seed(tmp_path: Path) -> None:
    path = as_csv(tmp_path / "posts.csv", ROWS)
    assert read_corpus(path, 0.25, 1) == read_corpus(path, 0.25, 1)
    assert read_corpus(path, 0.25, 1) != read_corpus(path, 0.25, 2)


def test_a_test_part_stays_as_it_is(tmp_path: Path) -> None:
    as_csv(tmp_path / "train.csv", ROWS)
    as_parquet(tmp_path / "test.parquet", ROWS[::4])
    assert read_corpus(tmp_path, 0.5, 1) == {"train": ROWS, "test": ROWS[::4]}


def test_names_of_class_labels_are_the_labels(tmp_path: Path) -> None:
    path = tmp_path / "posts.parquet"
    kinds = Features({"text": Value("string"), "label": ClassLabel(names=["cold", "warm"])})
    Dataset.from_dict({"text": list("abcdef"), "label": [0, 1] * 3}, features=kinds).to_parquet(str(path))
    assert {label for label, _ in read_corpus(path, 0.4, 1)["train"]} == {"cold", "warm"}


def test_space_around_a_label_and_capitals_of_a_suffix_do_not_count(tmp_path: Path) -> None:
    as_csv(
        tmp_path / "posts.CSV", [(f" {label}" if i % 2 else f"{label} ", text) for i, (label, text) in enumerate(ROWS)]
    )
    found = read_corpus(tmp_path / "posts.CSV", 0.4, 1)
    assert {label for part in found.values() for label, _ in part} == {label for label, _ in ROWS}


def test_a_long_post_and_empty_lines_are_read(tmp_path: Path) -> None:
    rows = [("01", "long " * 30_000), *ROWS]
    path = as_csv(tmp_path / "posts.csv", rows)
    path.write_text(path.read_text(encoding="utf-8") + "\n\n", encoding="utf-8")
    parts = read_corpus(path, 0.25, seed=1)
    assert sorted(parts["train"] + parts["test"]) == sorted(rows)


def bad(tmp_path: Path, name: str) -> Path:
    """A corpus with one thing wrong."""
    file = tmp_path / "posts.csv"
    match name:
        case "missing":
            return tmp_path / "nowhere"
        case "suffix":
            (tmp_path / "posts.xlsx").write_text("text,label\n")
            return tmp_path / "posts.xlsx"
        case "empty folder":
            return tmp_path
        case "folder without posts":
            (tmp_path / "class").mkdir()
            return tmp_path
        case "file not utf-8":
            as_folder(tmp_path, ROWS)
            (tmp_path / "01" / "x.txt").write_bytes("naïve".encode("latin-1"))
            return tmp_path
        case "csv not utf-8":
            file.write_bytes("text,label\nnaïve,a\n".encode("latin-1"))
        case "bytes":
            kinds = Features({"text": Value("binary"), "label": Value("string")})
            posts = {"text": [b"one", b"two"], "label": ["a", "b"]}
            Dataset.from_dict(posts, features=kinds).to_parquet(str(tmp_path / "posts.parquet"))
            return tmp_path / "posts.parquet"
        case "twice":
            as_csv(tmp_path / "train.csv", ROWS)
            as_parquet(tmp_path / "train.parquet", ROWS)
            return tmp_path
        case "columns":
            file.write_text("body,label\nx,a\n")
        case "parquet columns":
            Dataset.from_dict({"text": ["x"]}).to_parquet(str(tmp_path / "posts.parquet"))
            return tmp_path / "posts.parquet"
        case "no parquet":
            (tmp_path / "posts.parquet").write_text("text,label\n")
            return tmp_path / "posts.parquet"
        case "damaged parquet":
            path = as_parquet(tmp_path / "posts.parquet", ROWS)
            content = path.read_bytes()
            # Its pages are spoilt; its end, which says what it holds, is not.
            path.write_bytes(content[:4] + bytes(32) + content[36:])
            return path
        case "ragged":
            file.write_text("text,label\nx,a\nx,a,b,c\n")
        case "comma in every text":
            file.write_text("text,label\n" + "well, x,a\nwell, y,b\n" * 9)
        case "short row":
            file.write_text("text,label,source\nx,a,mail\nx,a\n")
        case "header alone":
            file.write_text("text,label\n")
        case "open quote":
            file.write_text('label,text\na,x\nb,"y\na,z\n')
        case "no header":
            file.write_text(f'"{"long " * 30_000}\nand more",a\n')
        case "number for no label":
            path = tmp_path / "posts.parquet"
            Dataset.from_dict({"text": ["x", "y"], "label": [1.0, float("nan")]}).to_parquet(str(path))
            return path
        case "label of a class label":
            kinds = Features({"text": Value("string"), "label": ClassLabel(names=["cold", "warm"])})
            path = tmp_path / "posts.parquet"
            Dataset.from_dict({"text": ["x", "y"], "label": [0, -1]}, features=kinds).to_parquet(str(path))
            return path
        case "several labels":
            path = tmp_path / "posts.parquet"
            Dataset.from_dict({"text": ["x", "y"], "label": [["a"], ["a", "b"]]}).to_parquet(str(path))
            return path
        case "name not utf-8":
            as_folder(tmp_path, ROWS)
            (tmp_path / os.fsdecode(b"caf\xe9")).mkdir()
            return tmp_path
        case "label":
            file.write_text("text,label\nx,a\ny,\n")
        case "one class":
            as_csv(file, ROWS[:8])
        case "one post":
            as_csv(file, [*ROWS, ("lonely", "x")])
        case "one post beside a test part":
            as_csv(tmp_path / "train.csv", [*ROWS, ("lonely", "x")])
            as_csv(tmp_path / "test.csv", [*ROWS, ("lonely", "x")])
            return tmp_path
        case "test share":
            as_csv(file, ROWS[6:10])
    return file


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", r"data\.path: .*nowhere is missing; expected"),
        ("suffix", r"posts\.xlsx is no corpus; expected"),
        ("empty folder", "is no corpus; expected"),
        ("folder without posts", "has no posts"),
        ("file not utf-8", r"x\.txt is not UTF-8 .*iconv"),
        ("csv not utf-8", r"posts\.csv is not UTF-8 .*iconv"),
        ("columns", "lacks the column text; it has body, label"),
        ("parquet columns", "lacks the column label; it has text"),
        ("bytes", "the column text is no text but .*binary"),
        ("twice", r"has train more than once: train\.csv, train\.parquet; keep one"),
        ("no parquet", r"posts\.parquet cannot be read as parquet"),
        ("damaged parquet", r"posts\.parquet cannot be read as parquet"),
        ("ragged", r"posts\.csv: row 2 has 4 fields and the header 2: .*quotes"),
        ("comma in every text", r"posts\.csv: row 1 has 3 fields and the header 2: .*quotes"),
        ("short row", r"posts\.csv: row 2 has 2 fields and the header 3: .*quotes"),
        ("header alone", r"posts\.csv has no posts"),
        ("open quote", r"posts\.csv: row 2 cannot be read as csv: unexpected end of data"),
        ("no header", r"posts\.csv lacks the column text; it has .{,200}, and needs"),
        ("number for no label", "row 2 has no label"),
        ("label", "row 2 has no label"),
        ("label of a class label", "row 2 has no label"),
        ("several labels", "the column label is no name but List"),
        ("name not utf-8", r"has a folder 'caf\\udce9', whose name is not UTF-8: rename it"),
        ("one class", "one class only: 01"),
        ("one post", r"too few posts of lonely \(1\)"),
        ("one post beside a test part", r"too few posts of lonely \(1\)"),
        ("test share", r"too few posts of 01 \(2\), zwei \(2\)"),
    ],
)
def test_what_cannot_be_used_is_one_line(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=message) as caught:
        read_corpus(bad(tmp_path, name), 0.2, seed=1)
    assert "\n" not in str(caught.value)


def test_the_example_goes_through_fetch_and_prepare(tmp_path: Path) -> None:
    settings = Data(source="files", path=str(EXAMPLE), test=0.34, remove=("headers",), limit=0)
    posts, origin = fetch.fetch_posts(settings, seed=20)
    written = fetch.write_corpus(posts, origin, tmp_path)
    assert written["posts"] == {"train": 12, "test": 6}
    train = load_split(tmp_path, "train")
    assert label_names(train) == CLASSES
    assert any("brûlée" in text for text in [*train["text"], *load_split(tmp_path, "test")["text"]])
    cleaned, _ = clean_split(train, Cleaning(letters_only=False), 0)
    parts = split_validation(cleaned, "thread", 0.34, 20)
    assert all(set(part["label"]) == {0, 1, 2} for part in parts)
