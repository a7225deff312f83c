"""Synonyms from WordNet 3.0, in the inflection of the word that they stand for."""

from __future__ import annotations

import warnings
from collections import defaultdict
from pathlib import Path

import nltk
from nltk.corpus.reader.wordnet import WordNetCorpusReader

from stages.stage import StageError

# Nouns, verbs, adjectives, adverbs: as WordNet names them, and as it names its files.
_PARTS = {"n": "noun", "v": "verb", "a": "adj", "r": "adv"}


class _Reader(WordNetCorpusReader):
    """NLTK's reader without its map between versions, for which it would look for a download of its own."""

    def map_wn(self, *_version: str) -> None:
        return None


class WordNet:
    """Synonyms of single words, from a folder of WordNet 3.0 files.

    No tagger: a word counts as the part of speech, and as the sense, in which it is most frequent in the texts that
    WordNet's authors tagged (https://wordnet.princeton.edu/documentation/cntlist5wn). What they never met, as a sense
    or as a word for it, is left out: mostly names, abbreviations and curiosities ("hebdomad" for week). So are words of
    one or two letters. Plurals and the verb's -s, -ed and -ing are carried over.
    """

    def __init__(self, folder: Path) -> None:
        """Raises StageError where the folder is missing or NLTK cannot read it."""
        if not folder.is_dir():
            raise StageError(f"{folder} is missing: run the fetch stage (dvc repro fetch)")
        root = str(folder.resolve())
        if root not in nltk.data.path:
            # NLTK reads only folders that were named to it.
            nltk.data.path.append(root)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The multilingual functions")
                self._reader = _Reader(root, omw_reader=None)
            self._counts = _counts(folder / "cntlist.rev")
            self._irregular = {part: _exceptions(folder / f"{name}.exc") for part, name in _PARTS.items()}
        except (OSError, LookupError) as error:
            raise StageError(f"{folder} is no readable WordNet ({error}): dvc repro --force fetch") from error

    def __call__(self, word: str) -> list[str]:
        """Synonyms of a word in lower case, in its own inflection, the most frequent one first; without the word."""
        if len(word) < 3:
            return []
        senses = [self._first_sense(word, part) for part in _PARTS]
        count, part, base, lemmas = max(senses, key=lambda sense: sense[0])
        if not count:
            return []
        ending = _ending(word, base, part)
        forms = (self._inflect(lemma, ending, part) for lemma in lemmas if lemma.isalpha() and lemma.islower())
        return [form for form in forms if form and form != word]

    def _first_sense(self, word: str, part: str) -> tuple[int, str, str, list[str]]:
        """The most frequent sense of the word as this part of speech: (count, part, base form, lemmas by count)."""
        base = self._reader.morphy(word, part)
        if base is None:
            return 0, part, word, []
        # WordNet lists the senses of a word by frequency.
        lemmas = self._reader.synsets(base, part)[0].lemmas()
        counts = {lemma.name(): self._counts.get(lemma.key(), 0) for lemma in lemmas}
        own = max((count for name, count in counts.items() if name.lower() == base), default=0)
        return own, part, base, sorted(filter(counts.get, counts), key=lambda name: -counts[name])

    def _inflect(self, lemma: str, ending: str | None, part: str) -> str | None:
        """The lemma with an ending, None where only a dictionary of irregular forms could tell."""
        if not ending:
            return lemma if ending == "" else None
        forms = self._irregular[part][lemma]
        if fitting := [form for form in forms if form.endswith(ending)]:
            return fitting[0]
        # "ran" or "children": the regular "runed" and "childs" would be no words.
        if forms and (part, ending) in {("n", "s"), ("v", "ed")}:
            return None
        return _regular(lemma, ending)


def _ending(word: str, base: str, part: str) -> str | None:
    """The inflection of a word: "" for none, None for one that is not carried over."""
    if word == base:
        return ""
    if part == "n":
        return "s"
    if part == "v":
        return next((ending for ending in ("ing", "ed", "s") if word.endswith(ending)), None)
    return None


def _regular(lemma: str, ending: str) -> str:
    """The lemma with -s, -ed or -ing by the rules of English spelling."""
    if lemma.endswith("y") and lemma[-2:-1] not in tuple("aeiou") and ending != "ing":
        return lemma[:-1] + ("ies" if ending == "s" else "ied")
    if ending == "s":
        return lemma + ("es" if lemma.endswith(("s", "x", "z", "ch", "sh")) else "s")
    if ending == "ing" and lemma.endswith("ie"):
        return lemma[:-2] + "ying"
    if lemma.endswith("e") and not (ending == "ing" and lemma.endswith(("ee", "oe", "ye"))):
        return lemma[:-1] + ending
    return lemma + ending


def _counts(path: Path) -> dict[str, int]:
    """How often each sense key was met, from WordNet's lines of `key sense count`; NLTK's own look-up takes a
    millisecond a word, half of the stage's time."""
    rows = (line.split() for line in path.read_text(encoding="utf-8").splitlines())
    return {key: int(count) for key, _, count in rows}


def _exceptions(path: Path) -> defaultdict[str, list[str]]:
    """Irregular forms of each base form, from WordNet's lines of `form base [base]`."""
    forms: defaultdict[str, list[str]] = defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines():
        form, *bases = line.split()
        for base in bases:
            forms[base].append(form)
    return forms
