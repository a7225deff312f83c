"""Augmented copies of posts: WordNet synonyms and deletion of unimportant words. Functions of words and a generator."""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from handlers.words import WORD

# One word of letters, with the punctuation that may cling to it.
_CORE = re.compile(r"(\W*)([^\W\d_]+)(\W*)")


def text_names(texts: Iterable[str]) -> Iterator[str]:
    """A name for each post, of its text and the number of its repetition alone: unlike a place in the corpus, it stays
    whatever posts are added or removed."""
    seen: Counter[str] = Counter()
    for text in texts:
        name = hashlib.sha256(text.encode()).hexdigest()
        seen[name] += 1
        yield f"{name}-{seen[name]}"


def generator(seed: int, name: str) -> random.Random:
    """The generator of one post, from its name alone: adding a post changes no other post's numbers."""
    return random.Random(f"{seed}:{name}")


def protected_words(labels: Iterable[str]) -> frozenset[str]:
    """Words that no synonym replaces or becomes, in lower case: stop words and the labels' own words."""
    own = {word for label in labels for word in WORD.findall(label.lower())}
    return ENGLISH_STOP_WORDS | own


def edit(
    words: Sequence[str],
    importance: Sequence[float],
    synonyms: Callable[[str], Sequence[str]],
    protected: Collection[str],
    synonym_rate: float,
    deletion_rate: float,
    numbers: random.Random,
) -> list[str | None]:
    """What becomes of each word of a post: itself, a synonym in its place, or None where it is deleted.

    importance: of each of the words, see `stages.importance`. synonyms: of a word in lower case, see `stages.wordnet`.
    Rates: share of the words, each an upper bound. Never deletes every word.
    """
    edited: list[str | None] = [*replace_synonyms(words, synonyms, protected, synonym_rate, numbers)]
    for position in unimportant(importance, deletion_rate, numbers):
        edited[position] = None
    return edited


def replace_synonyms(
    words: Sequence[str],
    synonyms: Callable[[str], Sequence[str]],
    protected: Collection[str],
    rate: float,
    numbers: random.Random,
) -> list[str]:
    """The words with up to `rate` of them, taken at random, replaced by a synonym; case and punctuation stay."""
    replaced = list(words)
    left = round(rate * len(words))
    for position in numbers.sample(range(len(words)), len(words)):
        if not left:
            break
        match = _CORE.fullmatch(words[position])
        if not match or match[2].lower() in protected:
            continue
        before, word, after = match.groups()
        choices = [choice for choice in synonyms(word.lower()) if choice not in protected and choice != word.lower()]
        if choices:
            replaced[position] = before + match_case(numbers.choice(choices), word) + after
            left -= 1
    return replaced


def match_case(word: str, model: str) -> str:
    """`word` in the case of `model`: all capitals, a capital first, or as it is."""
    if model.isupper() and len(model) > 1:
        return word.upper()
    return word.capitalize() if model[0].isupper() else word


def unimportant(importance: Sequence[float], rate: float, numbers: random.Random) -> list[int]:
    """Positions of the words to delete: up to `rate` of all, taken at random from the less important half."""
    ranked = sorted(range(len(importance)), key=importance.__getitem__)
    half = ranked[: len(ranked) // 2]
    return numbers.sample(half, min(round(rate * len(importance)), len(half)))
