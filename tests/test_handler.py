"""The handler with TorchServe's own context: mixed batches, faults of its own, and arbitrary bytes."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ts.context import Context, RequestProcessor
from ts.utils.util import list_classes_from_module

import handlers.newsgroups
import handlers.newsgroups_onnx
from handlers.newsgroups import NewsgroupsHandler
from handlers.requests import ANSWER_SCHEMA
from tests.conftest import LABELS

MANIFEST = {"model": {"modelName": "newsgroups", "modelVersion": "1.0"}}
JSON = "application/json"
CAR, ICE, MOON = "The car needs engine oil", "a hockey team plays on ice", "a satellite in orbit around the moon"

Row = tuple[dict[str, Any], dict[str, Any]]


def row(value: Any, media: str = JSON, **headers: str) -> Row:
    return {"body": value}, {"body": {"content-type": media}, **headers}


def context(bundle: Path, rows: Sequence[Row] = (), **config: Any) -> Context:
    """What the worker builds around a batch."""
    made = Context("newsgroups", str(bundle), MANIFEST, 16, None, "0.12.0", model_yaml_config=config)
    made.request_processor = [RequestProcessor(headers) for _, headers in rows]
    return made


def serve(handler: NewsgroupsHandler, bundle: Path, *rows: Row) -> list[tuple[int, Any]]:
    """Status and parsed body of each row of one batch."""
    around = context(bundle, rows)
    bodies = handler.handle([data for data, _ in rows], around)
    assert len(bodies) == len(rows)
    assert all(around.get_response_content_type(i) == JSON for i in range(len(rows)))
    return [(around.get_response_status(i)[0], json.loads(body)) for i, body in enumerate(bodies)]


@pytest.fixture(scope="module")
def handler(tiny_bundle: Path) -> NewsgroupsHandler:
    usual = torch.get_num_threads()
    made = NewsgroupsHandler()
    made.initialize(context(tiny_bundle))
    torch.set_num_threads(usual)
    return made


def test_the_loader_finds_one_class_in_each_module() -> None:
    assert list_classes_from_module(handlers.newsgroups) == [NewsgroupsHandler]
    assert len(list_classes_from_module(handlers.newsgroups_onnx)) == 1


def test_an_answer_holds_what_its_schema_promises(handler: NewsgroupsHandler, tiny_bundle: Path) -> None:
    [(code, answer)] = serve(handler, tiny_bundle, row({"text": CAR}))
    assert code == 200
    assert set(answer) == set(ANSWER_SCHEMA["required"])
    assert answer["label"] == "autos" == next(iter(answer["probabilities"]))
    values = list(answer["probabilities"].values())
    assert values == sorted(values, reverse=True) and sum(values) == pytest.approx(1, abs=1e-5)
    assert answer["model"] == {"name": "newsgroups", "version": "1.0"}


def test_options(handler: NewsgroupsHandler, tiny_bundle: Path) -> None:
    text = "the team won the game on ice"
    (_, fast), (_, full), (_, top) = serve(
        handler, tiny_bundle, row(text), row({"text": text, "fast_path": "off"}), row({"text": text, "top_k": 1})
    )
    assert (fast["path"], fast["tokens"]) == ("linear", 0)
    assert full["path"] == "full" and full["tokens"] > 2
    assert top["probabilities"] == {"hockey": fast["probabilities"]["hockey"]}


def test_a_mixed_batch_answers_each_as_if_it_came_alone(handler: NewsgroupsHandler, tiny_bundle: Path) -> None:
    tensor = {"name": "text", "shape": [2], "datatype": "BYTES", "data": [MOON, CAR]}
    rows = [
        row({"text": CAR}),
        row(bytearray(b"\xff\xfe"), "text/plain"),
        row({"instances": [ICE, {"text": MOON}], "fast_path": "off"}),
        row(bytearray(b"{"), JSON),
        row({"text": MOON}, explain="True"),
        row(["a"] * 1000),
        ({}, {"describe": "True"}),
        row({"inputs": [tensor], "id": "x"}),
        row("", "text/plain"),
        row([CAR, ICE, "moon " * 500]),
    ]
    together = serve(handler, tiny_bundle, *rows)
    assert [code for code, _ in together] == [200, 415, 200, 400, 200, 413, 200, 200, 422, 200]
    for one, (code, body) in zip(rows, together, strict=True):
        [(alone_code, alone)] = serve(handler, tiny_bundle, one)
        assert code == alone_code
        _same(body, alone)
    assert [answer["label"] for answer in together[2][1]["predictions"]] == ["hockey", "space"]
    assert together[7][1]["outputs"][0]["data"] == ["space", "autos"]
    assert together[6][1]["labels"] == list(LABELS)


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


@pytest.mark.parametrize("fast_path", ["on", "off"])
def test_contributions_sum_to_the_linear_share_of_the_score(
    handler: NewsgroupsHandler, tiny_bundle: Path, fast_path: str
) -> None:
    text = "a hockey team plays"
    [(_, answer)] = serve(handler, tiny_bundle, row({"text": text, "fast_path": fast_path}, explain="True"))
    explanation = answer.pop("explanation")
    predictor = handler.predictor
    weight = predictor.fusion.fast if answer["path"] == "linear" else predictor.fusion.wide
    label = LABELS.index(answer["label"])
    score = predictor.linear.scores([text])[0, label] - predictor.linear.bias[label]
    assert explanation["method"] == "linear"
    assert sum(explanation["contributions"].values()) == pytest.approx(weight * float(score), abs=1e-4)
    [(_, plain)] = serve(handler, tiny_bundle, row({"text": text, "fast_path": fast_path}))
    assert answer == plain


def test_a_fault_of_our_own_hits_one_request_and_logs_no_text(
    handler: NewsgroupsHandler, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usual = handler.predictor.cleaning

    class Faulty:
        def __call__(self, text: str) -> str:
            if "secret" in text:
                raise RuntimeError(text)
            return usual(text)

    monkeypatch.setattr(handler.predictor, "cleaning", Faulty())
    with caplog.at_level(logging.DEBUG):
        replies = serve(handler, tiny_bundle, row({"text": CAR}), row({"text": "a secret"}), row({"text": ICE}))
    assert [code for code, _ in replies] == [200, 500, 200]
    assert replies[1][1]["code"] == 500 and set(replies[1][1]) == {"code", "reason", "field", "mend"}
    assert "RuntimeError" in caplog.text
    assert "a secret" not in caplog.text


def test_workers_share_the_cores(tiny_bundle: Path) -> None:
    seen = []

    class Recording(NewsgroupsHandler):
        def load_engine(self, folder: Path, threads: int, device: str) -> Any:
            seen.append((threads, device))
            usual = torch.get_num_threads()
            engine = super().load_engine(folder, threads, device)
            torch.set_num_threads(usual)
            return engine

    cores = len(os.sched_getaffinity(0))
    for workers in (1, cores, 4 * cores):
        Recording().initialize(context(tiny_bundle, maxWorkers=workers))
    assert seen == [(cores, "cpu"), (1, "cpu"), (1, "cpu")]


@given(bodies=st.lists(st.binary(), min_size=1, max_size=4), media=st.sampled_from(["", JSON, "text/plain", "x/y"]))
def test_arbitrary_bytes_always_get_json(
    handler: NewsgroupsHandler, tiny_bundle: Path, bodies: list[bytes], media: str
) -> None:
    replies = serve(handler, tiny_bundle, row({"text": CAR}), *(row(bytearray(body), media) for body in bodies))
    assert replies[0][0] == 200
    assert all(code in {200, 400, 413, 415, 422} for code, _ in replies)
