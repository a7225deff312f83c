"""What nobody means to happen: a fault of the handler's own, and arbitrary bytes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers import newsgroups
from handlers.newsgroups import NewsgroupsHandler
from tests import handling
from tests.handling import CAR, ICE, JSON, row, serve

bundle, handler = handling.bundle, handling.handler


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


@pytest.mark.parametrize("step", ["parse", "explain"])
def test_nor_does_a_fault_in_reading_a_request_or_in_explaining_hit_its_batchmates(
    step: str,
    handler: NewsgroupsHandler,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    usual = getattr(newsgroups, step)

    def faulty(*arguments: Any) -> Any:
        if "a secret" in str(arguments):
            raise RuntimeError(str(arguments))
        return usual(*arguments)

    monkeypatch.setattr(newsgroups, step, faulty)
    with caplog.at_level(logging.DEBUG):
        replies = serve(handler, bundle, *(row({"text": text}, explain="True") for text in (CAR, "a secret", ICE)))
    assert [code for code, _ in replies] == [200, 500, 200]
    assert set(replies[1][1]) == {"code", "reason", "field", "mend"}
    assert all(reply["explanation"]["contributions"] for _, reply in (replies[0], replies[2]))
    assert "RuntimeError" in caplog.text and "a secret" not in caplog.text


@given(bodies=st.lists(st.binary(), min_size=1, max_size=4), media=st.sampled_from(["", JSON, "text/plain", "x/y"]))
def test_arbitrary_bytes_always_get_json(
    handler: NewsgroupsHandler, bundle: Path, bodies: list[bytes], media: str
) -> None:
    replies = serve(handler, bundle, row({"text": CAR}), *(row(bytearray(body), media) for body in bodies))
    assert replies[0][0] == 200
    assert all(code in {200, 400, 413, 415, 422} for code, _ in replies)
