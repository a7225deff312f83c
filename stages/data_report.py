"""What is in a corpus: pure functions of cleaned posts, each one table of the report."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from tokenizers import Tokenizer

from handlers.text import TOKENIZER_FILE
from handlers.words import TOKEN, WORD
from stages.inputs import require

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 1)

# English prose is half stop words; a post of FEW_WORDS or more with fewer than RARE of them is another language, a
# table, a list of parts or a signature.
FEW_WORDS = 20
RARE = 0.1
LONG_WORD = 40
# Marks of a failed decoding, control characters, and UTF-8 that was read as Latin-1 ("Ã©").
_BROKEN = re.compile(r"[\ufffd\x00-\x08\x0e-\x1f\x7f-\x9f]|[ÃÂâ][\u0080-\u00bf€]")


def load_tokenizer(folder: Path) -> Tokenizer:
    """A checkpoint's tokenizer, without the padding and truncation that its file may ask for.

    Raises StageError where it is missing.
    """
    tokenizer = Tokenizer.from_file(str(require(folder / TOKENIZER_FILE, "run the fetch stage")))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def token_counts(texts: Sequence[str], tokenizer: Tokenizer) -> np.ndarray:
    """Tokens of each text, special ones included: int [texts]."""
    # In parts, for an encoding holds much more than its ids; the tokenizer has threads of its own.
    parts = (tokenizer.encode_batch_fast(texts[start : start + 1000]) for start in range(0, len(texts), 1000))
    return np.array([len(encoding.ids) for part in parts for encoding in part], dtype=int)


def length_summary(lengths: np.ndarray, max_tokens: int) -> dict[str, Any]:
    """Quantiles of the lengths in tokens, see QUANTILES, and the share of texts longer than `max_tokens`."""
    return {
        "quantiles": [round(float(value)) for value in np.quantile(lengths, QUANTILES)],
        "truncated": round(float((lengths > max_tokens).mean()), 4),
    }


def vocabulary_report(texts: Sequence[str], tokenizer: Tokenizer, known: set[str]) -> dict[str, Any]:
    """Out-of-vocabulary figures of cleaned texts, by running word.

    known: the words of the training posts, in lower case. unknown: share of words that hold an unknown token. pieces:
    tokens a word. unseen: share of words that are not known in any case, as to the linear model. broken: the words cut
    into the most pieces, and how many.
    """
    counts = word_counts(texts)
    words = sorted(counts)
    unk_id = next((i for i in map(tokenizer.token_to_id, ("[UNK]", "<unk>")) if i is not None), None)
    # Byte-level BPE knows a word within a text by the space before it.
    encodings = tokenizer.encode_batch([f" {word}" for word in words], add_special_tokens=False)
    total = max(counts.total(), 1)
    pieces = {word: len(encoding.ids) for word, encoding in zip(words, encodings, strict=True)}
    unknown = sum(counts[word] for word, encoding in zip(words, encodings, strict=True) if unk_id in encoding.ids)
    repeated = sorted((word for word in words if counts[word] >= 10), key=lambda word: -pieces[word])
    return {
        "unknown": round(unknown / total, 4),
        "pieces": round(sum(counts[word] * pieces[word] for word in words) / total, 4),
        "unseen": round(sum(count for word, count in counts.items() if word.lower() not in known) / total, 4),
        "broken": [[word, pieces[word]] for word in repeated[:10]],
    }


def word_counts(texts: Iterable[str]) -> Counter[str]:
    """How often each word occurs, words being what the linear model counts as such."""
    return Counter(word for text in texts for word in TOKEN.findall(text))


def oddities(text: str) -> list[str]:
    """What looks wrong in a post as it came: "language", "encoding", "long words" (encoded binaries, mostly)."""
    words = WORD.findall(text.lower())
    english = sum(word in ENGLISH_STOP_WORDS for word in words)
    found = {
        "language": len(words) >= FEW_WORDS and english < RARE * len(words),
        "encoding": bool(_BROKEN.search(text)),
        "long words": any(len(word) > LONG_WORD for word in text.split()),
    }
    return [name for name, odd in found.items() if odd]


def pair_counts(first: np.ndarray, pairs: np.ndarray, labels: Sequence[int]) -> tuple[int, int]:
    """Pairs of posts that are nearly the same, every repetition of a text counted, and those of two classes.

    first, pairs: see `near_duplicates`. labels: of the posts.
    """
    left, right = pairs.T
    copies = _counts(first, np.array(labels, dtype=int))

    def linked(counts: np.ndarray) -> int:
        return int((counts * (counts - 1) // 2).sum() + counts[left] @ counts[right])

    every = linked(copies.sum(axis=1))
    return every, every - sum(linked(own) for own in copies.T)


def duplicate_table(
    splits: Mapping[str, Sequence[str]], first: np.ndarray, pairs: np.ndarray
) -> tuple[list[list[Any]], dict[str, np.ndarray]]:
    """Posts of each split that have a near-duplicate in each split, and in brackets an exact one.

    splits: the texts, whose numbers run on from one split to the next in `first` and `pairs`, see `near_duplicates`.
    Returns rows of the table, [split, posts with one in the first split, …], and for each split a mask of its posts
    with one in the first split.
    """
    names = list(splits)
    texts = [text for part in splits.values() for text in part]
    place = np.repeat(np.arange(len(names)), [len(part) for part in splits.values()])
    # A post is no duplicate of itself.
    own = np.eye(len(names), dtype=int)[place]
    numbers: dict[str, int] = {}
    same = np.array([numbers.setdefault(text, len(numbers)) for text in texts], dtype=int)
    exact = _counts(same, place)[same] > own
    copies = _counts(first, place)
    beside = np.zeros(copies.shape, dtype=bool)
    for ones, others in (pairs.T, pairs.T[::-1]):
        for split, present in enumerate(copies.T > 0):
            beside[ones[present[others]], split] = True
    near = (copies[first] > own) | beside[first]
    rows = [
        [name, *(f"{near[place == i, j].sum()} ({exact[place == i, j].sum()})" for j in range(len(names)))]
        for i, name in enumerate(names)
    ]
    return rows, {name: near[place == i, 0] for i, name in enumerate(names)}


def _counts(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """How often each row and column come together, int [posts, columns]."""
    counts = np.zeros((len(rows), columns.max(initial=0) + 1), dtype=int)
    np.add.at(counts, (rows, columns), 1)
    return counts
