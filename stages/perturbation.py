"""Posts changed in a way that says what the answer must do: nothing of it knows any class or any corpus."""

from __future__ import annotations

import random
import re

import numpy as np

from handlers.linear import Linear
from handlers.words import WORD

# Given names that were common in the United States of the 1990 census and seldom are another word.
_CENSUS = (
    "Andrew Anthony Barbara Brian Carol Charles Christopher Daniel Deborah Donna Edward Elizabeth George Helen James "
    "Jason Jeffrey Jennifer John Joseph Karen Kenneth Kevin Laura Linda Lisa Margaret Maria Matthew Michael Nancy "
    "Patricia Paul Richard Robert Ronald Ruth Sandra Sarah Sharon Steven Susan Thomas Timothy William"
)
GIVEN_NAMES = tuple(_CENSUS.split())
WORDS_PER_TYPO = 20
SHORTEST_TYPO = 4  # letters of a word that gets one

_NAME = re.compile(rf"\b({'|'.join(GIVEN_NAMES)})\b", re.IGNORECASE | re.ASCII)
_WORD = re.compile(r"\S+")


def other_name(text: str, numbers: random.Random) -> str | None:
    """Each given name of the post replaced by another, in its case, two names by two; None where there is none."""
    # Every name becomes the next one of a circle, so that none stays and no two meet.
    circle = numbers.sample(GIVEN_NAMES, len(GIVEN_NAMES))
    following = {name.lower(): after for name, after in zip(circle, [*circle[1:], circle[0]], strict=True)}

    def replace(match: re.Match[str]) -> str:
        name = following[match[0].lower()]
        return name.lower() if match[0].islower() else name.upper() if match[0].isupper() else name

    changed, found = _NAME.subn(replace, text)
    return changed if found else None


def typos(text: str, numbers: random.Random) -> str | None:
    """Two neighbouring letters swapped in one of WORDS_PER_TYPO words, at least in one; None where no word is long
    enough and has two that differ (CheckList's typo, by rate, since posts are longer than its sentences)."""
    words = [places for match in _WORD.finditer(text) if (places := _swaps(match))]
    if not words:
        return None
    letters = list(text)
    for places in numbers.sample(words, max(1, len(words) // WORDS_PER_TYPO)):
        place = numbers.choice(places)
        letters[place], letters[place + 1] = letters[place + 1], letters[place]
    return "".join(letters)


def _swaps(match: re.Match[str]) -> list[int]:
    """Places in the text where a word's letter can be swapped with the next; none where it is too short, or no word."""
    word = match[0].strip(".,;:!?\"'()")
    if sum(map(str.isalpha, word)) < SHORTEST_TYPO or not WORD.fullmatch(word):
        return []
    start = match.start() + match[0].index(word)
    # The first letter stays, as it does in most of people's own typos.
    pairs = ((place, word[place : place + 2]) for place in range(1, len(word) - 1))
    return [start + place for place, (one, other) in pairs if one.isalpha() and other.isalpha() and one != other]


def signature(text: str, numbers: random.Random) -> str:
    """A mail signature at the end: greeting, a name and a telephone number."""
    first, last = numbers.sample(GIVEN_NAMES, 2)
    number = f"{numbers.randrange(200, 1000)}-{numbers.randrange(100, 1000)}-{numbers.randrange(10_000):04d}"
    return f"{text}\n\nBest regards,\n{first}\n-- \n{first} {last}    Phone: {number}\n"


def shouting(text: str, numbers: random.Random) -> str:
    """Upper case, a comma after some of the words and exclamation marks at the end."""
    return " ".join(word + "," * (numbers.random() < 0.2) for word in text.upper().split()) + "!!!"


def topical_words(linear: Linear, top: int) -> list[list[str]]:
    """Of every class at most `top` single words that speak for it, by the linear part's weights, strongest first."""
    single = np.array([position for position, term in enumerate(linear.terms) if " " not in term])
    words = []
    for weights in linear.weights[single].T:
        strongest = np.argsort(-weights, kind="stable")[:top]
        words.append([linear.terms[single[place]] for place in strongest if weights[place] > 0])
    return words
