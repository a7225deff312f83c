"""Text in any charset: declared, unreadable, unknown, or no charset at all."""

from __future__ import annotations

import codecs
import encodings
import json
from encodings.aliases import aliases

import pytest

from handlers.charsets import codec
from handlers.requests import parse
from tests.received import JSON, UNREADABLE, parsed_or_refused, received, refusal


def test_declared_charset_is_followed() -> None:
    latin = "Grüße an den Fahrer".encode("latin-1")
    assert parse(*received(bytearray(latin), "text/plain", header="text/plain; charset=latin-1")).posts == (
        "Grüße an den Fahrer",
    )
    # The server decodes UTF-8 by itself, here wrongly: the Latin-1 bytes of "Ã¼" are UTF-8 of "ü".
    assert parse(*received("ü car", "text/plain", header="text/plain; charset=iso-8859-1")).posts == ("Ã¼ car",)
    assert parse(*received(bytearray(json.dumps("a post").encode("utf-16")), JSON)).posts == ("a post",)


@pytest.mark.parametrize("media", [JSON, "text/json"])
def test_the_charset_of_json_is_followed(media: str) -> None:
    value = bytearray(json.dumps({"text": "Grüße"}, ensure_ascii=False).encode("latin-1"))
    assert parse(*received(value, media, header=f"{media}; charset=iso-8859-1")).posts == ("Grüße",)
    assert refusal(value, media, header=f"{media}; charset=utf-8").code == 415


def test_a_charset_that_is_not_known_is_told_from_one_that_does_not_fit() -> None:
    assert refusal(bytearray(b"\xe9"), "text/plain", header="text/plain; charset=klingon").reason == (
        "the declared charset is not known"
    )
    assert refusal(bytearray(b"\xe9"), "text/plain", header="text/plain; charset=utf-8").reason == (
        "the bytes are not text in the declared charset"
    )


@pytest.mark.parametrize("parameter", UNREADABLE)
@pytest.mark.parametrize("media", [JSON, "text/plain", "message/rfc822", ""])
def test_a_charset_that_cannot_be_read_is_unknown_or_none(media: str, parameter: str) -> None:
    value = bytearray(b'{"text": "a car"}')
    parsed_or_refused(value, media, f"{media or 'application/octet-stream'}; {parameter}")
    parsed_or_refused(value, f"{media}; {parameter}", None)


def test_names_of_charsets_leave_nothing_behind() -> None:
    def ask(name: str) -> None:
        for header in (f"text/plain; charset={name}", f"text/plain; charset*={name}''{name}"):
            parsed_or_refused(bytearray(b"a car"), "text/plain", header)
        for head in (
            f"Subject: =?{name}?q?a_car?=",
            f"Content-Type: text/plain; charset={name}",
            f"Content-Type: text/plain; charset*={name}''{name}",
            f"Content-Type: multipart/mixed; boundary*={name}''x",
        ):
            parsed_or_refused(
                bytearray(f"{head}\n\n--x\n\na car \xe9\n--x--\n".encode("latin-1")), "message/rfc822", None
            )

    ask("utf-8")
    kept = len(encodings._cache)
    for number in range(20):
        ask(f"klingon-{number}")
    assert len(encodings._cache) == kept


@pytest.mark.parametrize(
    "name", ["base64", "hex", "rot13", "zlib", "undefined", "idna", "punycode", "mbcs", "aliases", "os"]
)
def test_codecs_that_are_no_charset_are_refused(name: str) -> None:
    assert refusal("a", "text/plain", header=f"text/plain; charset={name}").code == 415


def test_every_charset_of_python_is_known_by_each_of_its_names() -> None:
    for name in (*aliases, *aliases.values()):
        try:
            expected = codecs.lookup(name)
        except LookupError:
            continue
        if expected.name not in ("idna", "punycode"):
            assert (
                codecs.lookup(codec(name)).name
                == codecs.lookup(codec(name.upper().replace("_", "-"))).name
                == expected.name
            )


def test_half_a_surrogate_pair_is_replaced() -> None:
    assert parse(*received({"text": "car \ud83d"}, JSON)).posts == ("car ?",)
