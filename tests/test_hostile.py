"""Bodies that no client should send, through TorchServe's own decoding; `python -m tests.bench.hostile` sends more."""

from __future__ import annotations

import json
import logging

import pytest
import torch

from tests.bench.bodies import Body, corpus
from tests.bench.client import Reply
from tests.bench.hostile import GOOD, Checker, front_end_refusal, in_process, tiny_worker
from tests.bench.verdict import LARGEST_ANSWER, Tally, fault, same


@pytest.fixture(scope="module")
def checker(tmp_path_factory: pytest.TempPathFactory) -> Checker:
    usual = torch.get_num_threads()
    made = Checker(tiny_worker(tmp_path_factory.mktemp("hostile")))
    torch.set_num_threads(usual)
    return made


def test_hostile_bodies_get_json_and_leave_good_ones_alone(checker: Checker, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.CRITICAL):
        in_process(checker, 600, seed=20, progress=lambda _: None)
    tally = checker.tally
    assert tally.summary()["problems"] == {}, tally.examples
    assert tally.bodies >= 600 and tally.good >= 200
    # The bodies reach every kind of refusal, and some of them are odd but fine.
    assert set(tally.codes) == {200, 400, 413, 415, 422}


def test_every_body_of_the_corpus_has_a_name_of_its_own() -> None:
    names = [body.name for body in corpus()]
    assert len(set(names)) == len(names)


def test_good_requests_are_answered(checker: Checker) -> None:
    assert [status for status, _, _ in checker.worker.answer(GOOD)] == [200] * len(GOOD)
    assert [set(answer) & {"label", "predictions"} for answer in checker.expected] == [{"label"}] * 3 + [
        {"predictions"}
    ]


def test_a_character_that_stands_for_eighteen_counts_as_such(checker: Checker) -> None:
    # Sixteen posts of a million of them would keep a worker busy beyond the server's response timeout.
    [(status, _, content)] = checker.worker.answer([Body("", json.dumps({"text": "\ufdfa" * 100_000}).encode())])
    assert (status, json.loads(content)["code"]) == (413, 413)


def test_a_handler_that_fails_is_noticed(checker: Checker, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Checker(checker.worker)
    usual = checker.worker.handler.handle
    monkeypatch.setattr(checker.worker.handler, "handle", lambda data, context: usual(data, context)[:-1])
    broken.batch([Body("a", b"{")])
    monkeypatch.setattr(checker.worker.handler, "handle", lambda data, context: [b[:-1] for b in usual(data, context)])
    broken.batch([Body("a", b"{")])
    assert broken.tally.problems == {"an exception: ValueError": 1, "no JSON": 1, "a good batchmate changed": 1}


@pytest.mark.parametrize(
    ("status", "media", "body", "expected"),
    [
        (200, "application/json", b'{"label": "a"}', None),
        (422, "application/json", b'{"code": 422, "reason": "", "field": "", "mend": ""}', None),
        (422, "application/json", b'{"code": 422, "reason": "", "field": "", "mend": "", "error": ""}', None),
        (400, "application/json", b'{"code": 422, "reason": "", "field": "", "mend": ""}', "an error of another shape"),
        (400, "application/json", b'{"code": 400, "type": "", "message": ""}', "an error of another shape"),
        (503, "application/json", b"{}", "status 503"),
        (0, "", b"TimeoutError", "status 0"),
        (200, "application/json", b'{"a": NaN}', "no JSON"),
        (200, "text/plain", b"{}", "another content type"),
        (200, "application/json", b'"' + b"a" * LARGEST_ANSWER + b'"', "an answer that the front end does not take"),
    ],
)
def test_what_is_wrong_with_an_answer(status: int, media: str, body: bytes, expected: str | None) -> None:
    assert fault(status, media, body) == expected


def test_what_the_front_end_says_for_a_handler_that_failed_is_no_refusal() -> None:
    def said(kind: str) -> str | None:
        content = json.dumps({"code": 500, "type": kind, "message": ""}).encode()
        return front_end_refusal(Reply(500, "application/json", content, 0.0, 0.0))

    assert said("ErrorDataDecoderException") == "ErrorDataDecoderException"
    assert said("InternalServerException") is None


def test_a_changed_batchmate_is_noticed() -> None:
    tally = Tally()
    tally.mate({"label": "a", "probabilities": {"a": 0.9}}, 200, b'{"label": "a", "probabilities": {"a": 0.90005}}')
    assert not tally.problems
    tally.mate({"label": "a", "probabilities": {"a": 0.9}}, 200, b'{"label": "a", "probabilities": {"a": 0.91}}')
    tally.mate({"label": "a"}, 503, b'{"label": "a"}')
    assert tally.problems == {"a good batchmate changed": 2}
    assert not same({"a": [1]}, {"a": [2]}) and not same({"a": 1}, {"b": 1})
