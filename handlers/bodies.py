"""A request's body as text or as what its JSON says, whatever it came as: bytes, a form's field, a mail."""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping
from email.message import Message
from typing import Any

from handlers.errors import RequestError
from handlers.mail import MailError, read_mail

_PLAIN_TYPES = ("", "application/octet-stream")
_MAIL_TYPES = ("message/rfc822", "message/global", "message/news")
# Python's own codecs that take quadratic time; no charset of any mail or web page.
_SLOW_CODECS = ("idna", "punycode")
HOW = 'send the post as text/plain, as message/rfc822, as JSON {"text": "..."}, or as a form field or file named data'


def document(row: Mapping[str, Any], headers: Mapping[str, Any], field: str) -> Any:
    """The value of `field` of a row as TorchServe hands it over: text, or what its JSON says. Raises RequestError."""
    media, charset = _content_type(field, headers)
    value = row[field]
    if media == "application/json":
        # The server has parsed it already, unless that failed.
        return _json(bytes(value), field) if isinstance(value, bytes | bytearray) else value
    if media in _MAIL_TYPES:
        return _mail(_raw(value, field), field)
    if not (media in _PLAIN_TYPES or media.startswith("text/")):
        raise RequestError(415, "the content type is not one that holds text", field, HOW)
    text = decode(value, charset, field)
    # `curl -T` declares nothing, so an undeclared JSON object is taken for what it plainly is.
    if not media.startswith("text/") and text.lstrip().startswith("{"):
        try:
            return _json(text, field)
        except RequestError:
            return text
    return text


def decode(value: Any, charset: str | None, field: str) -> str:
    """Text of a body or a form's field; UTF-8 where no charset is declared. Raises RequestError."""
    raw = _raw(value, field)
    try:
        codec = codecs.lookup(charset or "utf-8").name
        if codec in _SLOW_CODECS:
            raise LookupError(codec)
        return raw.decode(codec)
    except (LookupError, ValueError):
        reason = "the bytes are not text in the declared charset" if charset else "the bytes are not UTF-8 text"
        mend = "send text in UTF-8, or name its charset in the content type"
        raise RequestError(415, reason, field, mend) from None


def _raw(value: Any, field: str) -> bytes:
    # The server decodes text as UTF-8 without looking at the charset: back to bytes.
    raw = value.encode("utf-8", "replace") if isinstance(value, str) else value
    if not isinstance(raw, bytes | bytearray):
        raise RequestError(415, "the value is not text", field, HOW)
    return bytes(raw)


def _mail(raw: bytes, field: str) -> str:
    """Subject and text of a mail, with an empty line between them."""
    try:
        mail = read_mail(raw)
    except MailError as error:
        raise RequestError(error.code, error.reason, field, "send the mail's own text as text/plain") from None
    body = decode(mail.text, mail.charset, field)
    return f"{mail.subject}\n\n{body}" if mail.subject else body


def _json(value: bytes | str, field: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise RequestError(400, "the body is not valid JSON", field, 'send JSON such as {"text": "..."}') from None


def _content_type(field: str, headers: Mapping[str, Any]) -> tuple[str, str | None]:
    """Media type, empty where none is declared, and charset of a field."""
    part = headers.get(field)
    declared = part.get("content-type", "") if isinstance(part, dict) else ""
    if field == "body":
        # The server hands on the media type alone; the charset is left in the request's own header.
        names = {name.lower(): value for name, value in headers.items() if isinstance(value, str)}
        declared = names.get("content-type", declared)
    if not declared:
        return "", None
    message = Message()
    message["content-type"] = declared
    return message.get_content_type(), message.get_content_charset()
