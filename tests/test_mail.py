"""Raw mails: charsets of headers and bodies, transfer encodings, parts, and mails that nobody should send."""

# Mails in other alphabets hold letters that look like Latin ones, on purpose.
# ruff: noqa: RUF001

from __future__ import annotations

from email.message import EmailMessage

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handlers.bodies import document
from handlers.errors import RequestError
from handlers.mail import MAX_HEADER, MailError, read_mail


def text(raw: bytes) -> str:
    """The post that a request with this mail as its body is about."""
    return document({"body": bytearray(raw)}, {"body": {"content-type": "message/rfc822"}}, "body")


@pytest.mark.parametrize("charset", ["utf-8", "koi8-r", "windows-1251", "iso-8859-5"])
@pytest.mark.parametrize("encoding", ["base64", "quoted-printable"])
def test_charsets_and_transfer_encodings(charset: str, encoding: str) -> None:
    message = EmailMessage()
    message["Subject"] = "Ремонт машины, part two"
    message.set_content("Масло для двигателя\n", charset=charset, cte=encoding)
    assert text(message.as_bytes()) == "Ремонт машины, part two\n\nМасло для двигателя\n"


@pytest.mark.parametrize("encoding", ["b", "q"])
def test_encoded_words_of_several_charsets(encoding: str) -> None:
    words = {"b": (b"=?koi8-r?B?7cHbyc7B?=", b"=?latin-1?b?Z3Ln3w==?="), "q": (b"=?koi8-r?Q?=ED=C1=DB=C9=CE=C1?=",)}
    subject = b" and ".join(words[encoding])
    assert text(b"SUBJECT: Re:\n " + subject + b"\n\nbody").startswith("Re: Машина")


@pytest.mark.parametrize(("charset", "declared"), [("utf-8", ""), ("koi8-r", "koi8-r"), ("utf-8", "koi8-r")])
def test_subjects_of_plain_bytes(charset: str, declared: str) -> None:
    kind = f"Content-Type: text/plain; charset={declared}\n" if declared else ""
    raw = "Subject: Машина\n".encode(charset) + kind.encode() + b"\n" + "масло".encode(declared or charset)
    assert text(raw) == "Машина\n\nмасло"


def test_the_plain_part_of_several() -> None:
    message = EmailMessage()
    message["Subject"] = "Grüße"
    message.set_content("the engine\n")
    message.add_alternative("<p>the engine</p>", subtype="html")
    message.add_attachment(b"\x89PNG", maintype="image", subtype="png", filename="engine.png")
    message.add_attachment("not this one", filename="notes.txt")
    assert text(message.as_bytes()) == "Grüße\n\nthe engine\n"


def test_an_attached_mail_is_not_read() -> None:
    inner = EmailMessage()
    inner.set_content("somebody else's text\n")
    message = EmailMessage()
    message.add_attachment(inner)
    message.add_attachment("<p>mine</p>", subtype="html", disposition="inline")
    with pytest.raises(RequestError, match="no part of plain text"):
        text(message.as_bytes())
    message.add_attachment("mine\n", disposition="inline")
    assert text(message.as_bytes()) == "mine\n"


def test_a_part_that_is_empty_gives_way_to_one_with_text() -> None:
    message = EmailMessage()
    message.add_attachment("\u00a0\n", disposition="inline")
    assert text(message.as_bytes()) == "\u00a0\n"
    message.add_attachment("the engine\n", disposition="inline")
    assert text(message.as_bytes()) == "the engine\n"


@pytest.mark.parametrize("encoding", ["Quoted-Printable ", "quoted-printable\t"])
def test_a_blank_behind_the_transfer_encoding_does_not_matter(encoding: str) -> None:
    assert text(f"Content-Transfer-Encoding: {encoding}\n\nGr=C3=BC=C3=9Fe".encode()) == "Grüße"


@pytest.mark.parametrize(
    ("charset", "body", "expected"),
    [
        ("", "Grüße".encode("latin-1"), "Grüße"),
        ("us-ascii", "Grüße".encode(), "Grüße"),
        ("utf-8", "Grüße".encode("latin-1"), "Grüße"),
        ("unknown-8bit", "Grüße".encode("latin-1"), "Grüße"),
        ("x-unknown", "Grüße".encode(), "Grüße"),
        ("klingon", b"a car", "a car"),
        ("punycode", b"a car", "a car"),
        ("ISO-8859-8-I", "שלום".encode("iso-8859-8"), "שלום"),
        ("iso-8859-8-e", "שלום".encode("iso-8859-8"), "שלום"),
        ("iso-8859-6-i", "سلام".encode("iso-8859-6"), "سلام"),
        ("windows-874", "สวัสดี".encode("cp874"), "สวัสดี"),
        ("Windows-31J", "車".encode("cp932"), "車"),
        ("csWindows31J", "車".encode("cp932"), "車"),
        ("x-windows-31j", "車".encode("cp932"), "車"),
        ("windows-936", "汽车".encode("gbk"), "汽车"),
        ("windows-949", "자동차".encode("cp949"), "자동차"),
        ("x-sjis", "車".encode("shift-jis"), "車"),
        ("x-gbk", "汽车".encode("gbk"), "汽车"),
        ("x-euc-jp", "車".encode("euc-jp"), "車"),
        ("cp-1252", "Grüße".encode("cp1252"), "Grüße"),
        # What is declared and fits is believed, also where UTF-8 would fit.
        ("latin-1", "ü".encode(), "Ã¼"),
    ],
)
def test_a_body_that_is_declared_wrongly_or_not_at_all(charset: str, body: bytes, expected: str) -> None:
    kind = f"Content-Type: text/plain; charset={charset}\n".encode() if charset else b""
    assert text(kind + b"\n" + body) == expected


