"""Bodies that no client should send: a corpus made by hand, and a strategy that mutates it and invents more."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass, replace
from email.message import EmailMessage
from typing import Any

from hypothesis import strategies as st

JSON = "application/json"
FORM = "multipart/form-data; boundary=fence"
LARGE = 2_000_000
TENSOR: dict[str, Any] = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a car"]}
# What a request may declare, most of it wrongly.
MEDIA = (
    JSON,
    "",
    "text/plain",
    "text/html",
    "text/plain; charset=utf-16",
    "text/plain; charset=latin-1",
    "text/plain; charset=idna",
    "text/plain; charset=base64",
    "text/plain; charset=no-such-charset",
    'text/plain; charset="\\"',
    "text/plain; charset*=%00''x",
    "text/plain; charset*=a; charset*0=b",
    "application/json; charset*=%00''x",
    "message/rfc822; charset*=%00''x",
    "application/json; charset=utf-7",
    "application/octet-stream",
    "application/zip",
    "message/rfc822",
    "image/png",
    "nonsense",
    ";;=",
)


@dataclass(frozen=True)
class Body:
    """One request. media: its content type, empty for none. endpoint: predictions, explanations or infer.

    fields: of a form, (name, content type or "", value); `raw` is then made of them.
    """

    name: str
    raw: bytes
    media: str = JSON
    endpoint: str = "predictions"
    fields: tuple[tuple[str, str, bytes], ...] = ()


def form(name: str, *fields: tuple[str, str, bytes]) -> Body:
    """A form as curl sends one: a field with a content type is a file."""
    lines = []
    for key, media, value in fields:
        lines += [b"--fence", f'Content-Disposition: form-data; name="{key}"'.encode()]
        if media:
            lines[-1] += b'; filename="post"'
            lines.append(f"Content-Type: {media}".encode())
        lines += [b"", value]
    return Body(name, b"\r\n".join([*lines, b"--fence--", b""]), FORM, fields=fields)


def _json(name: str, value: Any, endpoint: str = "predictions") -> Body:
    return Body(name, json.dumps(value).encode(), endpoint=endpoint)


def _tensor(name: str, **changes: Any) -> Body:
    return _json(f"tensor: {name}", {"inputs": [TENSOR | changes]}, "infer")


def _zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("post.txt", "a car")
    return file.getvalue()


def _email() -> bytes:
    message = EmailMessage()
    message["Subject"], message["From"] = "Grüße aus dem All", "a@b.example"
    message.set_content("Der Mond, in Latin-1: Ä", charset="latin-1", cte="8bit")
    message.add_attachment(_zip(), maintype="application", subtype="zip", filename="a.zip")
    return bytes(message)


def corpus() -> list[Body]:
    """Every kind of bad body once (and a few odd ones that are fine)."""
    text = {"text": "a car"}
    return [
        Body("empty", b""),
        Body("empty text", b"", "text/plain"),
        Body("truncated JSON", b'{"text": "a c'),
        Body("no value", b'{"text": }'),
        Body("two values", b'{"text": "a car"} {"text": "b"}'),
        Body("a key twice", b'{"text": "a car", "text": 5}'),
        Body("an option twice", b'{"text": "a car", "top_k": 1, "top_k": -1}'),
        Body("single quotes", b"{'text': 'a car'}"),
        Body("a byte order mark", b'\xef\xbb\xbf{"text": "a car"}'),
        Body("UTF-16 JSON", json.dumps(text).encode("utf-16")),
        Body("UTF-32 JSON", json.dumps(text).encode("utf-32")),
        Body("Latin-1 JSON", '{"text": "Grüße"}'.encode("latin-1")),
        Body("deep lists", b"[" * 100_000),
        Body("deep closed lists", b"[" * 100_000 + b"]" * 100_000),
        Body("deep objects", b'{"text":' * 50_000 + b"1" + b"}" * 50_000),
        Body("deep lists, undeclared", b'{"text":' + b"[" * 100_000, ""),
        Body("a number of 5,000 digits", b'{"text": "a car", "top_k": ' + b"9" * 5000 + b"}"),
        Body("a number of 300 digits", b'{"text": "a car", "top_k": ' + b"9" * 300 + b"}"),
        Body("an endless float", b'{"text": "a car", "top_k": 1e999}'),
        Body("not a number", b'{"text": NaN, "top_k": -Infinity}'),
        Body("a lone surrogate", b'{"text": "car \\ud83d"}'),
        Body("only a lone surrogate", b'{"text": "\\udc00"}'),
        Body("a lone surrogate as key", b'{"\\ud83d": "car"}'),
        Body("a lone surrogate as id", b'{"id": "\\ud83d", "inputs": []}', endpoint="infer"),
        _json("a lone surrogate in a good tensor's id", {"id": "\ud83d", "inputs": [TENSOR]}, "infer"),
        Body("NUL bytes", b"\x00" * 1000, "text/plain"),
        Body("NUL inside words", b"c\x00a\x00r", "text/plain"),
        _json("NUL in JSON", {"text": "a\x00car"}),
        Body("bytes that are not UTF-8", b"\xff\xfe\xfa" * 30, "text/plain"),
        Body("overlong UTF-8", b"\xc0\xaf car", "text/plain"),
        Body("odd UTF-16", b"abc", "text/plain; charset=utf-16"),
        Body("a charset that is no charset", b"a car", "text/plain; charset=rot13"),
        Body("a charset with NUL", b"a car", "text/plain; charset=utf\x00-8"),
        Body("a charset of 10,000 letters", b"a car", "text/plain; charset=" + "x" * 7000),
        Body("an encoded charset", b"a car", "text/plain; charset*=%00''x"),
        Body("a charset twice", b"a car", "text/plain; charset*=a; charset*0=b"),
        Body("a slow charset", b"a" * 50_000, "text/plain; charset=punycode"),
        Body("an escaping charset", b"\\ud83d car", "text/plain; charset=unicode_escape"),
        Body("a broken escape", b"\\x", "text/plain; charset=unicode_escape"),
        Body("an image", b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "image/png"),
        Body("a zip as text", _zip(), "text/plain"),
        Body("a zip", _zip(), "application/zip"),
        Body("a zip, undeclared", _zip(), ""),
        Body("an email", _email(), "message/rfc822"),
        Body(
            "an email with an encoded charset", b"Content-Type: text/plain; charset*=%00''x\n\na car", "message/rfc822"
        ),
        Body(
            "an email with an encoded boundary",
            b"Content-Type: multipart/mixed; boundary*=%00''x\n\n",
            "message/rfc822",
        ),
        Body("an email with two boundaries", b"Content-Type: a/b; boundary*=a; boundary*0=b\n\n", "message/rfc822"),
        Body("an email as text", _email(), "text/plain"),
        Body("an email as JSON", _email()),
        Body("only digits", b"12345 67890", "text/plain"),
        _json("only spaces", {"text": " \t\n\u2003"}),
        _json("only emoji", {"text": "\N{ROCKET}\N{FULL MOON SYMBOL}"}),
        _json("only marks", {"text": "\u0300\u0316" * 50}),
        _json("letters that no tokenizer knows", {"text": "\u16a0\u16a2 \U00010330"}),
        _json("right to left", {"text": "\u202e\u0628\u0633\u0645 car"}),
        _json("a ligature that grows", {"text": "\ufdfa" * 50_000}),
        _json("a tower of marks", {"text": "a" + "\u0316\u0300" * 100_000}),
        _json("a tower of marks, half width", {"text": "a" + "\uff9e\u0300" * 100_000}),
        _json("one word of 100,000 letters", {"text": "x" * 100_000}),
        _json("null", None),
        _json("true", True),
        _json("a number", 5),
        _json("an empty list", []),
        _json("an empty object", {}),
        _json("a list of an empty list", [[]]),
        _json("a list of null", [None]),
        _json("good and bad in one list", ["a car", 5]),
        _json("too many posts", ["a car"] * 65),
        _json("empty instances", {"instances": []}),
        _json("instances that are an object", {"instances": {"text": "a car"}}),
        _json("instances with two keys", {"instances": [{"text": "a car", "data": "b"}]}),
        _json("two keys", {"text": "a car", "data": "a car"}),
        _json("an unknown key", {"text": "a car", "topk": 3}),
        _json("text that is an object", {"text": {"text": {"text": "a car"}}}),
        _json("text that is a number", {"text": 5}),
        _json("an empty key", {"": "a car"}),
        _json("a key of 100,000 letters", {"k" * 100_000: 1}),
        *(
            _json(f"top_k {value!r}", text | {"top_k": value})
            for value in (0, -1, 1.5, True, "3", [], {}, None, 2**63, 2**64, -(2**63) - 1)
        ),
        *(
            _json(f"fast_path {value!r}", text | {"fast_path": value})
            for value in ("", "OFF", "o\u200bff", False, 0, [], {}, ["off"], None)
        ),
        *(
            _json(f"explain this: {name}", value, "explanations")
            for name, value in (("nothing", {}), ("a list", ["a car", "a moon"]), ("digits", {"text": "1 2"}))
        ),
        *(_tensor(f"shape {shape}", shape=shape) for shape in ([], [2], [1, 2], [-1], "1", None, [1e9], [[]])),
        *(_tensor(f"datatype {kind!r}", datatype=kind) for kind in ("FP32", "bytes", None, ["BYTES"], {})),
        *(_tensor(f"data {data!r}", data=data) for data in ("a car", [], [5], [None], [["a car"]], {}, None)),
        _tensor("empty and matching", shape=[0], data=[]),
        _tensor("parameters", parameters={"binary_data_size": 5}),
        _json("600 times the same output", {"inputs": [TENSOR], "outputs": [{"name": "probabilities"}] * 600}, "infer"),
        _json("an id of 10,000 letters", {"inputs": [TENSOR], "id": "\u0436" * 10_000}, "infer"),
        _json("no tensor", {"inputs": []}, "infer"),
        _json("two tensors", {"inputs": [{}, {}]}, "infer"),
        _json("inputs that are text", {"inputs": "a car"}, "infer"),
        _json("a tensor that is explained", {"inputs": [{"data": ["a car"]}]}, "explanations"),
        form("a form with nothing known", ("other", "", b"a car")),
        form("a form with an option in Arabic digits", ("data", "", b"a car"), ("top_k", "", "\u0663".encode())),
        form("a form with an option in superscript", ("data", "", b"a car"), ("top_k", "", "\u00b2".encode())),
        form("a form with an option that is no text", ("data", "", b"a car"), ("top_k", "", b"\xff")),
        form("a form with an option as JSON", ("data", "", b"a car"), ("top_k", JSON, b"[3]")),
        form("a form with the same field twice", ("data", "", b"a car"), ("data", "", b"\xff\xff")),
        form("a form with fields named like headers", ("explain", "", b"True"), ("describe", "", b"True")),
        form("a form that shadows a header", ("data", "", b"a car"), ("explain", "", b"True")),
        form("a file that is an image", ("data", "image/png", b"\x89PNG\r\n\x1a\n")),
        form("a file that is broken JSON", ("data", JSON, b'{"text": ')),
        form("a file with an encoded charset", ("data", "text/plain; charset*=%00''x", b"a car")),
        form("a form with a field named like the body", ("body", "", b"a car")),
        form("a file of NUL bytes", ("data", "text/plain", b"\x00" * 1000)),
        Body("a form without its boundary", b"--other\r\n\r\na car\r\n--other--\r\n", FORM),
        Body("a form that never ends", b'--fence\r\nContent-Disposition: form-data; name="data"\r\n\r\na car', FORM),
        Body("a form that declares no boundary", b"--fence\r\n\r\na car", "multipart/form-data"),
        Body("an empty form", b"", FORM),
        Body("a form of the web", b"data=a+car&top_k=%ff&%00=%", "application/x-www-form-urlencoded"),
        Body("a form of the web without a post", b"&&&===", "application/x-www-form-urlencoded"),
    ]


def large() -> list[Body]:
    """Bodies of two megabytes, and the most that is allowed: each costs up to a second, so they are not repeated."""
    return [
        Body("two megabytes of text", b"car " * (LARGE // 4), "text/plain"),
        Body("two megabytes of one letter", b"x" * LARGE, "text/plain"),
        Body("two megabytes of brackets", b"[" * LARGE),
        Body("two megabytes of JSON", json.dumps({"text": "car " * (LARGE // 4)}).encode()),
        Body("two megabytes of an unknown type", bytes(LARGE), "application/zip"),
        _json("a million letters of ligatures", {"text": "\ufdfa" * 300_000}),
        _json("a million marks", {"text": "a" + "\u0316\u0300" * 300_000}),
        _json("a list of a million", [0] * 600_000),
        Body("a key of two megabytes", ('{"text": "a car", "' + "\u0436" * (LARGE // 2) + '": 1}').encode()),
        Body(
            "one word of a million letters, explained", ("\U00010428" * 999_990).encode(), "text/plain", "explanations"
        ),
        _json("an output 100,000 times", {"inputs": [TENSOR], "outputs": [{"name": "label"}] * 100_000}, "infer"),
        Body("as long as is allowed", b"the engine " * 90_000, "text/plain", "explanations"),
    ]


def bodies() -> st.SearchStrategy[Body]:
    """One hostile body: of the corpus, of the corpus damaged, or invented."""
    known = st.sampled_from([body for body in corpus() if len(body.raw) < 10_000])
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("a car"),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys(), inner, max_size=3),
        max_leaves=6,
    )
    documents = st.builds(lambda value: Body("invented JSON", json.dumps(value).encode()), values)
    noise = st.builds(Body, st.just("noise"), st.binary(max_size=60), st.sampled_from(MEDIA))
    damaged = st.builds(_damaged, known, st.floats(0, 1), st.binary(max_size=4))
    return st.one_of(known, damaged, _elsewhere(known), documents, noise)


def _keys() -> st.SearchStrategy[str]:
    names = ("text", "data", "instances", "inputs", "top_k", "fast_path", "shape", "datatype", "parameters", "id")
    return st.sampled_from(names) | st.text(max_size=5)


def _damaged(body: Body, where: float, patch: bytes) -> Body:
    """The body with some bytes overwritten, or cut off where there are none to write."""
    place = int(where * len(body.raw))
    rest = body.raw[place + len(patch) :] if patch else b""
    return replace(body, name=f"{body.name}, damaged", raw=body.raw[:place] + patch + rest, fields=())


def _elsewhere(known: st.SearchStrategy[Body]) -> st.SearchStrategy[Body]:
    """A body under a content type and at an endpoint that are not its own."""
    media, ends = st.sampled_from(MEDIA), st.sampled_from(("predictions", "explanations", "infer"))
    return st.builds(lambda body, m, end: replace(body, media=m, endpoint=end, fields=()), known, media, ends)
