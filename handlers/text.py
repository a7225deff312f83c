"""The one definition of cleaning, tokenising and batching, used by training and serving alike."""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from handlers.words import WORD

CLEANING_FILE = "cleaning.json"
TOKENIZER_FILE = "tokenizer.json"

# Control characters, marks of a broken decoding, and halves of surrogate pairs, which no tokenizer takes.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ufffd\ud800-\udfff]")
# How a character is to be drawn, as a picture or as text for example: no part of what is written.
_SELECTORS = re.compile("[\u034f\u180b-\u180d\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_SPACE = re.compile(r"\s+")

# Combining marks on one letter, Unicode's own bound (https://www.unicode.org/reports/tr15/#Stream_Safe_Text_Format).
MOST_MARKS = 30

# Posts that are tokenised at once: a tokenizer's own record of a post takes 30 KB until the batch is done.
ENCODED_AT_ONCE = 1000

# For `pack_by_length`: a batch costs more than any padding, so that there are as few as the budget allows.
FEWEST_BATCHES = 2**20

# The transformer reads `max_tokens` tokens. Text far beyond them is cut before it is tokenised, so that a post of a
# megabyte costs no more than a long one; sixteen characters a token is over three times what English needs.
CHARACTERS_PER_TOKEN = 16


@dataclass(frozen=True)
class Cleaning:
    """How a raw post becomes the text that the model reads; travels with the model, so that serving repeats training.

    letters_only: lower case, a space in place of all but letters and their marks (the form in which the package-index
    corpus comes).
    stop_words: words to drop, empty for none; compared in lower case.
    stem: replace each word by its Porter stem.
    """

    letters_only: bool
    stop_words: tuple[str, ...] = ()
    stem: bool = False

    def __call__(self, text: str) -> str:
        """Clean one post. Idempotent but for stemming (Porter's stem of a stem may differ)."""
        text = _CONTROL.sub(" ", normalized(_SELECTORS.sub("", text)))
        if self.letters_only:
            # Some letters that have no capital of their own compose with their mark only now.
            text = " ".join(WORD.findall(normalized(text.lower())))
        text = _SPACE.sub(" ", text).strip()
        if self.stop_words or self.stem:
            text = " ".join(self._words(text.split()))
        return text

    def _words(self, words: list[str]) -> Iterator[str]:
        dropped = frozenset(self.stop_words)
        stem = _porter_stemmer() if self.stem else str
        return (stem(word) for word in words if word.lower() not in dropped)

    def save(self, folder: Path) -> None:
        """Write `cleaning.json` into `folder`."""
        (folder / CLEANING_FILE).write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Cleaning:
        """Read what `save` wrote. Raises FileNotFoundError where it is missing."""
        fields = json.loads((folder / CLEANING_FILE).read_text())
        return cls(fields["letters_only"], tuple(fields["stop_words"]), fields["stem"])


def normalized(text: str) -> str:
    """Unicode's form NFKC, with at most MOST_MARKS combining marks in a row; up to eighteen times as long."""
    return text if text.isascii() else _few_marks(unicodedata.normalize("NFKC", _few_marks(text)))


def _few_marks(text: str) -> str:
    """Drop what goes beyond MOST_MARKS combining marks in a row: to sort a million of them takes Python an hour."""
    # Also characters that only become marks when they are decomposed, as the half-width Katakana ones do.
    marks = [char for char in set(text) if unicodedata.combining(unicodedata.normalize("NFKD", char)[0])]
    if not marks:
        return text
    any_mark = f"[{''.join(map(re.escape, sorted(marks)))}]"
    return re.sub(f"({any_mark}{{{MOST_MARKS}}}){any_mark}+", r"\1", text)


@functools.cache
def _porter_stemmer() -> Callable[[str], str]:
    # NLTK takes a second to import, so a worker whose model does not stem never pays for it.
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer().stem


@dataclass(frozen=True)
class Encoded:
    """One post as the transformer reads it: token ids with special tokens, and whether text was cut off."""

    ids: list[int]
    truncated: bool


class Encoder:
    """Turns cleaned text into the first `max_tokens` token ids (special tokens included).

    Raises FileNotFoundError where `tokenizer.json` is missing.
    """

    def __init__(self, folder: Path, max_tokens: int) -> None:
        path = folder / TOKENIZER_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: the model folder is incomplete, run its stage again")
        self.tokenizer = Tokenizer.from_file(str(path))
        # A tokenizer file may carry padding and truncation of its own; ours are the only ones that count.
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(max_tokens)
        self.max_tokens = max_tokens

    def __call__(self, texts: Sequence[str]) -> list[Encoded]:
        """Encode cleaned texts."""
        limit = self.max_tokens * CHARACTERS_PER_TOKEN
        encoded: list[Encoded] = []
        for start in range(0, len(texts), ENCODED_AT_ONCE):
            part = texts[start : start + ENCODED_AT_ONCE]
            # Fast: without the place of each token in the text.
            encodings = self.tokenizer.encode_batch_fast([text[:limit] for text in part])
            encoded += [
                Encoded(encoding.ids, bool(encoding.overflowing) or len(text) > limit)
                for text, encoding in zip(part, encodings, strict=True)
            ]
        return encoded


def pack_by_length(lengths: Sequence[int], token_budget: int, batch_tokens: int) -> list[list[int]]:
    """Group items of similar length into batches of at most `token_budget` padded tokens, at the least cost.

    lengths: tokens of each item, 1 or more. batch_tokens: what a batch costs besides its padded tokens, in tokens;
    FEWEST_BATCHES for as few as can be. Returns lists of indices, shortest items first; every index appears once. An
    item longer than the budget gets a batch of its own.
    """
    order = np.argsort(lengths, kind="stable")
    # Of sorted items the last one of a batch sets its padded length. The cheapest way to pack the first `end` of them
    # is the cheapest one for the first `start`, for some start, and a batch of the others (Bellman's principle).
    cost = np.zeros(len(order) + 1, dtype=np.int64)
    start_of = np.zeros(len(order) + 1, dtype=np.int64)
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        starts = np.arange(max(0, end - max(1, token_budget // longest)), end)
        costs = cost[starts] + batch_tokens + (end - starts) * longest
        start_of[end] = starts[costs.argmin()]
        cost[end] = costs.min()
    batches: list[list[int]] = []
    end = len(order)
    while end:
        batches.append(order[start_of[end] : end].tolist())
        end = start_of[end]
    return batches[::-1]


def pad(ids: Sequence[Sequence[int]], pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Stack token ids into one batch. Returns (input_ids, attention_mask), both int64 [batch, longest]."""
    longest = max(map(len, ids))
    input_ids = np.full((len(ids), longest), pad_id, dtype=np.int64)
    mask = np.zeros((len(ids), longest), dtype=np.int64)
    for row, item in enumerate(ids):
        input_ids[row, : len(item)] = item
        mask[row, : len(item)] = 1
    return input_ids, mask
