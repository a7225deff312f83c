"""Augmentation: properties over any words with injected synonyms, and the real WordNet reader on a tiny WordNet."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.special import log_softmax

from stages.augment import augmented_copies, preview, section, summary, with_copies
from stages.augmentation import (
    edit,
    generator,
    match_case,
    protected_words,
    replace_synonyms,
    text_names,
    unimportant,
)
from stages.corpus import features, label_names
from stages.importance import Importance
from stages.params import Augment
from stages.stage import StageError
from stages.wordnet import WordNet

LABELS = ["rec.autos", "sci.space"]
PROTECTED = protected_words(LABELS)
WORDS = st.lists(
    st.sampled_from(["car", "Rocket", "MOON", "the", "autos", "space,", "(wheel)", "42", "-"])
    | st.text(st.characters(exclude_categories=("Z", "C")), min_size=1, max_size=8),
    max_size=40,
)
RATES = st.floats(0, 1)
SEEDS = st.integers(0, 2**32 - 1)


def doubled(word: str) -> list[str]:
    """A synonym for every word, so that only the rules themselves leave a word alone."""
    return [word + word]


def edited(words: Sequence[str], seed: int, synonym_rate: float, deletion_rate: float) -> list[str | None]:
    importance = [float(len(word)) for word in words]
    return edit(words, importance, doubled, PROTECTED, synonym_rate, deletion_rate, random.Random(seed))


@given(WORDS, SEEDS)
def test_rate_zero_is_the_identity(words: list[str], seed: int) -> None:
    assert edited(words, seed, 0.0, 0.0) == words


@given(WORDS, SEEDS, RATES, RATES)
def test_same_seed_same_words_within_bounds(words: list[str], seed: int, synonyms: float, deletions: float) -> None:
    result = edited(words, seed, synonyms, deletions)
    assert result == edited(words, seed, synonyms, deletions)
    assert len(result) == len(words)
    assert result.count(None) == min(round(deletions * len(words)), len(words) // 2)
    replaced = [pair for pair in zip(words, result, strict=True) if pair[1] is not None and pair[0] != pair[1]]
    assert len(replaced) <= round(synonyms * len(words))


@given(WORDS.filter(bool), SEEDS)
def test_never_empty_at_the_highest_rates(words: list[str], seed: int) -> None:
    assert any(word is not None for word in edited(words, seed, 1.0, 1.0))


@given(WORDS, SEEDS)
def test_stop_words_labels_own_words_and_punctuation_stay(words: list[str], seed: int) -> None:
    expected = {
        "the": "the",
        "autos": "autos",
        "space,": "space,",
        "42": "42",
        "-": "-",
        "car": "carcar",
        "Rocket": "Rocketrocket",
        "MOON": "MOONMOON",
        "(wheel)": "(wheelwheel)",
    }
    result = replace_synonyms(words, doubled, PROTECTED, 1.0, random.Random(seed))
    for before, after in zip(words, result, strict=True):
        assert after == expected.get(before, after)


def test_no_word_becomes_a_label_or_a_stop_word() -> None:
    choices = ["autos", "the", "vehicle"]
    result = replace_synonyms(["wagon"] * 50, lambda _: choices, PROTECTED, 1.0, random.Random(0))
    assert set(result) == {"vehicle"}


@given(st.lists(st.integers(0, 5), max_size=30), RATES, SEEDS)
def test_only_the_less_important_half_is_deleted(importance: list[int], rate: float, seed: int) -> None:
    deleted = unimportant(importance, rate, random.Random(seed))
    kept = set(range(len(importance))) - set(deleted)
    assert len(set(deleted)) == len(deleted) <= len(importance) // 2
    ranked = sorted(importance)
    assert all(importance[position] <= ranked[len(ranked) // 2] for position in deleted)
    assert kept or not importance


def test_importance_is_the_posts_tfidf() -> None:
    importance = Importance(["the car has an engine", "the car is red", "the moon"], [0, 0, 1], "tfidf", seed=1)
    the, car, engine, letter, unknown = importance(["the", "Car,", "engine", "a", "zebra"], 0)
    assert 0 < the < car < engine
    assert letter == unknown == 0


def test_words_keep_their_marks() -> None:
    importance = Importance(["हिन्दी की", "पानी की"], [0, 1], "tfidf", seed=1)
    rare, common = importance(["हिन्दी", "की"], 0)
    assert rare > common > 0


def test_posts_without_a_word_name_the_parameter() -> None:
    with pytest.raises(StageError, match=r"set prepare\.letters_only"):
        Importance(["a b", "c"], [0, 1], "tfidf", seed=1)


@pytest.mark.parametrize("classes", [2, 3])
def test_gradient_is_that_of_the_log_probability(classes: int) -> None:
    posts = ["engine oil the wheels", "orbit moon the probe", "goalie puck the ice"][:classes] * 3
    importance = Importance(posts, list(range(classes)) * 3, "gradient", seed=1)
    words = posts[0].split()
    values = importance(words, 0)
    assert values[words.index("the")] < min(values[words.index(word)] for word in ("engine", "oil", "wheels"))
    # By finite differences of the model's own scores.
    row = importance._vectorizer.transform([" ".join(words)])

    def log_probability(vector: csr_matrix) -> float:
        scores = importance._model.decision_function(vector)[0]
        return float(log_softmax([-scores / 2, scores / 2] if classes == 2 else scores)[0])

    for position, index in enumerate(row.indices):
        changed = row.copy()
        changed.data[position] *= 1 + 1e-6
        expected = abs(log_probability(changed) - log_probability(row)) / 1e-6
        word = importance._vectorizer.get_feature_names_out()[index]
        assert values[words.index(word)] == pytest.approx(expected, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize(("model", "expected"), [("car", "auto"), ("Car", "Auto"), ("CAR", "AUTO"), ("A", "Auto")])
def test_case_is_kept(model: str, expected: str) -> None:
    assert match_case("auto", model) == expected


def test_posts_of_one_text_have_names_of_their_own() -> None:
    first, other, second = text_names(["moon", "car", "moon"])
    assert len({first, other, second}) == 3
    assert [first, second] == list(text_names(["moon", "moon"]))


def test_generator_hangs_on_seed_and_name() -> None:
    draws = {(seed, name): generator(seed, name).random() for seed in (1, 2) for name in ("a", "b")}
    assert len(set(draws.values())) == 4
    assert draws[1, "a"] == generator(1, "a").random()


# A WordNet of five synsets in its own file format: https://wordnet.princeton.edu/documentation/wndb5wn
# (part of speech, lexicographer file, words), and how often each word was met in that sense.
SYNSETS = [
    ("n", 0, ("car", "auto", "motorcar")),
    ("n", 0, ("box", "case")),
    ("v", 1, ("box", "spar")),
    ("v", 1, ("purchase", "buy")),
    ("v", 1, ("try", "essay")),
]
COUNTS = {"car": 71, "auto": 2, "motorcar": 0, "case": 3, "purchase": 5, "buy": 9, "spar": 1, "try": 9, "essay": 1}
BOX = {"n": 8, "v": 1}


@pytest.fixture
def wordnet(tmp_path: Path) -> Path:
    """A folder that NLTK's reader reads; the byte offsets are those of the lines written."""
    folder = tmp_path / "wordnet"
    folder.mkdir()
    numbers = {"n": 1, "v": 2}
    names = {"n": "noun", "v": "verb", "a": "adj", "r": "adv"}
    counts = []
    for part, name in names.items():
        data, offsets = "  1 a licence line, as in WordNet's own files\n", {}
        for kind, lexname, words in SYNSETS:
            if kind == part:
                for word in words:
                    offsets[word] = len(data)
                    key = f"{word}%{numbers[part]}:0{lexname}:00::"
                    counts.append(f"{key} 1 {BOX[part] if word == 'box' else COUNTS[word]}")
                verb_frames = " 01 + 08 00" if part == "v" else ""
                members = " ".join(f"{word} 0" for word in words)
                data += f"{len(data):08d} 0{lexname} {part} {len(words):02x} {members} 000{verb_frames} | a gloss  \n"
        index = "".join(f"{word} {part} 1 0 1 1 {offset:08d}  \n" for word, offset in sorted(offsets.items()))
        (folder / f"data.{name}").write_text(data)
        (folder / f"index.{name}").write_text(index)
        (folder / f"{name}.exc").write_text("bought buy\nsparring spar\nsparred spar\n" if part == "v" else "")
    (folder / "lexnames").write_text("00\tnoun.Tops\t1\n01\tverb.act\t2\n")
    (folder / "cntlist.rev").write_text("\n".join(sorted(counts)) + "\n")
    (folder / "index.sense").write_text("")
    return folder


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("car", ["auto"]),  # "motorcar" was never met
        ("cars", ["autos"]),
        ("box", ["case"]),  # more often a noun than a verb
        ("boxing", ["sparring"]),  # only a verb ends so; the doubled letter is of WordNet's exceptions
        ("purchases", ["buys"]),
        ("purchasing", ["buying"]),
        ("purchased", []),  # "bought" is irregular
        ("bought", []),  # and so it gives no ending to carry over
        ("tries", ["essays"]),
        ("essayed", ["tried"]),
        ("xylophone", []),
    ],
)
def test_wordnet_synonyms_keep_the_inflection(wordnet: Path, word: str, expected: list[str]) -> None:
    assert WordNet(wordnet)(word) == expected


