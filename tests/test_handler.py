"""The handler with TorchServe's own context: mixed batches, schemas, settings, faults of its own, arbitrary bytes."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from ts.context import Context, RequestProcessor
from ts.utils.util import list_classes_from_module

import handlers.newsgroups
import handlers.newsgroups_onnx
from handlers.cores import usable_cores
from handlers.explaining import DEFAULT, METHODS, explain
from handlers.newsgroups import EXPLAINED_WORDS, NewsgroupsHandler
from handlers.predictor import Answer
from handlers.requests import MAX_BYTES, MAX_PASSES
from handlers.schema import PROVENANCE_FILE
from handlers.telemetry import Telemetry
from tests.conftest import LABELS

SERVE = Path(__file__).parent.parent / "serve"
YAML = yaml.safe_load((SERVE / "newsgroups.yaml").read_text())
MANIFEST = {"model": {"modelName": "newsgroups", "modelVersion": "1.0"}}
JSON = "application/json"
CAR, ICE, MOON = "The car needs engine oil", "a hockey team plays on ice", "a satellite in orbit around the moon"

Row = tuple[dict[str, Any], dict[str, Any]]


def row(value: Any, media: str = JSON, **headers: str) -> Row:
    return {"body": value}, {"body": {"content-type": media}, **headers}


def context(bundle: Path, rows: Sequence[Row] = (), **config: Any) -> Context:
    """What the worker builds around a batch."""
    made = Context("newsgroups", str(bundle), MANIFEST, 16, None, "0.12.0", model_yaml_config=YAML | config)
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
def bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle as it lies in an archive: with its provenance."""
    folder = tmp_path_factory.mktemp("archive") / "bundle"
    shutil.copytree(tiny_bundle, folder)
    (folder / PROVENANCE_FILE).write_text('{"data": {"corpus": "nine posts"}}')
    return folder


@pytest.fixture(scope="module")
def handler(bundle: Path) -> NewsgroupsHandler:
    return started(bundle)


def started(bundle: Path, **config: Any) -> NewsgroupsHandler:
    """A handler after its start, with the tests' own number of threads."""
    usual = torch.get_num_threads()
    made = NewsgroupsHandler()
    made.initialize(context(bundle, **config))
    torch.set_num_threads(usual)
    return made


def test_the_loader_finds_one_class_in_each_module() -> None:
    assert list_classes_from_module(handlers.newsgroups) == [NewsgroupsHandler]
    assert len(list_classes_from_module(handlers.newsgroups_onnx)) == 1


def test_an_answer(handler: NewsgroupsHandler, bundle: Path) -> None:
    [(code, answer)] = serve(handler, bundle, row({"text": CAR}))
    assert code == 200
    assert answer["label"] == "autos" == next(iter(answer["probabilities"]))
    values = list(answer["probabilities"].values())
    assert values == sorted(values, reverse=True) and sum(values) == pytest.approx(1, abs=1e-5)
    assert answer["model"] == {"name": "newsgroups", "version": "1.0"}


def test_an_answer_has_the_name_that_was_asked(bundle: Path) -> None:
    usual = torch.get_num_threads()
    made, around = NewsgroupsHandler(), context(bundle, [row({"text": CAR})])
    around.model_name = "another"
    made.initialize(around)
    torch.set_num_threads(usual)
    [body] = made.handle([row({"text": CAR})[0]], around)
    assert json.loads(body)["model"]["name"] == "another"


def test_no_answer_grows_with_what_it_repeats_of_its_request(handler: NewsgroupsHandler, bundle: Path) -> None:
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [CAR]}
    explained = (
        row("\U00010428" * 500_000, "text/plain")[0],
        {"body": {"content-type": "text/plain"}, "explain": "True"},
    )
    for asked, code in (
        (row({"inputs": [tensor], "outputs": [{"name": "probabilities"}] * 600}), 422),
        (row({"inputs": [tensor], "id": "\u0436" * 100_000}), 422),
        (row({"text": CAR, "\u0436" * 100_000: 1}), 422),
        (explained, 200),
    ):
        [(status, answer)] = serve(handler, bundle, asked)
        assert status == code and len(json.dumps(answer)) < 3000


