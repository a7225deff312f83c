"""What a model must do whatever its score, tested as CheckList does, with its shipped answers: cascade and all.

Ribeiro et al. 2020, https://aclanthology.org/2020.acl-main.442: invariance (the label stays), direction (a probability
rises), minimum functionality (what is obvious is right).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import binomtest

from handlers.predictor import Answer, Predictor
from stages import perturbation
from stages.metrics import rounded

TOPICAL = 20  # words of each class that count as its own
SHORT_POST = 4  # words of a post of minimum functionality

INVARIANCES: dict[str, Callable[[str, random.Random], str | None]] = {
    "name": perturbation.other_name,
    "typo": perturbation.typos,
    "signature": perturbation.signature,
    "shouting": perturbation.shouting,
}


@dataclass(frozen=True)
class Case:
    """One post of a test. before: the post and its answer, None where the test has none; expected: in plain words."""

    before: tuple[str, Answer] | None
    after: tuple[str, Answer]
    expected: str
    failed: bool


def behave(
    predictor: Predictor, ids: Sequence[str], texts: Sequence[str], posts: int, seed: int
) -> dict[str, dict[str, list[Case]]]:
    """Kind of test to its name to its cases, at most `posts` each, of raw posts sampled in one seeded order."""
    order = random.Random(seed).sample(range(len(texts)), len(texts))
    sample = [(ids[i], texts[i]) for i in order]
    own = perturbation.topical_words(predictor.linear, TOPICAL)
    return {
        "invariance": {
            name: invariance(predictor, changed(sample, change, f"{seed}:{name}", posts, predictor.cleaning))
            for name, change in INVARIANCES.items()
        },
        "direction": {"topical_word": direction(predictor, sample[:posts], own, seed)},
        "minimum": {"topical_words": minimum(predictor, own, posts, seed)},
    }


def changed(
    sample: Sequence[tuple[str, str]],
    change: Callable[[str, random.Random], str | None],
    seed: str,
    posts: int,
    cleaning: Callable[[str], str],
) -> list[tuple[str, str]]:
    """The first `posts` of the (id, text) that can be changed so, as (text, changed text); a generator a post.

    A change of which cleaning leaves nothing tests nothing, and does not count.
    """
    pairs: list[tuple[str, str]] = []
    for identifier, text in sample:
        if len(pairs) == posts:
            break
        after = change(text, random.Random(f"{seed}:{identifier}"))
        if after is not None and cleaning(after) != cleaning(text):
            pairs.append((text, after))
    return pairs


def invariance(predictor: Predictor, pairs: Sequence[tuple[str, str]]) -> list[Case]:
    """The label of the changed post must be that of the post as it was."""
    before, after = (list(zip(texts, predictor.predict(texts), strict=True)) for texts in _columns(pairs))
    return [
        Case(was, now, expected=was[1].label, failed=now[1].label != was[1].label)
        for was, now in zip(before, after, strict=True)
    ]


def direction(
    predictor: Predictor, sample: Sequence[tuple[str, str]], own: Sequence[Sequence[str]], seed: int
) -> list[Case]:
    """A word that speaks for another class, put in front where both parts read it, must raise that class, as shipped
    and by the full model; posts that no other class has a word for are left out.

    The words are the wide part's own, which in the cascade mostly answers alone: that would hardly be a test.
    """
    texts = [text for _, text in sample]
    tested, chosen = [], []
    for (identifier, text), answer in zip(sample, predictor.predict(texts), strict=True):
        numbers = random.Random(f"{seed}:direction:{identifier}")
        others = [label for label, name in enumerate(predictor.labels) if name != answer.label and own[label]]
        if others:
            label = numbers.choice(others)
            tested.append(text)
            chosen.append((label, numbers.choice(own[label])))
    longer = [f"{word} {text}" for text, (_, word) in zip(tested, chosen, strict=True)]
    # Shipped, then the full model.
    before, after = (
        zip(predictor.predict(posts), predictor.predict(posts, [False] * len(posts)), strict=True)
        for posts in (tested, longer)
    )
    cases = []
    for text, more, was, now, (label, word) in zip(tested, longer, before, after, chosen, strict=True):
        pairs = list(zip(was, now, strict=True))
        wrong = [pair for pair in pairs if pair[1].probabilities[label] <= pair[0].probabilities[label]]
        first, second = (wrong or pairs)[0]
        expected = f"{predictor.labels[label]} gains from {word}"
        cases.append(Case((text, first), (more, second), expected, failed=bool(wrong)))
    return cases


def minimum(predictor: Predictor, own: Sequence[Sequence[str]], posts: int, seed: int) -> list[Case]:
    """A few words that all speak for one class must be answered with it, as shipped and by the full model; the same
    number of posts a class. Classes without words have none.

    The words are the wide part's own, which in the cascade mostly answers alone: that would hardly be a test.
    """
    spoken_for = {label: words for label, words in zip(predictor.labels, own, strict=True) if words}
    texts, expected = [], []
    for label, words in spoken_for.items():
        numbers = random.Random(f"{seed}:minimum:{label}")
        for _ in range(max(1, posts // len(spoken_for))):
            texts.append(" ".join(numbers.sample(words, min(SHORT_POST, len(words)))))
            expected.append(label)
    shipped, full = predictor.predict(texts), predictor.predict(texts, [False] * len(texts))
    cases = []
    for text, label, *answers in zip(texts, expected, shipped, full, strict=True):
        wrong = [answer for answer in answers if answer.label != label]
        cases.append(Case(None, (text, (wrong or answers)[0]), expected=label, failed=bool(wrong)))
    return cases


def failures(cases: Sequence[Case]) -> dict[str, Any]:
    """How many posts, the share that failed, and its 95% interval (Wilson 1927); both None where there was no post."""
    if not cases:
        return {"posts": 0, "failed": None, "failed_95": None}
    failed = sum(case.failed for case in cases)
    low, high = binomtest(failed, len(cases)).proportion_ci(method="wilson")
    return rounded({"posts": len(cases), "failed": failed / len(cases), "failed_95": [float(low), float(high)]})


def _columns(pairs: Sequence[tuple[str, str]]) -> tuple[list[str], list[str]]:
    return [before for before, _ in pairs], [after for _, after in pairs]