def test_missing_or_broken_wordnet_says_the_mend(wordnet: Path) -> None:
    with pytest.raises(StageError, match="fetch"):
        WordNet(wordnet / "nowhere")
    (wordnet / "data.adj").unlink()
    with pytest.raises(StageError, match="fetch"):
        WordNet(wordnet)


def split(texts: Sequence[str]) -> Dataset:
    """A training split of raw texts in capitals, so that `text` and `clean` differ."""
    columns = {
        "id": [f"post-{index}" for index in range(len(texts))],
        "text": [text.upper() for text in texts],
        "clean": list(texts),
        "label": [index % 2 for index in range(len(texts))],
    }
    return Dataset.from_dict(columns, features=features(LABELS))


def chosen(**changes: Any) -> Augment:
    values = {"share": 1, "copies": 1, "synonym_rate": 0.5, "deletion_rate": 0.2, "importance": "tfidf"}
    return Augment(**values | changes)


@pytest.mark.parametrize("importance", ["tfidf", "gradient"])
def test_stage_adds_copies_after_the_originals(wordnet: Path, importance: str) -> None:
    train = split(["people purchase cars and try each car in a box", "a <b>car</b> they purchase", ""] * 10)
    copies = augmented_copies(train, wordnet, chosen(importance=importance), seed=1)
    result = with_copies(train, copies)
    assert result.features == train.features
    assert result[: len(train)] == train[:]
    assert len(result) == len(train) + 20, "an empty post has no copy"
    added = result[len(train) :]
    assert added["text"] == added["clean"]
    assert all(text.strip() for text in added["text"])
    assert [identifier.removesuffix("+1") for identifier in added["id"]] == [
        post["id"] for post in train if post["clean"]
    ]
    metrics = summary(copies)
    assert metrics["copies"] == 20
    assert 0 < metrics["words_replaced_share"] <= 0.5
    assert 0 < metrics["words_deleted_share"] <= 0.25
    shown = "".join(section(copies, label_names(train), metrics, chosen()))
    assert "<b>" not in shown, "text is escaped"
    assert "<ins>" in shown
    assert "<del>" in shown


