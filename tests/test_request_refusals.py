"""Every refusal with its code and field, and arbitrary input, which is parsed or refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.errors import RequestError
from handlers.requests import MAX_CHARACTERS, MAX_POSTS, OPTIONS, parse
from tests.received import JSON, UNREADABLE, parsed_or_refused, received, refusal


def test_errors_of_the_inference_protocol_are_one_string_as_well() -> None:
    row, headers = received({"inputs": [{"datatype": "FP32"}]}, JSON)
    with pytest.raises(RequestError) as caught:
        parse(row, headers)
    body = caught.value.body()
    assert body.pop("error") == f"inputs[0].datatype: {body['reason']}: {body['mend']}"
    assert set(body) == {"code", "reason", "field", "mend"}


@pytest.mark.parametrize(
    ("value", "media", "code", "field"),
    [
        (bytearray(b'{"text": '), JSON, 400, "body"),
        (bytearray(b"[" * 100_000), JSON, 400, "body"),
        ("a post", "text/json", 400, "body"),
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
        ({"inputs": [], "parameters": [3]}, JSON, 422, "parameters"),
        ({"inputs": [{"parameters": {"top_k": 3}}]}, JSON, 422, "inputs[0].parameters.top_k"),
        ({"inputs": [{"parameters": "top_k"}]}, JSON, 422, "inputs[0].parameters"),
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
        (bytearray(b"\n\xd7"), "message/rfc822", 422, "body"),
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
    parsed_or_refused(value, media, None)


@given(value=st.binary(), media=MEDIA, header=st.none() | MEDIA | CHARSETS)
def test_any_bytes_are_parsed_or_refused(value: bytes, media: str, header: str | None) -> None:
    parsed_or_refused(bytearray(value), media, header)
