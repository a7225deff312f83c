"""What a client may send: every accepted form, every option, and the answer in the form of the request."""

from __future__ import annotations

from typing import Any

import pytest

from handlers.errors import RequestError
from handlers.explaining import DEFAULT, METHODS
from handlers.requests import MAX_CHARACTERS, MAX_PASSES, MAX_POSTS, TENSOR_TYPES, Request, parse
from tests.received import JSON, received, refusal

MODEL = {"name": "m", "version": "2"}


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
        (received(bytearray(b'\xef\xbb\xbf{"text": "a post"}')), "single"),
        (received(bytearray(b"\xef\xbb\xbfa post")), "single"),
        # Of which the server parses nothing.
        (received('{"text": "a post"}', "text/json"), "single"),
        (received(bytearray(b'\xef\xbb\xbf["a post"]'), "text/json"), "list"),
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


def test_text_that_looks_like_json_stays_text() -> None:
    assert parse(*received('{"text": "a post"}', "text/plain")).posts == ('{"text": "a post"}',)
    for text in ("{ not json", '["a post", he said', "[1] a post", "[{a post}]"):
        assert parse(*received(bytearray(text.encode()))).posts == (text,)


@pytest.mark.parametrize("media", ["", "application/octet-stream"])
def test_an_undeclared_body_that_begins_as_json_is_json(media: str) -> None:
    for several in (b' [ "a", "b"]', b'[{"text": "a"}, {"text": "b"}]'):
        assert parse(*received(bytearray(several), media)) == Request(("a", "b"), "list", budget=MAX_PASSES // 2)
    for broken in (b'{"text": "a post"', b'{ "text": a post}', b'{"inputs": []}\x05\x00\x00\x00a car'):
        refused = refusal(bytearray(broken), media)
        assert refused.code == 400 and "text/plain" in refused.mend


@pytest.mark.parametrize("media", ["json", "text", "a/b/c", 'name="post.eml"'])
def test_what_is_no_content_type_declares_nothing(media: str) -> None:
    assert parse(*received(bytearray(b'{"text": "a", "top_k": 1}'), media)) == Request(("a",), "single", top_k=1)
    assert parse(*received("a post", media)).posts == ("a post",)


@pytest.mark.parametrize("media", ["", "application/octet-stream"])
def test_binary_tensors_are_refused(media: str) -> None:
    row, headers = received(bytearray(b'{"inputs": []}\x05\x00\x00\x00a car'), media)
    with pytest.raises(RequestError) as caught:
        parse(row, headers | {"Inference-Header-Content-Length": "14"})
    assert (caught.value.code, caught.value.reason) == (415, "binary tensors are not read")
    assert "error" in caught.value.body()


@pytest.mark.parametrize("whole", ["multipart/form-data; boundary=x", "application/x-www-form-urlencoded"])
def test_a_field_of_a_form_may_be_called_body(whole: str) -> None:
    assert parse(*received(bytearray(b"a post"), header=whole)).posts == ("a post",)
    assert parse(*received({"text": "a post"}, JSON, header=whole)).posts == ("a post",)
    # What was no form to the server, for want of a boundary, is none here.
    assert refusal(bytearray(b"a post"), "multipart/form-data", header="multipart/form-data").code == 415


def test_options_from_json_form_and_tensor_parameters() -> None:
    assert parse(*received({"text": "a", "top_k": 3, "fast_path": "off"}, JSON)) == Request(
        ("a",), "single", top_k=3, fast_path=False
    )
    form = received(bytearray(b"a"), key="text", top_k=bytearray(b"3"), fast_path=bytearray(b"off"))
    assert parse(*form) == Request(("a",), "single", top_k=3, fast_path=False)
    # Fields that are declared as JSON come parsed.
    typed = received("a", key="text", top_k=3, threshold=None, fast_path="off")
    assert parse(*typed) == Request(("a",), "single", top_k=3, fast_path=False)
    assert refusal("a", key="text", method=["linear"], explain=True).field == "method"
    tensor = {"name": "t", "shape": [2], "datatype": "BYTES", "data": ["a", "b"]}
    request = parse(*received({"id": "7", "inputs": [tensor], "parameters": {"top_k": 1}}, JSON))
    assert request == Request(("a", "b"), "tensors", top_k=1, budget=MAX_PASSES // 2, identity="7")
    request = parse(*received({"inputs": [tensor], "outputs": [{"name": "path"}, {"name": "label"}]}, JSON))
    assert request.outputs == ("path", "label")
    # Null is the same as left out, and what a client says of its tensor is its own affair.
    hints = {"parameters": None}, {"parameters": {"content_type": "str"}}
    outputs = [{"name": "label", "parameters": None}]
    for hint in hints:
        asked = {"inputs": [tensor | hint], "parameters": None, "outputs": outputs}
        assert parse(*received(asked, JSON)).outputs == ("label",)


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