def test_every_copy_of_a_post_is_another(wordnet: Path) -> None:
    train = split(["people purchase cars and try each car in a box near other boxes and cases"] * 3)
    copies = augmented_copies(train, wordnet, chosen(copies=4), seed=1)
    assert [copy.id for copy in copies] == [f"post-{post}+{number}" for post in range(3) for number in range(1, 5)]
    assert len({copy.text for copy in copies}) > 4


def test_adding_a_post_changes_no_other(wordnet: Path) -> None:
    settings = chosen(share=0.5, copies=2, synonym_rate=0.6, deletion_rate=0.0)
    # Some texts twice, for the same one may be of two posts.
    texts = [f"people purchase cars and try each car in box {i % 30}" for i in range(40)]
    before = augmented_copies(split(texts), wordnet, settings, seed=1)
    after = augmented_copies(split([*texts[:20], "one more car", *texts[20:]]), wordnet, settings, seed=1)
    assert 20 < len(before) < 60
    assert [copy.edited for copy in after if "more" not in copy.words] == [copy.edited for copy in before]
    assert augmented_copies(split(texts), wordnet, settings, seed=2) != before


def test_two_processes_give_what_one_gives(wordnet: Path) -> None:
    train = split(["people purchase cars and try each car in a box", "they box"] * 5)
    alone = augmented_copies(train, wordnet, chosen(), seed=1)
    assert alone == augmented_copies(train, wordnet, chosen(), seed=1, processes=2)


def test_where_it_is_off_the_page_shows_what_it_would_do(wordnet: Path) -> None:
    train = split(["people purchase cars and try each car in a box"] * 100)
    shown = preview(train, wordnet, chosen(share=0), seed=1)
    assert 5 < len(shown) < 40
    every = augmented_copies(train, wordnet, chosen(), seed=1)
    assert [copy for copy in every if copy in shown] == shown
    page = "".join(section(shown, LABELS, summary([]), chosen(share=0)))
    assert "Off" in page
    assert "<del>" in page


def test_rates_of_zero_leave_no_copies(wordnet: Path) -> None:
    train = split(["people purchase cars"] * 4)
    assert augmented_copies(train, wordnet, chosen(synonym_rate=0, deletion_rate=0), seed=1) == []
    assert augmented_copies(train, wordnet, chosen(share=0), seed=1) == []
    assert with_copies(train, [])[:] == train[:]
    assert summary([])["copies"] == 0
    assert "Off" not in "".join(section([], LABELS, summary([]), chosen(synonym_rate=0, deletion_rate=0)))