def test_options(handler: NewsgroupsHandler, bundle: Path) -> None:
    text = "the team won the game on ice"
    (_, fast), (_, full), (_, top) = serve(
        handler, bundle, row(text), row({"text": text, "fast_path": "off"}), row({"text": text, "top_k": 1})
    )
    assert (fast["path"], fast["tokens"], fast["windows"]) == ("linear", 0, 0)
    assert (full["path"], full["windows"]) == ("full", 1) and full["tokens"] > 2
    assert top["probabilities"] == {"hockey": fast["probabilities"]["hockey"]}


def test_the_threshold_of_a_request_and_of_the_bundle(
    handler: NewsgroupsHandler, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [(_, answer)] = serve(handler, bundle, row(MOON))
    share = answer["probabilities"]["space"]
    asked = [{"text": MOON, "threshold": share + step} for step in (-0.01, 0.01)]
    (_, sure), (_, unsure), (_, plain) = serve(handler, bundle, *map(row, asked), row(MOON))
    assert [sure["abstained"], unsure["abstained"], plain["abstained"]] == [False, True, False]
    # The label is still named, so that a client can show it with a warning.
    assert unsure == answer | {"abstained": True}
    monkeypatch.setattr(handler.predictor, "fusion", replace(handler.predictor.fusion, reject=share + 0.01))
    (_, plain), (_, never) = serve(handler, bundle, row(MOON), row({"text": MOON, "threshold": 0}))
    assert [plain["abstained"], never["abstained"]] == [True, False]


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
DESCRIBE: Row = ({}, {"describe": "True"})


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


def test_describe_tells_what_a_client_must_know(handler: NewsgroupsHandler, bundle: Path) -> None:
    [(_, described)] = serve(handler, bundle, DESCRIBE)
    limits = {"bytes": MAX_BYTES, "characters": 1_000_000, "posts": 64, "passes": MAX_PASSES, "tokens": 32}
    assert described["limits"] == limits
    assert described["provenance"] == {"data": {"corpus": "nine posts"}}
    options = described["options"]["properties"]
    assert options["threshold"]["default"] == handler.predictor.fusion.reject
    assert (options["method"]["default"], options["method"]["enum"]) == (DEFAULT, list(METHODS))
    assert options["fast_path"]["default"] == "on"


def test_the_limit_of_bytes_is_the_servers() -> None:
    assert f"\nmax_request_size={MAX_BYTES}\n" in (SERVE / "config.properties").read_text()


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


@pytest.mark.parametrize("method", METHODS)
def test_a_served_explanation_is_the_offline_one(handler: NewsgroupsHandler, bundle: Path, method: str) -> None:
    text = "A hockey team, plays: " + " ".join(["game"] * EXPLAINED_WORDS)
    [(code, answer)] = serve(handler, bundle, row({"text": text, "method": method}, explain="True"))
    assert code == 200
    explanation = answer.pop("explanation")
    expected = explain(handler.predictor, text, LABELS.index(answer["label"]), method, MAX_PASSES)
    assert len(explanation["contributions"]) == EXPLAINED_WORDS < len(expected)
    for item in explanation["contributions"]:
        word, value = expected[item["position"]]
        assert (item["word"], item["value"]) == (word, pytest.approx(value, abs=1e-4))
    sizes = [abs(item["value"]) for item in explanation["contributions"]]
    assert sizes == sorted(sizes, reverse=True)
    total = sum(item["value"] for item in explanation["contributions"]) + explanation["rest"]
    assert total == pytest.approx(sum(value for _, value in expected), abs=1e-3)
    # What is asked beside it changes no prediction.
    assert answer == serve(handler, bundle, row({"text": text}))[0][1]


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
        5,
        ["decode", "tokenize", "infer", "explain", "encode"],
    ]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (None, "must have the keys fast_path, precision"),
        ({"fast_path": True}, "must have the keys"),
        ({"fast_path": True, "precision": "float32", "more": 1}, "must have the keys"),
        ({"fast_path": "off", "precision": "float32"}, "fast_path is 'off': write on or off, unquoted"),
        ({"fast_path": True, "precision": "fp16"}, "precision is 'fp16': choose one of float32, bf16"),
        ({"fast_path": True, "precision": ["bf16"]}, "choose one of float32, bf16"),
    ],
)
def test_a_wrong_setting_stops_the_worker_at_its_start(bundle: Path, section: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        started(bundle, handler=section)


def test_a_deployment_can_turn_the_fast_path_off(bundle: Path) -> None:
    full = started(bundle, handler={"fast_path": False, "precision": "float32"})
    (_, plain), (_, asked), (_, described) = serve(
        full, bundle, row(ICE), row({"text": ICE, "fast_path": "on"}), DESCRIBE
    )
    assert plain["path"] == asked["path"] == "full"
    assert described["options"]["properties"]["fast_path"]["default"] == "off"


def test_bf16_changes_the_third_digit_only(bundle: Path, handler: NewsgroupsHandler) -> None:
    halved = started(bundle, handler={"fast_path": True, "precision": "bf16"})
    assert {weight.dtype for weight in halved.predictor.engine.model.parameters()} == {torch.bfloat16}
    requests = [row({"text": text, "fast_path": "off"}) for text in (CAR, ICE, MOON)]
    for (_, low), (_, high) in zip(serve(halved, bundle, *requests), serve(handler, bundle, *requests), strict=True):
        assert low["label"] == high["label"]
        assert low["probabilities"] == pytest.approx(high["probabilities"], abs=5e-3)
        assert low["probabilities"] != high["probabilities"]


def test_a_fault_of_our_own_hits_one_request_and_logs_no_text(
    handler: NewsgroupsHandler, bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usual = handler.predictor.cleaning

    class Faulty:
        def __call__(self, text: str) -> str:
            if "secret" in text:
                raise RuntimeError(text)
            return usual(text)

    monkeypatch.setattr(handler.predictor, "cleaning", Faulty())
    tensors = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a secret"]}]}
    with caplog.at_level(logging.DEBUG):
        replies = serve(handler, bundle, *map(row, ({"text": CAR}, {"text": "a secret"}, {"text": ICE}, tensors)))
    assert [code for code, _ in replies] == [200, 500, 200, 500]
    assert replies[3][1]["error"].startswith("body: the server could not answer: ")
    assert replies[1][1]["code"] == 500 and set(replies[1][1]) == {"code", "reason", "field", "mend"}
    assert "RuntimeError" in caplog.text
    assert "a secret" not in caplog.text


def test_workers_share_the_cores(bundle: Path) -> None:
    seen = []

    class Recording(NewsgroupsHandler):
        def load_engine(self, folder: Path, threads: int, device: str) -> Any:
            seen.append((threads, device))
            usual = torch.get_num_threads()
            engine = super().load_engine(folder, threads, device)
            torch.set_num_threads(usual)
            return engine

    cores = usable_cores()
    for workers in (1, cores, 4 * cores):
        Recording().initialize(context(bundle, maxWorkers=workers))
    assert seen == [(cores, "cpu"), (1, "cpu"), (1, "cpu")]


@given(bodies=st.lists(st.binary(), min_size=1, max_size=4), media=st.sampled_from(["", JSON, "text/plain", "x/y"]))
def test_arbitrary_bytes_always_get_json(
    handler: NewsgroupsHandler, bundle: Path, bodies: list[bytes], media: str
) -> None:
    replies = serve(handler, bundle, row({"text": CAR}), *(row(bytearray(body), media) for body in bodies))
    assert replies[0][0] == 200
    assert all(code in {200, 400, 413, 415, 422} for code, _ in replies)
