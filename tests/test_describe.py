"""The data report: each figure on posts whose answer is known, and the whole section of real parts."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from handlers.linear import Linear
from stages import describe
from stages.corpus import COUNTS_FILE, features, save_split
from stages.data_report import (
    duplicate_table,
    length_summary,
    load_tokenizer,
    oddities,
    pair_counts,
    token_counts,
    vocabulary_report,
    word_counts,
)
from stages.files import read_json, write_json
from stages.stage import StageError
from tests.conftest import LABELS


def split(name: str, texts: list[str], labels: list[int]) -> Dataset:
    columns = {"id": [f"{name}-{i}" for i in range(len(texts))], "text": texts, "clean": texts, "label": labels}
    return Dataset.from_dict(columns, features(list(LABELS)))


def test_lengths_count_special_tokens(tiny_bundle: Path) -> None:
    tokenizer = load_tokenizer(tiny_bundle)
    counts = token_counts(["the car", "", "the moon"], tokenizer)
    assert counts.tolist() == [len(tokenizer.encode(text).ids) for text in ("the car", "", "the moon")]
    assert counts[1] == 2
    summary = length_summary(np.array([10, 20, 30, 40]), 30)
    assert summary["truncated"] == 0.25
    assert summary["quantiles"][-1] == 40
    with pytest.raises(StageError, match=r"tokenizer\.json is missing: run the fetch stage"):
        load_tokenizer(tiny_bundle / "none")


def test_lengths_are_drawn_as_a_panel_a_tokenizer_and_a_line_a_split(tmp_path: Path) -> None:
    lengths = {"minilm": {"train": np.array([3, 9]), "test": np.array([4])}, "bert": {"train": np.array([5])}}
    panels = describe.plot_lengths(tmp_path / "lengths.png", lengths, 16).axes
    assert [axes.get_xlabel() for axes in panels] == ["tokens of a post (minilm)", "tokens of a post (bert)"]
    assert panels[0].get_ylabel() == "share of posts"
    train, test, cut = panels[0].lines
    assert [line.get_label() for line in (train, test, cut)] == ["train", "test", "train.max_tokens"]
    assert train.get_xydata().tolist() == [[3, 0], [3, 0.5], [9, 1]] and cut.get_xdata()[0] == 16
    assert test.get_xydata()[-1].tolist() == [4, 1]
    assert len(panels[1].lines) == 2


@pytest.fixture(params=["WordPiece", "byte-level BPE"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    """One of each kind, to which "car" within a text is one piece and "cars" two."""
    if request.param == "WordPiece":
        built = Tokenizer(models.WordPiece({"[UNK]": 0, "car": 1, "##s": 2}, unk_token="[UNK]"))
        built.normalizer, built.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        return built
    vocabulary = {piece: i for i, piece in enumerate(["Ġ", *"cars", "ar", "Ġc", "Ġcar"])}
    built = Tokenizer(models.BPE(vocabulary, [("a", "r"), ("Ġ", "c"), ("Ġc", "ar")]))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return built


def test_words_count_in_the_pieces_that_they_have_within_a_text(tokenizer: Tokenizer) -> None:
    figures = vocabulary_report(["car cars", "car"], tokenizer, set())
    assert figures["pieces"] == round(4 / 3, 4)
    assert figures["unknown"] == 0
    assert figures["broken"] == [], "no word occurs ten times"
    assert vocabulary_report(["car cars"] * 10, tokenizer, set())["broken"] == [["cars", 2], ["car", 1]]


def test_vocabulary_counts_unseen_and_unknown_words(tiny_bundle: Path) -> None:
    known = set(word_counts(["the car has wheels", "the moon"]))
    figures = vocabulary_report(["the car", "moonlight xylophone"], load_tokenizer(tiny_bundle), known)
    assert figures["unseen"] == 0.5
    assert figures["unknown"] == 0.25


def test_a_capital_makes_no_unseen_word(tokenizer: Tokenizer) -> None:
    assert vocabulary_report(["Car CARS"], tokenizer, {"car", "cars"})["unseen"] == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("This is what you would find in all of them, and it was not as bad as we had thought it could be.", []),
        (
            "der hund lief durch den wald und sah einen hasen doch er war weg wie immer im wald beim see",
            ["language"],
        ),
        ("nur kurz", []),  # too short to tell
        ("caf\ufffd", ["encoding"]),
        ("cafÃ©", ["encoding"]),
        ("Das Café, São Paulo", []),
        ("begin " + "M" * 61, ["long words"]),
    ],
)
def test_oddities(text: str, expected: list[str]) -> None:
    assert oddities(text) == expected


def test_duplicates_are_counted_by_split_in_both_directions() -> None:
    splits = {"train": ["a", "b", "b"], "test": ["a", "c", "c x", "A"]}
    rows, twins = duplicate_table(splits, np.array([0, 1, 1, 0, 4, 5, 0]), np.array([[1, 4], [4, 5]]))
    assert rows == [["train", "2 (2)", "3 (1)"], ["test", "3 (1)", "4 (0)"]]
    assert {name: mask.tolist() for name, mask in twins.items()} == {
        "train": [False, True, True],
        "test": [True, True, False, True],
    }


def test_repetitions_count_in_every_pair() -> None:
    # Three copies of one post beside two of another: all pairs of the five, three within, one within and six across.
    first = np.array([0, 0, 2, 0, 2, 5])
    labels = [0, 0, 1, 1, 1, 1]
    none = np.empty((0, 2), dtype=np.int32)
    assert pair_counts(first, np.array([[0, 2]]), labels) == (10, 6)
    assert pair_counts(first, none, labels) == (4, 2)
    assert pair_counts(np.array([], dtype=int), none, []) == (0, 0)


def test_scores_with_and_without_near_duplicates() -> None:
    posts = split("test", list("abcd"), [0, 0, 1, 1])
    rows = describe.describe_scores(posts, np.array([0, 0, 1, 0]), np.array([True, True, False, False]))
    assert [row[:3] for row in rows] == [["all posts", 4, 0.75], ["with one", 2, 1.0], ["without", 2, 0.5]]
    assert describe.describe_scores(posts, np.zeros(4, int), np.zeros(4, bool))[1] == ["with one", 0, None, None]


def test_stage_writes_metrics_plot_and_section(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path, corpus: tuple[list[str], list[int]]
) -> None:
    texts, labels = corpus
    splits = {
        "train": split("train", texts, labels),
        "validation": split("validation", [f"{text} again" for text in texts], labels),
        "test": split("test", [*texts[:2], "<b>ein</b> kurzer text", "caf\ufffd"], [*labels[:2], 2, 1]),
    }
    project = Path(__file__).parents[1]
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(project / "params.yaml", tmp_path / "params.yaml")
    for name, posts in splits.items():
        save_split(posts, describe.PREPARED, name)
    write_json(describe.PREPARED / COUNTS_FILE, {"empty": {"train": 3, "test": 0}})
    shutil.copytree(tiny_bundle, describe.PRETRAINED / "minilm")
    Linear.load(tiny_bundle).save(describe.LINEAR)
    describe.main()
    figures = read_json(describe.METRICS / "data.json")
    assert figures["posts"] == {"train": 9, "validation": 9, "test": 4}
    assert figures["classes"][0] == ["autos", 3, 3, 2]
    assert figures["duplicates"]["posts"][2][1] == "2 (2)"
    assert figures["duplicates"]["linear"]["test"][1][1:3] == [2, 1.0]
    assert ["test", "encoding", 1] in figures["odd"]
    html = Path("outputs/sections/data.html").read_text(encoding="utf-8")
    assert "3 of train" in html
    assert "data:image/png;base64," in html
    assert "caf\ufffd" in html
    assert "<b>" not in html, "text is escaped"
    shutil.rmtree(describe.LINEAR)
    with pytest.raises(SystemExit, match="linear is missing: run the wide stage, or simply dvc repro"):
        describe.main()
