"""Stage `describe`: what is in the prepared splits, and what posts that are nearly the same do to the score."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from matplotlib.figure import Figure
from sklearn.metrics import accuracy_score, f1_score

from handlers.linear import Linear
from stages.corpus import COUNTS_FILE, label_names, load_split
from stages.data_report import (
    FEW_WORDS,
    LONG_WORD,
    QUANTILES,
    RARE,
    duplicate_table,
    length_summary,
    load_tokenizer,
    oddities,
    pair_counts,
    token_counts,
    vocabulary_report,
    word_counts,
)
from stages.duplicates import SHINGLE, THRESHOLD, near_duplicates
from stages.figures import save
from stages.files import write_json
from stages.html import paragraph, picture, table, write_section
from stages.inputs import read_earlier, require
from stages.params import load
from stages.paths import LINEAR, METRICS, PLOTS, PREPARED, PRETRAINED
from stages.stage import stage

log = logging.getLogger(__name__)

SHOWN = 10
SHOWN_CHARACTERS = 100


def describe_classes(splits: Mapping[str, Dataset]) -> list[list[Any]]:
    """Rows of class, and its posts in each split."""
    counts = [Counter(split["label"]) for split in splits.values()]
    names = label_names(splits["train"])
    return [[name, *(count[label] for count in counts)] for label, name in enumerate(names)]


def describe_scores(split: Dataset, predicted: np.ndarray, twins: np.ndarray) -> list[list[Any]]:
    """Rows of which posts, how many, accuracy and macro-F1: all, those with a near-duplicate in training, the
    rest."""
    actual = np.array(split["label"])
    rows = []
    for name, mask in (("all posts", np.ones_like(twins)), ("with one", twins), ("without", ~twins)):
        scores: list[float | None] = [None, None]
        if mask.any():
            f1 = f1_score(actual[mask], predicted[mask], average="macro")
            scores = [round(accuracy_score(actual[mask], predicted[mask]), 4), round(float(f1), 4)]
        rows.append([name, int(mask.sum()), *scores])
    return rows


def find_oddities(splits: Mapping[str, Dataset]) -> tuple[list[list[Any]], list[list[Any]]]:
    """Rows of split and what looks wrong, with the number of posts; and the posts: what, id, class, how it begins."""
    names = label_names(splits["train"])
    counts: Counter[tuple[str, str]] = Counter()
    posts = []
    for split, dataset in splits.items():
        for post in dataset:
            for what in oddities(post["text"]):
                counts[split, what] += 1
                posts.append([what, post["id"], names[post["label"]], post["text"][:SHOWN_CHARACTERS]])
    return [[split, what, count] for (split, what), count in counts.items()], posts


def plot_lengths(path: Path, lengths: Mapping[str, Mapping[str, np.ndarray]], max_tokens: int) -> Figure:
    """Share of posts of at most so many tokens, a panel for each tokenizer and a line for each split.

    Returns the figure that it wrote.
    """
    figure = Figure(figsize=(5 * len(lengths), 3.5), layout="constrained")
    panels = figure.subplots(1, len(lengths), squeeze=False, sharey=True)[0]
    for axes, (name, splits) in zip(panels, lengths.items(), strict=True):
        for split, counts in splits.items():
            axes.ecdf(counts, label=split)
        axes.axvline(max_tokens, color="grey", linestyle=":", label="train.max_tokens")
        axes.set_xscale("log")
        axes.set_xlabel(f"tokens of a post ({name})")
    panels[0].set_ylabel("share of posts")
    panels[0].legend()
    return save(figure, path)


def describe(
    splits: dict[str, Dataset], lengths: Mapping[str, Mapping[str, np.ndarray]], linear: Linear, max_tokens: int
) -> dict[str, Any]:
    """All figures of the report but those by tokenizer's vocabulary. lengths: tokens by tokenizer and split."""
    texts = {name: list(split["clean"]) for name, split in splits.items()}
    labels = [label for split in splits.values() for label in split["label"]]
    first, near = near_duplicates([text for part in texts.values() for text in part])
    pairs, of_two_classes = pair_counts(first, near, labels)
    duplicates, twins = duplicate_table(texts, first, near)
    return {
        "posts": {name: len(split) for name, split in splits.items()},
        "classes": describe_classes(splits),
        "lengths": {
            name: {split: length_summary(counts, max_tokens) for split, counts in parts.items()}
            for name, parts in lengths.items()
        },
        "duplicates": {
            "pairs": pairs,
            "of_two_classes": of_two_classes,
            "posts": duplicates,
            "linear": {
                name: describe_scores(splits[name], linear.scores(texts[name]).argmax(axis=1), twins[name])
                for name in ("validation", "test")
            },
        },
    }