def test_a_charset_that_cannot_be_read_is_none() -> None:
    assert text("Content-Type: text/plain; charset*=%00''x\n\nGrüße".encode()) == "Grüße"


def test_an_encoded_word_that_is_declared_wrongly() -> None:
    assert text(b"Subject: =?utf-8?q?Gr=FC=DFe?= =?x-unknown?q?_an_=C3=BC?=\n\na").startswith("Grüße an ü")


@given(st.binary(), st.sampled_from(["", "us-ascii", "utf-8", "utf-16", "gb2312", "utf-7", "x-unknown"]) | st.text())
def test_any_body_is_read(body: bytes, charset: str) -> None:
    kind = f"Content-Type: text/plain; charset={' '.join(charset.split())}\n".encode() if charset else b""
    read = text(kind + b"\n" + body)
    assert isinstance(read, str)
    if charset in ("", "us-ascii", "x-unknown"):
        try:
            assert read == body.decode()
        except UnicodeDecodeError:
            assert read == body.decode("latin-1")


def test_a_boundary_that_is_encoded() -> None:
    raw = b"Content-Type: multipart/mixed; boundary*=us-ascii'en'a%20b\n\n--a b\n\nthe engine\n--a b--\n"
    assert text(raw) == "the engine"


def test_parameters_that_contradict_each_other_are_none() -> None:
    assert text(b"Content-Type: text/plain; charset*=a; charset*0=b\n\nthe engine") == "the engine"


def test_a_news_article_of_1993() -> None:
    raw = b"From: a@b.edu (A B)\r\nSubject: Re: oil\r\nLines: 1\r\n\r\nChange it.\r\n"
    assert text(raw) == "Re: oil\n\nChange it.\r\n"
    assert text(b"\njust a body") == "just a body"


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"Subject: a\nContent-Type: text/html\n\n<p>a</p>", 422),
        (b"Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: image/png\n\nx\n--b--\n", 422),
        (b"Content-Type: multipart/mixed\n\nno boundary", 422),
        (b"Content-Type: multipart/mixed; boundary*=%00''x\n\n--b\n\nx\n--b--\n", 422),
        (b"Content-Type: message/rfc822\n\n" * 5000 + b"a", 413),
        (b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (i, i) for i in range(900)), 413),
        (b"\n" * 400_000, 413),
        (b"\r" * 400_000, 413),
        (b"".join(b"Content-Type: multipart/mixed; boundary=b%d\r\r--b%d\r" % (i, i) for i in range(900)), 413),
    ],
    ids=[
        "html",
        "no text",
        "no boundary",
        "encoded boundary",
        "nested mails",
        "nested parts",
        "lines",
        "CR",
        "CR parts",
    ],
)
def test_refusals(raw: bytes, code: int) -> None:
    with pytest.raises(RequestError) as caught:
        text(raw)
    assert caught.value.code == code
    assert caught.value.mend


@pytest.mark.parametrize("header", [b"Content-Type: text/plain" + b";" * 500_000, b"Subject: " + b"=?a?q?" * 500_000])
def test_headers_are_read_up_to_a_bound(header: bytes) -> None:
    # Uncut, the parser takes minutes for these.
    mail = read_mail(header + b"\n\nbody")
    assert mail.text == "body"
    assert len(mail.subject) <= MAX_HEADER


LINES = st.sampled_from(
    b"""Subject: =?utf-8?b?
?=
Content-Type: multipart/mixed; boundary=b
--b
--b--

;;
Content-Type: text/plain; charset=
Content-Type: text/plain; charset*=%00''x
Content-Type: multipart/mixed; boundary*=%00''b
Content-Type: multipart/mixed; boundary*=b; boundary*0=b
Content-Type: message/rfc822
Content-Transfer-Encoding: base64
Content-Transfer-Encoding: x-uuencode
Content-Disposition: attachment
begin 666 a
=E""".split(b"\n")
)


@given(st.binary() | st.lists(LINES | st.binary(max_size=20)).map(b"\n".join))
@example(b"Subject: =?utf-8?b?A?=\n\n")
def test_any_bytes_are_a_mail_or_refused(raw: bytes) -> None:
    try:
        mail = read_mail(raw)
    except MailError as error:
        assert error.code in {413, 422}
    else:
        mail.subject.encode("utf-8", "surrogatepass")
        assert "\n" not in mail.subject
