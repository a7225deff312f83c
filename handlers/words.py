"""What a word is, in any script: the one definition, of cleaning, of the linear part and of what describes a corpus."""

from __future__ import annotations

import re
import unicodedata

# Combining marks (the Unicode categories M*), the vowels of Devanagari, pointed Hebrew and many other scripts. Python's
# \w has none of them, which would take the words of such a script apart.
_MARKS = "".join(filter(lambda char: unicodedata.category(char).startswith("M"), map(chr, range(0x10000))))

# Letters with the marks on them.
WORD = re.compile(f"[^\\W\\d_]+(?:[{_MARKS}]+[^\\W\\d_]*)*")
# Of the linear part: as scikit-learn's own, letters, digits and underscores, two or more, but for the marks.
TOKEN = re.compile(f"\\w[\\w{_MARKS}]+")
