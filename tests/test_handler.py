"""The handler with TorchServe's own context: answers, their options, explanations, and how it describes itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ts.utils.util import list_classes_from_module

import handlers.newsgroups
import handlers.newsgroups_onnx
from handlers.explaining import DEFAULT, METHODS, explain
from handlers.newsgroups import EXPLAINED_WORDS, NewsgroupsHandler
from handlers.requests import MAX_BYTES, MAX_PASSES, most_passes
from tests import handling
from tests.conftest import LABELS
from tests.handling import CAR, DESCRIBE, MOON, context, row, serve, started

bundle, handler = handling.bundle, handling.handler


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


def test_a_reply_that_the_front_end_would_not_take_is_refused(
    handler: NewsgroupsHandler, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As many labels as long as these make more than six megabytes.
    tensor = {"name": "text", "shape": [2], "datatype": "BYTES", "data": [CAR, MOON]}
    asked = [row({"text": [CAR, MOON]}), row({"text": [CAR, MOON], "top_k": 1}), row({"inputs": [tensor]}), row(CAR)]
    replies = serve(handler, bundle, *asked)
    monkeypatch.setattr("handlers.newsgroups.MAX_REPLY", len(json.dumps(replies[0][1])) - 1)
    (code, error), small, (other, tensors), one = serve(handler, bundle, *asked)
    assert (code, error["field"], other) == (413, "body", 413)
    assert "fewer posts" in error["mend"] and "top_k" in error["mend"] and error["mend"] in tensors["error"]
    assert [small, one] == [replies[1], replies[3]]


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


def test_describe_tells_what_a_client_must_know(handler: NewsgroupsHandler, bundle: Path) -> None:
    [(_, described)] = serve(handler, bundle, DESCRIBE)
    limits = {"bytes": MAX_BYTES, "characters": 1_000_000, "posts": 64, "passes": MAX_PASSES, "tokens": 32}
    assert described["limits"] == limits
    assert described["provenance"] == {"data": {"corpus": "nine posts"}}
    assert described["calibration"] == {"ece": 0.03}
    options = described["options"]["properties"]
    assert options["threshold"]["default"] == handler.predictor.fusion.reject
    assert (options["method"]["default"], options["method"]["enum"]) == (DEFAULT, list(METHODS))
    assert options["fast_path"]["default"] == "on"


def test_only_who_sends_no_post_is_told_about_the_model(handler: NewsgroupsHandler, bundle: Path) -> None:
    [(code, answer)] = serve(handler, bundle, row(MOON, describe="True"))
    assert (code, answer["label"]) == (200, serve(handler, bundle, row(MOON))[0][1]["label"])
    assert "provenance" not in answer
    # Of a form without fields the front end makes an empty row.
    for name in ("Content-Type", "content-type"):
        for form in ("application/x-www-form-urlencoded", "Multipart/Form-Data; boundary=x"):
            [(code, answer)] = serve(handler, bundle, ({}, {"describe": "True", name: form}))
            assert (code, answer["field"]) == (400, "body")
    # Of two content types the front end reads by the first, and hands on the last; but it says what was asked.
    asked = {"describe": "True", "explain": "False", "Content-Type": "text/plain"}
    [(code, answer)] = serve(handler, bundle, ({}, asked))
    assert (code, answer["field"]) == (400, "body")


def test_who_asks_about_the_model_may_declare_json(handler: NewsgroupsHandler, bundle: Path) -> None:
    asked = ({}, {"describe": "True", "Content-Type": "application/json"})
    assert serve(handler, bundle, asked) == serve(handler, bundle, DESCRIBE)


def test_a_transformer_that_reads_more_may_be_asked_more_often(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [most_passes(tokens) for tokens in (128, 512)] == [MAX_PASSES, 513]
    monkeypatch.setattr("handlers.requests.MAX_PASSES", 10)
    made = started(bundle)
    # As long as the window, word by word: without an option this must be allowed.
    (code, _), (_, described) = serve(made, bundle, row({"text": "moon " * 60}, explain="True"), DESCRIBE)
    assert code == 200
    assert described["limits"]["passes"] == described["options"]["properties"]["budget"]["maximum"] == 33


@pytest.mark.parametrize(
    ("posts", "words", "budget", "mend"),
    [
        (1, 9, 1, "raise the budget to 10, or choose"),
        (2, MAX_PASSES * 2 // 3, None, "send at most 1 such posts in a request, or choose"),
    ],
)
def test_a_budget_that_is_too_small_gets_a_mend_that_helps(
    handler: NewsgroupsHandler,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    posts: int,
    words: int,
    budget: int | None,
    mend: str,
) -> None:
    # As if the transformer read posts as long as these to their end.
    monkeypatch.setattr("handlers.explaining.words_read", lambda _predictor, words: len(words))
    body = {"text": [" ".join(["moon"] * words)] * posts, "method": "occlusion", "budget": budget}
    [(code, error)] = serve(handler, bundle, row(body, explain="True"))
    assert (code, error["field"]) == (422, "budget")
    assert mend in error["mend"]
    assert f"takes {words + 1} passes" in error["mend"]


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
