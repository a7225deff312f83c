"""Stage `augment`: augmented copies of training posts, for the transformer to see more ways of saying the same."""

from __future__ import annotations

import functools
import html
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Value, concatenate_datasets
from datasets import Sequence as ListOf

from stages.augmentation import edit, generator, protected_words, text_names
from stages.corpus import label_names, load_split, processes_for, save_split
from stages.files import write_json
from stages.html import paragraph, table, write_section
from stages.importance import Importance
from stages.params import Augment, load
from stages.paths import AUGMENTED, METRICS, PREPARED, WORDNET
from stages.stage import stage
from stages.wordnet import WordNet

SHOWN = 20
SHOWN_WORDS = 150
# Fewer are done sooner than another process has started.
COPIES_PER_PROCESS = 1000


@dataclass(frozen=True)
class Copy:
    """An augmented copy. words: of the original; edited: what became of each, None where it was deleted."""

    id: str
    label: int
    words: list[str]
    edited: list[str | None]

    @property
    def text(self) -> str:
        return " ".join(word for word in self.edited if word is not None)

    @property
    def changed(self) -> bool:
        return self.words != self.edited


@dataclass(frozen=True)
class Editor:
    """Edits one row of `datasets.map`; reads WordNet when first asked, in the process that asks."""

    importance: Callable[[Sequence[str], int], list[float]]
    wordnet: Path
    protected: frozenset[str]
    synonym_rate: float
    deletion_rate: float
    seed: int

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Adds `edited`, what became of each of the row's words."""
        edited = edit(
            row["words"],
            self.importance(row["words"], row["label"]),
            _synonyms(self.wordnet, os.getpid()),
            self.protected,
            self.synonym_rate,
            self.deletion_rate,
            generator(self.seed, row["name"]),
        )
        return {"edited": edited}


@functools.cache
def _synonyms(folder: Path, _process: int) -> Callable[[str], list[str]]:
    # The inner cache spares the same look-ups for every post that has the same word. A reader of its own for each
    # process, because a forked one would share its place in the open files.
    return functools.cache(WordNet(folder))


def augmented_copies(
    train: Dataset, wordnet: Path, settings: Augment, seed: int, processes: int | None = None
) -> list[Copy]:
    """`settings.copies` copies of about `settings.share` of the posts, in their order; unchanged ones are left out.

    Which posts, and how each is changed, hangs on the seed and the post's text alone, but for the ranking of words by
    importance, which is of the whole split. processes: as many as pay, where None. Raises StageError where WordNet is
    missing, or no post has a word.
    """
    WordNet(wordnet)
    chosen = [
        {"id": f"{post['id']}+{number}", "label": post["label"], "words": words, "name": f"{name}+{number}"}
        for post, name in zip(train, text_names(train["text"]), strict=True)
        if generator(seed, name).random() < settings.share and (words := post["clean"].split())
        for number in range(1, settings.copies + 1)
    ]
    if not chosen:
        return []
    editor = Editor(
        Importance(train["clean"], train["label"], settings.importance, seed),
        wordnet,
        protected_words(label_names(train)),
        settings.synonym_rate,
        settings.deletion_rate,
        seed,
    )
    columns = {"id": Value("string"), "label": Value("int64"), "words": ListOf(Value("string"))}
    features = Features(columns | {"edited": ListOf(Value("string"))})
    rows = Dataset.from_list(chosen, Features(columns | {"name": Value("string")})).map(
        editor,
        features=features,
        remove_columns="name",
        num_proc=processes or processes_for(len(chosen), COPIES_PER_PROCESS),
        desc="augment",
        # Nothing is cached, so that a fingerprint of the whole editor would be made for nothing.
        new_fingerprint="augmented",
    )
    copies = [Copy(**row) for row in rows]
    return [copy for copy in copies if copy.changed]


def with_copies(train: Dataset, copies: Sequence[Copy]) -> Dataset:
    """The posts, followed by the copies; of those, the text that came is the augmented one."""
    if not copies:
        # An empty table has no columns to append.
        return train
    columns = {
        "id": [copy.id for copy in copies],
        "text": [copy.text for copy in copies],
        "clean": [copy.text for copy in copies],
        "label": [copy.label for copy in copies],
    }
    return concatenate_datasets([train, Dataset.from_dict(columns, features=train.features)])


def summary(copies: Sequence[Copy]) -> dict[str, int | float]:
    """How many copies, and what share of their words was replaced and deleted (0 to 1)."""
    pairs = [pair for copy in copies for pair in zip(copy.words, copy.edited, strict=True)]
    total = max(len(pairs), 1)
    deleted = sum(after is None for _, after in pairs)
    replaced = sum(after is not None and before != after for before, after in pairs)
    return {
        "copies": len(copies),
        "words_replaced_share": round(replaced / total, 4),
        "words_deleted_share": round(deleted / total, 4),
    }


def preview(train: Dataset, wordnet: Path, settings: Augment, seed: int) -> list[Copy]:
    """About SHOWN of the copies that there would be, were the share not 0."""
    return augmented_copies(train, wordnet, replace(settings, share=min(1.0, SHOWN / len(train))), seed)


def section(
    copies: Sequence[Copy], labels: Sequence[str], figures: dict[str, int | float], settings: Augment
) -> list[str]:
    """Parts of the report: the figures, and originals and copies side by side with the changes marked."""
    # Evenly over the split, so that more than the first classes are seen.
    shown = copies[:: max(len(copies) // SHOWN, 1)][:SHOWN]
    return [
        table(list(figures), [list(figures.values())]),
        *([] if settings.share else [paragraph("Off: augment.share is 0. These copies show what it would do.")]),
        paragraph(f"The original, and beside it its copy; at most {SHOWN_WORDS} words of each."),
        *(
            f"<h3>{html.escape(labels[copy.label])} <small>{html.escape(copy.id)}</small></h3>\n"
            f'<div class="pair"><p>{_marked(copy, original=True)}</p><p>{_marked(copy, original=False)}</p></div>'
            for copy in shown
        ),
    ]


def _marked(copy: Copy, original: bool) -> str:
    """One side of a row: <del> and <mark> in the original, <ins> in the copy."""
    words = []
    for before, after in list(zip(copy.words, copy.edited, strict=True))[:SHOWN_WORDS]:
        if before == after:
            words.append(html.escape(before))
        elif original:
            tag = "del" if after is None else "mark"
            words.append(f"<{tag}>{html.escape(before)}</{tag}>")
        elif after is not None:
            words.append(f"<ins>{html.escape(after)}</ins>")
    return " ".join(words) + (" …" if len(copy.words) > SHOWN_WORDS else "")


def main() -> None:
    with stage("augment"):
        params = load()
        train = load_split(PREPARED, "train")
        copies = augmented_copies(train, WORDNET, params.augment, params.seed)
        save_split(with_copies(train, copies), AUGMENTED, "train")
        figures = summary(copies)
        write_json(METRICS / "augment.json", figures)
        shown = copies or preview(train, WORDNET, params.augment, params.seed)
        write_section("augmentation", *section(shown, label_names(train), figures, params.augment))


if __name__ == "__main__":
    main()
