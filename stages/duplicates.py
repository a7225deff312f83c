"""Posts that are nearly the same text, by MinHash, and groups of posts that belong together."""

from __future__ import annotations

import zlib
from array import array
from collections import Counter
from collections.abc import Sequence

import numpy as np
from datasketch import MinHash, MinHashLSH
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from handlers.words import WORD

# Near-duplicates share at least this part of their distinct runs of SHINGLE words (Jaccard similarity).
THRESHOLD = 0.5
SHINGLE = 5

_PERMUTATIONS = 128
# Every candidate is compared exactly, so a false one costs a moment, but a missed one is lost.
_WEIGHTS = (0.1, 0.9)

# Two words put whole topics ("for sale") on one side, which costs training half a point of accuracy.
_SUBJECT_WORDS = 3
_REPLY = frozenset({"re", "fwd", "fw", "was", "subject"})
# A beginning that more posts have, and more than this part of all, is a greeting or a form's header. The longest thread
# of the package-index corpus is 0.7% of it.
_HANDFUL = 20
_COMMON = 0.01

_PAIRS_AT_ONCE = 200_000


def near_duplicates(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """For each post the first one with the same runs of words, numbers left out, int [posts]; and pairs of such first
    posts whose similarity is THRESHOLD or more, int32 [pairs, 2], each (earlier, later), in order of the later one. The
    same for the same texts.

    Repetitions stand in no pair of their own, for n posts of one text would make n² / 2. So many are made by n posts of
    one form that is filled in with other words.

    Candidates come from MinHash and locality-sensitive hashing (Broder 1997; Leskovec et al., Mining of Massive
    Datasets, chapter 3) and each is then compared exactly: no pair is false, and few are missed.
    """
    numbers: dict[frozenset[bytes], int] = {}
    first = [numbers.setdefault(_shingles(text), number) for number, text in enumerate(texts)]
    shingles = {number: own for own, number in numbers.items()}
    index = MinHashLSH(threshold=THRESHOLD, num_perm=_PERMUTATIONS, weights=_WEIGHTS)
    # Tuples would take ten times the memory: gigabytes for ten thousand posts of one form.
    pairs = array("i")
    # Python's own hash of a string differs between runs.
    sketches = MinHash.generator(shingles.values(), num_perm=_PERMUTATIONS, seed=1, hashfunc=zlib.crc32)
    for later, sketch in zip(shingles, sketches, strict=True):
        for earlier in sorted(index.query(sketch)):
            if _alike(shingles[earlier], shingles[later]):
                pairs.extend((earlier, later))
        index.insert(later, sketch)
    return np.array(first, dtype=int), np.asarray(pairs, dtype=np.int32).reshape(-1, 2)


def threads(texts: Sequence[str]) -> np.ndarray:
    """Pairs of posts that begin with the same words, replies' marks left out: int32 [pairs, 2], each (first of its
    thread, other).

    A news post starts with its subject line in the package-index corpus, and a reply repeats it. Where posts begin with
    something else, as scikit-learn's do, there are no threads to be seen, and this groups posts that happen to begin
    alike. What more posts than _HANDFUL and _COMMON begin with joins none.
    """
    subjects = [_subject(text) for text in texts]
    counts = Counter(subjects)
    most = max(_HANDFUL, _COMMON * len(texts))
    first: dict[str, int] = {}
    pairs = [
        (first[key], number)
        for number, key in enumerate(subjects)
        if counts[key] <= most and first.setdefault(key, number) != number
    ]
    return np.array(pairs, dtype=np.int32).reshape(-1, 2)


def groups(count: int, pairs: np.ndarray) -> np.ndarray:
    """The group of each of `count` posts, int [posts]: whatever pairs, int [pairs, 2], connect, over any number of
    steps, is one."""
    group = np.arange(count)
    # In parts, for a graph takes many times the memory of its pairs.
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        left, right = group[pairs[start : start + _PAIRS_AT_ONCE]].T
        graph = coo_array((np.ones(len(left)), (left, right)), shape=(count, count))
        group = connected_components(graph, directed=False)[1][group]
    return group


def _shingles(text: str) -> frozenset[bytes]:
    # Cleaning leaves letters alone unless told otherwise: posts that differ in a number are one text to the model.
    words = WORD.findall(text.lower()) or text.lower().split()
    return frozenset(" ".join(words[i : i + SHINGLE]).encode() for i in range(max(1, len(words) - SHINGLE + 1)))


def _alike(first: frozenset[bytes], second: frozenset[bytes]) -> bool:
    shared = len(first & second)
    return shared >= THRESHOLD * (len(first) + len(second) - shared)


def _subject(text: str) -> str:
    words = WORD.findall(text[:400].lower())
    start = next((i for i, word in enumerate(words) if word not in _REPLY), 0)
    return " ".join(words[start : start + _SUBJECT_WORDS])
