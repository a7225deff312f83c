"""Raw mails and news articles (RFC 5322, MIME): their subject and their plain text, whatever a sender made of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from email import message_from_bytes
from email.errors import HeaderParseError
from email.header import decode_header
from email.message import Message
from email.policy import Compat32

from handlers.charsets import Headers, codec

# The parser tries every line against every boundary that is open, so their product is what a hostile mail costs.
MAX_STEPS = 300_000
# Of one header. The parser takes quadratic time over some of them; a real one that counts here is far shorter.
MAX_HEADER = 2000


class MailError(Exception):
    """A mail that cannot be used. code: HTTP status. reason: what is wrong with it."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


@dataclass(frozen=True)
class Mail:
    """subject: in one line, empty where there is none. text: of the first plain part with anything in it, transfer
    encoding undone."""

    subject: str
    text: str


class _Bounded(Compat32):
    """The standard library's oldest policy, which leaves headers as they came, with a bound on their length."""

    def header_source_parse(self, sourcelines: list[str]) -> tuple[str, str]:
        name, value = super().header_source_parse(sourcelines)
        # A blank at its end would hide the name of a transfer encoding from the library.
        return name, value[:MAX_HEADER].rstrip()


_POLICY = _Bounded()


def read_mail(raw: bytes) -> Mail:
    """Parse a mail. Raises MailError where it holds no plain text, or so many lines and parts that it would take long
    to look for it."""
    # A line may end in LF, CR or both.
    lines = raw.count(b"\n") + raw.count(b"\r") - raw.count(b"\r\n")
    if lines * (1 + raw.lower().count(b"boundary")) > MAX_STEPS:
        raise MailError(413, "the mail has too many lines or parts")
    try:
        message = message_from_bytes(raw, Headers, policy=_POLICY)
        parts = [
            (_decoded(body, charset := part.get_content_charset()), charset)
            for part in _shown(message)
            if part.get_content_type() == "text/plain" and isinstance(body := part.get_payload(decode=True), bytes)
        ]
    except RecursionError:
        raise MailError(413, "the mail has too many lines or parts") from None
    if not parts:
        raise MailError(422, "the mail has no part of plain text")
    text, charset = next((part for part in parts if part[0].strip()), parts[0])
    return Mail(_subject(message.raw_items(), charset), text)


def _shown(part: Message) -> Iterator[Message]:
    """A part and those within it, but for attachments and what is in them."""
    if part.get_content_disposition() == "attachment":
        return
    yield part
    if part.is_multipart():
        for inner in part.get_payload():
            yield from _shown(inner)


def _subject(headers: Iterable[tuple[str, str]], charset: str | None) -> str:
    """The first subject, its encoded words (RFC 2047) decoded; bytes beyond ASCII are UTF-8 (RFC 6532), or else what
    the body is in."""
    value = next((value for name, value in headers if name.lower() == "subject"), "")
    raw = value.encode("ascii", "surrogateescape")
    # Unfolded first: at a fold the decoder loses the space.
    text = " ".join(_decoded(raw, "utf-8", charset).split())
    try:
        chunks = decode_header(text)
    except HeaderParseError:
        chunks = [(text, None)]
    words = (
        chunk if isinstance(chunk, str) else _decoded(chunk, charset or "raw-unicode-escape")
        for chunk, charset in chunks
    )
    return " ".join("".join(words).split())


def _decoded(raw: bytes, *charsets: str | None) -> str:
    """Text in the first of the charsets that fits, else in UTF-8, else in Latin-1, which always does.

    What a mail declares was written by its sender's program, not by the client, who can do nothing about it: a few
    letters that are spoilt cost less than a post that is refused for them.
    """
    for charset in filter(None, (*charsets, "utf-8")):
        with contextlib.suppress(LookupError, ValueError):
            return raw.decode(codec(charset))
    return raw.decode("latin-1")
