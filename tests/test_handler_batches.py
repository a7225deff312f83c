"""Requests of every kind: alone and in mixed batches they get the same reply, which fits the schema."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from handlers.newsgroups import NewsgroupsHandler
from handlers.predictor import Answer
from handlers.telemetry import Telemetry
from tests import handling
from tests.conftest import LABELS
from tests.handling import CAR, DESCRIBE, ICE, JSON, MOON, Row, row, serve

bundle, handler = handling.bundle, handling.handler

TENSOR = {"name": "text", "shape": [2], "datatype": "BYTES", "data": [MOON, CAR]}
KINDS: dict[str, tuple[Row, int]] = {
    "answer": (row({"text": CAR}), 200),
    "full path": (row({"text": CAR, "fast_path": "off", "top_k": 2, "threshold": 1}), 200),
    "text": (row(ICE, "text/plain"), 200),
    "mail": (row(bytearray(b"Subject: NASA\n\norbit of a satellite"), "message/rfc822"), 200),
    "bytes": (row(bytearray(b"\xff\xfe"), "text/plain"), 415),
    "instances": (row({"instances": [ICE, {"text": MOON}], "fast_path": "off"}), 200),
    "malformed": (row(bytearray(b"{"), JSON), 400),
    "explained": (row({"text": MOON}, explain="True"), 200),
    "explained by the wide part": (row({"text": [ICE, MOON], "method": "linear", "budget": 0}, explain="True"), 200),
    "over budget": (row({"text": MOON, "method": "occlusion", "budget": 1}, explain="True"), 422),
    "too many": (row(["a"] * 1000), 413),
    "tensors": (row({"inputs": [TENSOR], "id": "x"}), 200),
    "some tensors": (row({"inputs": [TENSOR], "outputs": [{"name": "label"}]}), 200),
    "bad tensors": (row({"inputs": [TENSOR | {"shape": [5]}]}), 422),
    "empty": (row("", "text/plain"), 422),
    "long": (row([CAR, ICE, "moon " * 500]), 200),
}


@pytest.fixture(scope="module")
def alone(handler: NewsgroupsHandler, bundle: Path) -> dict[str, tuple[int, Any]]:
    """Status and body of each kind of request when it comes by itself."""
    return {name: serve(handler, bundle, one)[0] for name, (one, _) in KINDS.items()}


@settings(max_examples=40)
@given(names=st.lists(st.sampled_from(sorted(KINDS)), min_size=2, max_size=8))
def test_batchmates_change_nothing(
    handler: NewsgroupsHandler, bundle: Path, alone: dict[str, tuple[int, Any]], names: list[str]
) -> None:
    together = serve(handler, bundle, *(KINDS[name][0] for name in names))
    for name, (code, body) in zip(names, together, strict=True):
        assert code == KINDS[name][1] == alone[name][0]
        _same(body, alone[name][1])


def test_the_largest_mixed_batch(handler: NewsgroupsHandler, bundle: Path, alone: dict[str, tuple[int, Any]]) -> None:
    *together, described = serve(handler, bundle, *(one for one, _ in KINDS.values()), DESCRIBE)
    for name, (code, body) in zip(KINDS, together, strict=True):
        assert code == KINDS[name][1]
        _same(body, alone[name][1])
    assert described[1]["labels"] == list(LABELS)
    assert [answer["label"] for answer in alone["instances"][1]["predictions"]] == ["hockey", "space"]
    assert alone["tensors"][1]["outputs"][0]["data"] == ["space", "autos"]
    assert alone["mail"][1]["label"] == "space"


def test_every_reply_fits_the_schema_that_describe_gives(
    handler: NewsgroupsHandler, bundle: Path, alone: dict[str, tuple[int, Any]]
) -> None:
    [(code, described)] = serve(handler, bundle, DESCRIBE)
    assert code == 200
    schema = described["reply"]
    Draft202012Validator.check_schema(schema)
    Draft202012Validator.check_schema(described["options"])
    kinds = {"instances": "predictions", "tensors": "tensors", "some tensors": "tensors", "long": "answers"}
    kinds["explained by the wide part"] = "answers"
    assert "error" in alone["bad tensors"][1] and "error" not in alone["empty"][1]
    for name, (code, body) in alone.items():
        Draft202012Validator(schema).validate(body)
        kind = "error" if code != 200 else kinds.get(name, "answer")
        Draft202012Validator(schema | {"anyOf": [{"$ref": f"#/$defs/{kind}"}]}).validate(body)
    answer = alone["answer"][1]
    for wrong in ({"label": "cooking"}, {"abstained": None}, {"tokens": 1.5}, {"more": 1}, {"probabilities": {}}):
        assert not Draft202012Validator(schema).is_valid(answer | wrong), wrong
    assert not any(Draft202012Validator(schema).is_valid({k: answer[k] for k in answer if k != key}) for key in answer)


def _same(left: Any, right: Any) -> None:
    """Equal but for 1e-4 in numbers: padding to another length changes the last digits."""
    if isinstance(left, dict):
        assert list(left) == list(right)
        for key, value in left.items():
            _same(value, right[key])
    elif isinstance(left, list):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            _same(one, other)
    else:
        assert left == (pytest.approx(right, abs=1e-4) if isinstance(left, float) else right)


def test_a_budget_that_is_exceeded_says_what_would_do(alone: dict[str, tuple[int, Any]]) -> None:
    error = alone["over budget"][1]
    assert error["field"] == "budget"
    assert "raise the budget" in error["mend"] and "linear" in error["mend"]


def test_telemetry_hears_of_answers_errors_and_steps(
    handler: NewsgroupsHandler, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Any] = []

    class Recorder(Telemetry):
        def answered(self, answers: Sequence[Answer]) -> None:
            heard.append([answer.label for answer in answers])

        def failed(self, error: Any) -> None:
            heard.append((error.code, error.reason))

        def timed(self, seconds: Any) -> None:
            heard.append(list(seconds))
            assert all(0 <= value < 60 for value in seconds.values())

        def taken(self, requests: int) -> None:
            heard.append(requests)

    monkeypatch.setattr(handler, "telemetry", Recorder(None, bundle, LABELS))
    names = ("empty", "tensors", "over budget", "explained")
    serve(handler, bundle, *(KINDS[name][0] for name in names), DESCRIBE)
    assert heard == [
        ["space", "autos", "space"],
        (422, "a post holds no letter, so there is nothing to classify"),
        (422, "the explanation takes more passes than allowed"),
        4,
        ["decode", "tokenize", "infer", "explain", "encode"],
    ]
