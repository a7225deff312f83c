"""What a word is, in any script: the one definition, of cleaning, of the linear part and of what describes a corpus.

Combining marks are the vowels of Devanagari, pointed Hebrew and many other scripts, and joiners stand within words of
Persian or Sinhala. Python's own classes of characters take such words apart; by Unicode's rule nothing breaks before
either (https://www.unicode.org/reports/tr29/#WB4).
"""

from __future__ import annotations

import re
import unicodedata
from itertools import groupby


def _marks() -> str:
    """All combining marks (the Unicode categories M*), as the ranges of a regular expression's set."""
    # Beyond them there are only the selectors of an ideograph's variants, which cleaning drops.
    codes = [code for code in range(0x300, 0x20000) if unicodedata.category(chr(code)).startswith("M")]
    runs = (list(run) for _, run in groupby(enumerate(codes), lambda pair: pair[1] - pair[0]))
    return "".join(f"{chr(run[0][1])}-{chr(run[-1][1])}" for run in runs)


_MARKS, _JOINERS = _marks(), "\u200c\u200d"
# What can be neither is soon told; to look through all the ranges would double the time for English.
_HIGH = "(?![\\0-\u02ff])"


def _word(letter: str) -> str:
    """A run of letters with the marks on them and the joiners between them."""
    return f"{letter}+(?:{_HIGH}[{_MARKS}{_JOINERS}]+{letter}+)*(?:{_HIGH}[{_MARKS}]+)?"


WORD = re.compile(_word(r"[^\W\d_]"))
# Of the linear part: of letters, digits and underscores, two characters or more, as scikit-learn's own.
TOKEN = re.compile(rf"(?=\w(?:\w|{_HIGH}[{_MARKS}]))" + _word(r"\w"))
