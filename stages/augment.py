"""Stage `augment`: augmented copies of training posts, for the transformer to see more ways of saying the same."""

from __future__ import annotations

import functools
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, concatenate_datasets
from sklearn.feature_extraction.text import TfidfVectorizer
from tqdm import tqdm

from stages.augmentation import WordNet, edit, generator, protected_words, word_importance
from stages.corpus import label_names, load_split, save_split
from stages.files import replacing, write_json
from stages.params import Augment, load
from stages.paths import AUGMENTED, METRICS, PLOTS, PREPARED, WORDNET
from stages.stage import stage

SHOWN = 20
SHOWN_WORDS = 150


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


def augmented_copies(train: Dataset, wordnet: Path, settings: Augment, seed: int) -> list[Copy]:
    """A copy of about `settings.share` of the posts, in their order; a copy that nothing changed is left out.

    Which posts, and how each is changed, hangs on the seed and the post's id alone, but for the ranking of words by
    TF-IDF, which is of the whole split. Raises StageError where WordNet is missing.
    """
    # The cache spares the same look-ups for every post that has the same word.
    synonyms = functools.cache(WordNet(wordnet))
    protected = protected_words(label_names(train))
    vectorizer = TfidfVectorizer(sublinear_tf=True).fit(train["clean"])
    copies = []
    for post in tqdm(train, desc="augment", unit="post", mininterval=1):
        numbers = generator(seed, post["id"])
        words = post["clean"].split()
        if numbers.random() >= settings.share or not words:
            continue
        importance = word_importance(words, vectorizer)
        rates = settings.synonym_rate, settings.deletion_rate
        edited = edit(words, importance, synonyms, protected, *rates, numbers)
        copies.append(Copy(f"{post['id']}+a", post["label"], words, edited))
    return [copy for copy in copies if copy.changed]


def with_copies(train: Dataset, copies: Sequence[Copy]) -> Dataset:
    """The posts, followed by the copies; of those, the text that came is the augmented one."""
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


def page(copies: Sequence[Copy], labels: Sequence[str]) -> str:
    """Originals and copies side by side, changes marked: one HTML page that needs nothing from elsewhere."""
    rows = "\n".join(
        f"<h2>{html.escape(labels[copy.label])} <small>{html.escape(copy.id)}</small></h2>"
        f"<section><p>{_marked(copy, original=True)}</p><p>{_marked(copy, original=False)}</p></section>"
        for copy in copies
    )
    intro = (
        f"<h1>Augmented posts</h1>\n<p>The original, and beside it its copy; at most {SHOWN_WORDS} words of each.</p>"
    )
    return f"{_HEAD}{intro}\n{rows}\n"


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


_HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Augmented posts</title>
<style>
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: auto; padding: 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1rem; margin: 1.5rem 0 0; }
small { font-weight: normal; opacity: .7; }
section { display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: 0 2rem; }
del { color: light-dark(#a11, #f88); }
mark { color: inherit; background: light-dark(#fe9, #640); }
ins { color: inherit; background: light-dark(#bed, #163); text-decoration: none; }
</style>
"""


def main() -> None:
    with stage("augment"):
        params = load()
        train = load_split(PREPARED, "train")
        copies = augmented_copies(train, WORDNET, params.augment, params.seed)
        save_split(with_copies(train, copies), AUGMENTED, "train")
        write_json(METRICS / "augment.json", summary(copies))
        # Evenly over the split, so that more than the first classes are seen.
        shown = copies[:: max(len(copies) // SHOWN, 1)][:SHOWN]
        with replacing(PLOTS / "augment.html") as temporary:
            temporary.write_text(page(shown, label_names(train)), encoding="utf-8")


if __name__ == "__main__":
    main()