def section(figures: Mapping[str, Any], odd_posts: list[list[Any]], lengths_png: bytes, max_tokens: int) -> list[str]:
    """The parts of the report's section, in order."""
    names = list(figures["posts"])
    duplicates = figures["duplicates"]
    empty = ", ".join(f"{count} of {name}" for name, count in figures["empty"].items())
    return [
        "<h3>Posts of each class</h3>",
        paragraph(f"Posts left out because cleaning leaves no word of them: {empty}."),
        table(["class", *names], [*figures["classes"], ["all", *figures["posts"].values()]]),
        "<h3>Length in tokens</h3>",
        paragraph(f"The share cut is that of posts longer than train.max_tokens, {max_tokens}; quantiles of all:"),
        table(
            ["tokenizer", "split", *(f"{share:.0%}" for share in QUANTILES), "share cut"],
            [
                [name, split, *summary["quantiles"], summary["truncated"]]
                for name, parts in figures["lengths"].items()
                for split, summary in parts.items()
            ],
        ),
        picture(lengths_png, "Share of posts of at most so many tokens, for each tokenizer and split"),
        "<h3>Near-duplicates</h3>",
        paragraph(
            f"Posts that share {THRESHOLD:.0%} or more of their distinct runs of {SHINGLE} words; in brackets those "
            f"whose cleaned text is the same. {duplicates['pairs']} pairs, {duplicates['of_two_classes']} of them of "
            "two classes. Posts of a split (row) with one in a split (column):"
        ),
        table(["split", *names], duplicates["posts"]),
        paragraph("What that does to the score of the wide part:"),
        table(
            ["split", "near-duplicate in training", "posts", "accuracy", "macro-F1"],
            [[name, *row] for name, rows in duplicates["linear"].items() for row in rows],
        ),
        "<h3>Posts that look wrong</h3>",
        paragraph(
            f"language: {FEW_WORDS} words or more, of which under {RARE:.0%} are English stop words (another language, "
            "but also tables and lists). encoding: marks of a failed decoding, or control characters. long words: one "
            f"of over {LONG_WORD} characters (encoded files, mostly). They are kept. Some of them:"
        ),
        table(["split", "what", "posts"], figures["odd"]),
        table(["what", "post", "class", "begins"], odd_posts[:: max(len(odd_posts) // SHOWN, 1)][:SHOWN]),
        "<h3>Out of vocabulary</h3>",
        paragraph(
            "By running word of the test split. unknown: words that hold an unknown token. unseen: words that no "
            "training post has. pieces: tokens a word. most broken: words in the most pieces."
        ),
        table(
            ["tokenizer", "unknown", "unseen", "pieces", "most broken"],
            [
                [name, row["unknown"], row["unseen"], row["pieces"], ", ".join(f"{w} {n}" for w, n in row["broken"])]
                for name, row in figures["out_of_vocabulary"].items()
            ],
        ),
    ]


def main() -> None:
    with stage("describe"):
        params = load()
        max_tokens = params.train.max_tokens
        splits = {name: load_split(PREPARED, name) for name in ("train", "validation", "test")}
        linear = Linear.load(require(LINEAR, "run the wide stage"))
        texts = {name: list(split["clean"]) for name, split in splits.items()}
        tokenizers = {name: load_tokenizer(PRETRAINED / name) for name in params.train.candidates}
        lengths = {
            name: {split: token_counts(part, tokenizer) for split, part in texts.items()}
            for name, tokenizer in tokenizers.items()
        }
        known = set(word_counts(text.lower() for text in texts["train"]))
        odd, odd_posts = find_oddities(splits)
        figures = describe(splits, lengths, linear, max_tokens)
        figures |= read_earlier(PREPARED / COUNTS_FILE)
        figures["odd"] = odd
        figures["out_of_vocabulary"] = {
            name: vocabulary_report(texts["test"], tokenizer, known) for name, tokenizer in tokenizers.items()
        }
        plot = PLOTS / "lengths.png"
        plot_lengths(plot, lengths, max_tokens)
        write_json(METRICS / "data.json", figures)
        write_section("data", *section(figures, odd_posts, plot.read_bytes(), max_tokens))
        log.info("%s near-duplicate pairs; see the report", figures["duplicates"]["pairs"])


if __name__ == "__main__":
    main()
