"""A request's body as text or as what its JSON says, whatever it came as: bytes, a form's field, a mail."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from handlers.charsets import Headers, codec
from handlers.errors import RequestError
from handlers.mail import MailError, read_mail

_UNDECLARED = ("", "application/octet-stream")
_MAIL_TYPES = ("message/rfc822", "message/global", "message/news")
_FORM_TYPES = ("multipart/form-data", "application/x-www-form-urlencoded")
# An object or a list of strings or objects, as far as its beginning tells; and what is an object and no text.
_LIKE_JSON, _OBJECT = re.compile(r'\s*(?:\{|\[\s*["{])'), re.compile(r'\s*\{\s*"')
# How a client of the Open Inference Protocol says that raw tensors follow its JSON.
_BINARY = "inference-header-content-length"
HOW = 'send the post as text/plain, as message/rfc822, as JSON {"text": "..."}, or as a form field or file named data'


def document(row: Mapping[str, Any], headers: Mapping[str, Any], field: str) -> Any:
    """The value of `field` of a row as TorchServe hands it over: text, or what its JSON says. Raises RequestError."""
    media, charset = _content_type(field, headers)
    value = row[field]
    if media == "application/json":
        # The server has parsed it already, unless that failed.
        return _declared_json(value, charset, field) if isinstance(value, bytes | bytearray) else value
    if media == "text/json":
        # Which the server takes for text like any other.
        return _declared_json(value, charset, field)
    if media in _MAIL_TYPES:
        return _mail(_raw(value, field), field)
    if media.startswith("text/"):
        return decode(value, charset, field)
    if media not in _UNDECLARED:
        raise RequestError(415, "the content type is not one that holds text", field, HOW)
    if any(name.lower() == _BINARY for name in headers):
        mend = 'send the tensor as JSON: {"inputs": [{..., "data": ["..."]}]}'
        raise RequestError(415, "binary tensors are not read", field, mend, tensors=True)
    return _undeclared(decode(value, charset, field).removeprefix("\ufeff"), field)


def is_form(content_type: str) -> bool:
    """Whether a request's content type is that of a form, whose fields have types of their own."""
    return content_type.lower().startswith(_FORM_TYPES)


def _undeclared(text: str, field: str) -> Any:
    """What a body says that is not declared, as those of `curl -T` are not: JSON is taken for what it plainly is."""
    if not _LIKE_JSON.match(text):
        return text
    try:
        return _json(text, field)
    except RequestError as error:
        if _OBJECT.match(text):
            mend = f"{error.mend}; or declare it as text/plain where it is a post"
            raise RequestError(error.code, error.reason, field, mend) from None
        return text


def decode(value: Any, charset: str | None, field: str) -> str:
    """Text of a body or a form's field; UTF-8 where no charset is declared. Raises RequestError."""
    raw = _raw(value, field)
    try:
        return raw.decode(codec(charset or "utf-8"))
    except (LookupError, ValueError) as error:
        reason = "the bytes are not text in the declared charset" if charset else "the bytes are not UTF-8 text"
        if isinstance(error, LookupError):
            reason = "the declared charset is not known"
        mend = "send UTF-8, or name the charset in the request's content type (of a form's fields none gets here)"
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
    return f"{mail.subject}\n\n{mail.text}" if mail.subject else mail.text


def _declared_json(value: Any, charset: str | None, field: str) -> Any:
    """What JSON says; in UTF-8, UTF-16 or UTF-32 where no charset is declared, which JSON need not."""
    return _json(decode(value, charset, field).removeprefix("\ufeff") if charset else _raw(value, field), field)


def _json(value: bytes | str, field: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise RequestError(400, "the body is not valid JSON", field, 'send JSON such as {"text": "..."}') from None


def _content_type(field: str, headers: Mapping[str, Any]) -> tuple[str, str | None]:
    """Media type, empty where none is declared, or nothing that is one, and charset of a field."""
    part = headers.get(field)
    declared = part.get("content-type", "") if isinstance(part, dict) else ""
    if field == "body":
        # The server hands on the media type alone; the charset is left in the request's own header. (A form's own is of
        # the form, not of a field that happens to be called body.)
        names = {name.lower(): value for name, value in headers.items() if isinstance(value, str)}
        whole = names.get("content-type", declared)
        declared = declared if is_form(whole) else whole
    if not declared:
        return "", None
    message = Headers()
    message["content-type"] = declared
    # What is no type and subtype the library would take for text/plain.
    known = declared.partition(";")[0].count("/") == 1
    return message.get_content_type() if known else "", message.get_content_charset()
