"""What a client may send: every accepted form, mails, every refusal with its code and field, and arbitrary input."""

from __future__ import annotations

import codecs
import encodings
import json
from encodings.aliases import aliases
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.charsets import codec
from handlers.errors import RequestError
from handlers.explaining import DEFAULT, METHODS
from handlers.requests import MAX_CHARACTERS, MAX_PASSES, MAX_POSTS, OPTIONS, TENSOR_TYPES, Request, parse

JSON = "application/json"
MODEL = {"name": "m", "version": "2"}


def received(
    value: Any, media: str = "", key: str = "body", header: str | None = None, explain: bool = False, **more: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A row and its headers, the way TorchServe's worker hands them over."""
    content_type = {} if header is None else {"Content-Type": header}
    return {**more, key: value}, {key: {"content-type": media}} | content_type | (
        {"explain": "True"} if explain else {}
    )


def refusal(*arguments: Any, **more: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        parse(*received(*arguments, **more))
    assert set(caught.value.body()) - {"error"} == {"code", "reason", "field", "mend"}
    assert caught.value.mend
    return caught.value


@pytest.mark.parametrize(
    ("row", "form"),
    [
        (received("a post", "text/plain"), "single"),
        (received(bytearray(b"a post")), "single"),
        (received(bytearray(b"a post"), "application/octet-stream", key="data"), "single"),
        (received(bytearray(b"a post"), key="text"), "single"),
        (received({"text": "a post"}, JSON), "single"),
        (received({"data": "a post"}, JSON), "single"),
        (received("a post", JSON), "single"),
        (received(["a post"], JSON), "list"),
        (received({"text": ["a post"]}, JSON), "list"),
        (received({"instances": ["a post"]}, JSON), "instances"),
        (received({"instances": [{"data": "a post"}]}, JSON), "instances"),
        (received(bytearray(b' {"text": "a post"}')), "single"),
        (
            received({"inputs": [{"name": "t", "shape": [1, 1], "datatype": "BYTES", "data": ["a post"]}]}, JSON),
            "tensors",
        ),
        (
            received({"inputs": [{"name": "t", "shape": [1, 1], "datatype": "BYTES", "data": [["a post"]]}]}, JSON),
            "tensors",
        ),
        (received(bytearray(b"\na post"), "message/rfc822"), "single"),
    ],
)
def test_every_form_of_a_body(row: tuple[dict[str, Any], dict[str, Any]], form: str) -> None:
    assert parse(*row) == Request(("a post",), form)


def test_declared_charset_is_followed() -> None:
    latin = "Grüße an den Fahrer".encode("latin-1")
    assert parse(*received(bytearray(latin), "text/plain", header="text/plain; charset=latin-1")).posts == (
        "Grüße an den Fahrer",
    )
    # The server decodes UTF-8 by itself, here wrongly: the Latin-1 bytes of "Ã¼" are UTF-8 of "ü".
    assert parse(*received("ü car", "text/plain", header="text/plain; charset=iso-8859-1")).posts == ("Ã¼ car",)
    assert parse(*received(bytearray(json.dumps("a post").encode("utf-16")), JSON)).posts == ("a post",)


def test_text_that_looks_like_json_stays_text() -> None:
    assert parse(*received('{"text": "a post"}', "text/plain")).posts == ('{"text": "a post"}',)
    for text in ("{ not json", '["a post", he said', "[1] a post"):
        assert parse(*received(bytearray(text.encode()))).posts == (text,)


@pytest.mark.parametrize("media", ["", "application/octet-stream"])
def test_an_undeclared_body_that_begins_as_json_is_json(media: str) -> None:
    assert parse(*received(bytearray(b' [ "a", "b"]'), media)) == Request(("a", "b"), "list", budget=MAX_PASSES // 2)
    for broken in (b'{"text": "a post"', b'{ "text": a post}', b'{"inputs": []}\x05\x00\x00\x00a car'):
        assert refusal(bytearray(broken), media).code == 400


@pytest.mark.parametrize("media", ["", "application/octet-stream"])
def test_binary_tensors_are_refused(media: str) -> None:
    row, headers = received(bytearray(b'{"inputs": []}\x05\x00\x00\x00a car'), media)
    with pytest.raises(RequestError) as caught:
        parse(row, headers | {"Inference-Header-Content-Length": "14"})
    assert (caught.value.code, caught.value.reason) == (415, "binary tensors are not read")


@pytest.mark.parametrize("whole", ["multipart/form-data; boundary=x", "application/x-www-form-urlencoded"])
def test_a_field_of_a_form_may_be_called_body(whole: str) -> None:
    assert parse(*received(bytearray(b"a post"), header=whole)).posts == ("a post",)
    assert parse(*received({"text": "a post"}, JSON, header=whole)).posts == ("a post",)
    # What was no form to the server, for want of a boundary, is none here.
    assert refusal(bytearray(b"a post"), "multipart/form-data", header="multipart/form-data").code == 415


UNREADABLE = ("charset*=%00''x", "charset*=a; charset*0=b", "charset*" + "9" * 5000 + "=b")


@pytest.mark.parametrize("parameter", UNREADABLE)
@pytest.mark.parametrize("media", [JSON, "text/plain", "message/rfc822", ""])
def test_a_charset_that_cannot_be_read_is_unknown_or_none(media: str, parameter: str) -> None:
    value = bytearray(b'{"text": "a car"}')
    _parsed_or_refused(value, media, f"{media or 'application/octet-stream'}; {parameter}")
    _parsed_or_refused(value, f"{media}; {parameter}", None)


def test_names_of_charsets_leave_nothing_behind() -> None:
    def ask(name: str) -> None:
        for header in (f"text/plain; charset={name}", f"text/plain; charset*={name}''{name}"):
            _parsed_or_refused(bytearray(b"a car"), "text/plain", header)
        for head in (
            f"Subject: =?{name}?q?a_car?=",
            f"Content-Type: text/plain; charset={name}",
            f"Content-Type: text/plain; charset*={name}''{name}",
            f"Content-Type: multipart/mixed; boundary*={name}''x",
        ):
            _parsed_or_refused(
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


def test_options_from_json_form_and_tensor_parameters() -> None:
    assert parse(*received({"text": "a", "top_k": 3, "fast_path": "off"}, JSON)) == Request(
        ("a",), "single", top_k=3, fast_path=False
    )
    form = received(bytearray(b"a"), key="text", top_k=bytearray(b"3"), fast_path=bytearray(b"off"))
    assert parse(*form) == Request(("a",), "single", top_k=3, fast_path=False)
    tensor = {"name": "t", "shape": [2], "datatype": "BYTES", "data": ["a", "b"]}
    request = parse(*received({"id": "7", "inputs": [tensor], "parameters": {"top_k": 1}}, JSON))
    assert request == Request(("a", "b"), "tensors", top_k=1, budget=MAX_PASSES // 2, identity="7")
    request = parse(*received({"inputs": [tensor], "outputs": [{"name": "path"}, {"name": "label"}]}, JSON))
    assert request.outputs == ("path", "label")


def test_binary_answers_may_be_declined() -> None:
    tensor = {"name": "t", "shape": [1], "datatype": "BYTES", "data": ["a"]}

    def asked(binary: Any) -> dict[str, Any]:
        outputs = [{"name": "label", "parameters": {"binary_data": binary}}, {"name": "path", "parameters": {}}]
        return {"inputs": [tensor], "outputs": outputs, "parameters": {"binary_data_output": binary, "top_k": 1}}

    request = parse(*received(asked(False), JSON))
    assert (request.outputs, request.top_k) == (("label", "path"), 1)
    error = refusal(asked(True), JSON)
    assert (error.code, error.field) == (422, "parameters.binary_data_output")
    assert error.reason == "binary tensors are not answered" and "JSON" in error.mend
    error = refusal(asked(True) | {"parameters": {}}, JSON)
    assert (error.code, error.field) == (422, "outputs[0].parameters.binary_data")


def test_errors_of_the_inference_protocol_are_one_string_as_well() -> None:
    row, headers = received({"inputs": [{"datatype": "FP32"}]}, JSON)
    with pytest.raises(RequestError) as caught:
        parse(row, headers)
    body = caught.value.body()
    assert body.pop("error") == f"inputs[0].datatype: {body['reason']}: {body['mend']}"
    assert set(body) == {"code", "reason", "field", "mend"}


def test_threshold_and_null() -> None:
    assert parse(*received({"text": "a", "threshold": 1, "top_k": None, "method": None}, JSON)).threshold == 1
    assert parse(*received(bytearray(b"a"), key="text", threshold=bytearray(b"0.25"))).threshold == 0.25
    assert parse(*received({"text": "a"}, JSON)).threshold is None


def test_options_of_explanations() -> None:
    plain = parse(*received({"text": "a"}, JSON, explain=True))
    assert (plain.explain, plain.method, plain.budget) == (True, DEFAULT, MAX_PASSES)
    chosen = parse(*received({"text": ["a", "b"], "method": METHODS[-1], "budget": 7}, JSON, explain=True))
    assert (chosen.method, chosen.budget) == (METHODS[-1], 7)
    # The posts of one request share what one request may cost.
    assert parse(*received(["a"] * 64, JSON, explain=True)).budget == MAX_PASSES // 64
    assert refusal({"text": ["a", "b"], "budget": MAX_PASSES // 2 + 1}, JSON, explain=True).field == "budget"
    for bad in ({"method": "magic"}, {"method": []}, {"budget": -1}, {"budget": 1.5}, {"budget": MAX_PASSES + 1}):
        error = refusal({"text": "a"} | bad, JSON, explain=True)
        assert (error.code, error.field) == (422, *bad)
    for unused in ({"method": DEFAULT}, {"budget": 3}):
        error = refusal({"text": "a"} | unused, JSON)
        assert (error.code, error.field) == (422, *unused)


@pytest.mark.parametrize(
    ("value", "media", "code", "field"),
    [
        (bytearray(b'{"text": '), JSON, 400, "body"),
        (bytearray(b"[" * 100_000), JSON, 400, "body"),
        (bytearray(b"\x89PNG\xff\xfe"), "", 415, "body"),
        (bytearray(b"a post"), "image/png", 415, "body"),
        ("", "text/plain", 422, "body"),
        ("12 :-)", "text/plain", 422, "body"),
        (None, JSON, 422, "body"),
        (3, JSON, 422, "body"),
        ({}, JSON, 422, "body"),
        ([], JSON, 422, "body"),
        ({"text": ""}, JSON, 422, "text"),
        ({"text": None}, JSON, 422, "text"),
        ({"text": "a", "data": "b"}, JSON, 422, "body"),
        ({"text": "a", "topk": 3}, JSON, 422, "topk"),
        ({"text": "a", "top_k": 0}, JSON, 422, "top_k"),
        ({"text": "a", "top_k": True}, JSON, 422, "top_k"),
        ({"text": "a", "threshold": 1.01}, JSON, 422, "threshold"),
        ({"text": "a", "threshold": float("nan")}, JSON, 422, "threshold"),
        ({"text": "a", "threshold": True}, JSON, 422, "threshold"),
        ({"text": "a", "fast_path": False}, JSON, 422, "fast_path"),
        ({"text": "a", "fast_path": []}, JSON, 422, "fast_path"),
        ({"instances": "a"}, JSON, 422, "instances"),
        ({"instances": ["a", 1]}, JSON, 422, "instances[1]"),
        ({"instances": [{"text": "a", "b": 1}]}, JSON, 422, "instances[0].b"),
        ({"inputs": []}, JSON, 422, "inputs"),
        ({"inputs": [{"datatype": "FP32"}]}, JSON, 422, "inputs[0].datatype"),
        ({"inputs": [{"datatype": "BYTES", "data": ["a"], "shape": [2]}]}, JSON, 422, "inputs[0].shape"),
        ({"inputs": [], "id": 3}, JSON, 422, "id"),
        ({"inputs": [], "parameters": {"topk": 3}}, JSON, 422, "parameters.topk"),
        ({"inputs": [], "outputs": []}, JSON, 422, "outputs"),
        ({"inputs": [], "outputs": [{"name": "logits"}]}, JSON, 422, "outputs[0].name"),
        ({"inputs": [], "outputs": [{"name": "label", "parameters": 3}]}, JSON, 422, "outputs[0].parameters"),
        (
            {"inputs": [], "outputs": [{"name": "label", "parameters": {"classification": 3}}]},
            JSON,
            422,
            "outputs[0].parameters.classification",
        ),
        (bytearray(b"Content-Type: text/html\n\n<p>a</p>"), "message/rfc822", 422, "body"),
        (bytearray(b"Subject: 1\n\n2"), "message/rfc822", 422, "body"),
        (bytearray(b"\n\xff"), "message/rfc822", 415, "body"),
        (bytearray(b"\n" * 400_000), "message/rfc822", 413, "body"),
        (["a"] * (MAX_POSTS + 1), JSON, 413, "body"),
        ("a" * (MAX_CHARACTERS + 1), "text/plain", 413, "body"),
    ],
)
def test_refusals_name_code_and_field(value: Any, media: str, code: int, field: str) -> None:
    error = refusal(value, media)
    assert (error.code, error.field) == (code, field)


def test_other_refusals() -> None:
    assert refusal(bytearray(b"a"), key='{"text": "a"}').code == 400  # curl -d without a content type
    assert refusal("a", "text/plain", header="text/plain; charset=klingon").code == 415
    assert refusal("a", "text/plain", header="text/plain; charset=punycode").code == 415
    assert refusal(bytearray(b"a"), key="data", top_k=bytearray(b"many")).field == "top_k"
    assert refusal(bytearray(b"a"), key="data", topk=bytearray(b"3")).field == "topk"
    assert refusal(bytearray(b"a"), key="data", text=bytearray(b"b")).field == "text"
    tensor = {"name": "t", "shape": [1], "datatype": "BYTES", "data": ["a"]}
    row, headers = received({"inputs": [tensor]}, JSON)
    with pytest.raises(RequestError) as caught:
        parse(row, headers | {"explain": "True"})
    assert caught.value.code == 422


def test_longest_allowed_post_and_list() -> None:
    assert len(parse(*received("a" * MAX_CHARACTERS, "text/plain")).posts[0]) == MAX_CHARACTERS
    assert len(parse(*received(["a"] * MAX_POSTS, JSON)).posts) == MAX_POSTS


def test_answers_go_back_in_the_form_of_the_request() -> None:
    rest = {"abstained": False, "path": "full", "windows": 1, "tokens": 5, "truncated": False, "model": MODEL}
    answers = [
        {"label": "x", "probabilities": {"x": 0.7, "y": 0.3}, **rest},
        {"label": "y", "probabilities": {"y": 0.6, "x": 0.4}, **rest, "abstained": True},
    ]
    posts = ("a", "b")
    assert Request(posts[:1], "single").wrap(answers[:1], MODEL) == answers[0]
    assert Request(posts, "list").wrap(answers, MODEL) == answers
    assert Request(posts, "instances").wrap(answers, MODEL) == {"predictions": answers}
    tensors = Request(posts, "tensors", identity="7").wrap(answers, MODEL)
    assert {key: tensors[key] for key in ("model_name", "model_version", "id")} == {
        "model_name": "m",
        "model_version": "2",
        "id": "7",
    }
    assert tensors["outputs"][:4] == [
        {"name": "label", "shape": [2], "datatype": "BYTES", "data": ["x", "y"]},
        {"name": "labels", "shape": [2, 2], "datatype": "BYTES", "data": ["x", "y", "y", "x"]},
        {"name": "probabilities", "shape": [2, 2], "datatype": "FP64", "data": [0.7, 0.3, 0.6, 0.4]},
        {"name": "abstained", "shape": [2], "datatype": "BOOL", "data": [False, True]},
    ]
    assert [output["name"] for output in tensors["outputs"]] == list(TENSOR_TYPES)
    some = Request(posts, "tensors", outputs=("tokens",)).wrap(answers, MODEL)
    assert some["outputs"] == [{"name": "tokens", "shape": [2], "datatype": "INT64", "data": [5, 5]}]
    assert "id" not in some


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.sampled_from(["text", "data", "instances", "inputs", "id", *OPTIONS]) | st.text(), inner)
    ),
    max_leaves=8,
)
MEDIA = (
    st.sampled_from(["", JSON, "text/plain", "text/html", "application/octet-stream", "image/png", "message/rfc822"])
    | st.text()
)
CHARSETS = st.text().map("text/plain; charset={}".format) | st.sampled_from(UNREADABLE).map("text/plain; {}".format)


@given(value=VALUES, media=MEDIA)
def test_any_json_is_parsed_or_refused(value: Any, media: str) -> None:
    _parsed_or_refused(value, media, None)


@given(value=st.binary(), media=MEDIA, header=st.none() | MEDIA | CHARSETS)
def test_any_bytes_are_parsed_or_refused(value: bytes, media: str, header: str | None) -> None:
    _parsed_or_refused(bytearray(value), media, header)


def _parsed_or_refused(value: Any, media: str, header: str | None) -> None:
    try:
        request = parse(*received(value, media, header=header))
    except RequestError as error:
        assert error.code in {400, 413, 415, 422}
        json.dumps(error.body())
    else:
        assert request.posts
        for post in request.posts:
            post.encode()
