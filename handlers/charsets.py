"""What clients call their charsets. Python keeps every name by which it was ever asked for a codec, also where it knows
none, so theirs must not reach it."""

from __future__ import annotations

import encodings
import pkgutil
import re
from email.message import Message
from encodings.aliases import aliases
from typing import Any

# Names that Python does not have: Hebrew and Arabic with who orders the letters (RFC 1556), which changes no byte; and
# what Windows calls Japanese.
_MORE = {f"iso_8859_{part}_{order}": f"iso8859_{part}" for part in (6, 8) for order in "ei"} | {
    "cp31j": "cp932",
    "cswindows31j": "cp932",
}
# Python's own codecs that take quadratic time; no charset of any mail or web page.
_SLOW = {"idna", "punycode"}
# (Those that are not of text, such as base64, are refused by `bytes.decode`.)
_CODECS = {module.name for module in pkgutil.iter_modules(encodings.__path__)} - _SLOW


def codec(charset: str) -> str:
    """Python's own name, one of a fixed set, of the codec for a charset. Raises LookupError where there is none."""
    asked = encodings.normalize_encoding(charset.lower())
    # As Windows and older programs have it: windows-874, cp-1252, x-sjis.
    plain = re.sub(r"^(?:windows|cp)_(?=\d)", "cp", asked.removeprefix("x_"))
    for name in (asked, plain):
        found = _MORE.get(name) or aliases.get(name) or aliases.get(name.replace(".", "_")) or name
        if found in _CODECS:
            return found
    raise LookupError("no charset has this name")


class Headers(Message):
    """A message whose parameters in the syntax of RFC 2231 are taken undecoded: Python would decode them from a charset
    of the client's choice, which names of charsets and boundaries never need."""

    def get_param(self, param: str, failobj: Any = None, header: str = "content-type", unquote: bool = True) -> Any:
        """As the standard library's, but never a tuple, and `failobj` where it cannot read the header."""
        try:
            found = super().get_param(param, failobj, header, unquote)
        # Continuations that contradict each other, or with numbers of thousands of digits.
        except (TypeError, ValueError):
            return failobj
        return found[2] if isinstance(found, tuple) else found
