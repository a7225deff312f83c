"""What a right answer looks like, and what a wrong one means in one line."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

# Probabilities are rounded for the wire.
TOLERANCE = 0.005

# How a problem begins that is no wrong answer, but a refusal, a fault or silence.
NO_ANSWER = ("status ", "no answer")

_HINTS = {
    "InvalidKeyException": "wrong or expired key: give --key-file the key_file.json that the running server wrote",
    "ServiceUnavailableException": "its worker is starting or its queue is full: wait for serve/ready.py, or send less",
    "ModelNotFoundException": "model not loaded: start the server with it, or name another one with --model",
}


def wrong_prediction(status: int, body: bytes, labels: Collection[str]) -> str | None:
    """What is wrong with the answer to a good post, None for nothing.

    labels: the class names that are known beforehand; empty where they are not.
    """
    answer = _parse(body)
    if status != 200:
        return failure(status, answer)
    if not isinstance(answer, dict):
        return "the answer is no JSON object"
    label, probabilities = answer.get("label"), answer.get("probabilities")
    if not isinstance(label, str) or not label or (labels and label not in labels):
        return "the label is unknown"
    if not isinstance(probabilities, dict) or not all(_is_share(value) for value in probabilities.values()):
        return "the probabilities are not numbers from 0 to 1"
    total = sum(probabilities.values())
    complete = not labels or set(labels) <= probabilities.keys()
    if total > 1 + TOLERANCE or (complete and total < 1 - TOLERANCE):
        return "the probabilities do not sum to 1"
    if label not in probabilities or probabilities[label] < max(probabilities.values()):
        return "the label is not the most probable one"
    if type(answer.get("abstained", False)) is not bool:
        return "abstained is neither true nor false"
    model = answer.get("model")
    if not isinstance(model, dict) or not model.get("version"):
        return "the version is missing"
    return None


def wrong_refusal(status: int, body: bytes) -> str | None:
    """What is wrong with the answer to a bad request, None for nothing: it must be a 4xx that says reason and mend."""
    answer = _parse(body)
    if not 400 <= status < 500:
        return f"status {status} for a bad request"
    if not isinstance(answer, dict) or not {"code", "reason", "mend"} <= answer.keys():
        return "a bad request got no error JSON: " + failure(status, answer)
    return None if answer["code"] == status else f"status {status}, its error JSON says {answer['code']!r}"


def wrong_explanation(status: int, body: bytes, labels: Collection[str]) -> str | None:
    """What is wrong with the answer to an explain request, None for nothing."""
    answer = _parse(body)
    if status != 200:
        return failure(status, answer)
    explanation = answer.get("explanation") if isinstance(answer, dict) else None
    words = explanation.get("contributions") if isinstance(explanation, dict) else None
    if not (isinstance(words, list) and all(map(_is_contribution, words))):
        return "the answer holds no explanation"
    return wrong_prediction(status, body, labels)


def failure(status: int, answer: Any) -> str:
    """One line about an answer that is no success; status 0 is a connection that gave none."""
    if status == 0:
        return "no answer: is there a server at --host, and does it answer in time?"
    fields = answer if isinstance(answer, dict) else {}
    if hint := _HINTS.get(str(fields.get("type"))):
        return f"status {status}: {hint}"
    return f"status {status}: {' '.join(str(fields.get('reason') or fields.get('message') or 'no reason').split())}"


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1


def _is_contribution(value: Any) -> bool:
    fields = value if isinstance(value, dict) else {}
    return isinstance(fields.get("word"), str) and type(fields.get("value")) in (int, float)
