"""Whether an answer to a hostile or to a good request is as promised, and a tally of those that are not."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.bench.bodies import JSON
from tests.bench.worker import parse

ERROR_KEYS = {"code", "reason", "field", "mend"}
# What the handler may say to a client; anything else is a fault of its own.
CODES = (200, 400, 413, 415, 422)
FRONT_END_KEYS = {"code", "type", "message"}
TOLERANCE = 1e-4
# Bytes of one answer that TorchServe's front end takes (max_response_size); it ends the worker that gives more.
LARGEST_ANSWER = 6_553_500


@dataclass
class Tally:
    """What happened. problems: what must not. refused: by TorchServe's front end itself, rightly (4xx)."""

    bodies: int = 0
    good: int = 0
    codes: Counter[int] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def problem(self, what: str, example: str) -> None:
        """Count a problem and keep its first example."""
        self.problems[what] += 1
        self.examples.setdefault(what, example)

    def hostile(self, name: str, status: int, media: str, body: bytes) -> None:
        """Judge the answer to a hostile body."""
        self.bodies += 1
        self.codes[status] += 1
        if problem := fault(status, media, body):
            self.problem(problem, f"{name}: {body[:200]!r}")

    def front_end(self, name: str, status: int, kind: str) -> None:
        """Judge what the front end itself, which calls it `kind`, answered to a hostile body."""
        self.bodies += 1
        if 400 <= status < 500:
            self.refused[f"{status} {kind}"] += 1
        else:
            # To a client a 5xx says that the server failed and that it may send again, whoever gave it.
            self.problem(f"status {status} of the front end: {kind}", name)

    def mate(self, expected: Any, status: int, body: bytes) -> None:
        """Judge the answer to a good request against the answer that it got alone."""
        self.good += 1
        if status != 200 or fault(status, JSON, body) or not same(json.loads(body), expected):
            self.problem("a good batchmate changed", f"{status}: {body[:200]!r}")

    def summary(self) -> dict[str, Any]:
        """Everything, as JSON."""
        return {
            "bodies": self.bodies,
            "good_batchmates": self.good,
            "codes": {str(code): count for code, count in sorted(self.codes.items())},
            "refused_by_the_front_end": dict(self.refused.most_common()),
            "problems": dict(self.problems.most_common()),
            "first_examples": self.examples,
        }


def fault(status: int, media: str, body: bytes) -> str | None:
    """What is wrong with the handler's answer to a hostile body, None for nothing."""
    if status not in CODES:
        return f"status {status}"
    if media != JSON:
        return "another content type"
    if len(body) > LARGEST_ANSWER:
        return "an answer that the front end does not take"
    try:
        answer = parse(body)
    except ValueError:
        return "no JSON"
    if status != 200 and not (_is_error(answer) and answer["code"] == status):
        return "an error of another shape"
    return None


def _is_error(answer: Any) -> bool:
    # Where the posts came as tensors, it has one key more.
    return isinstance(answer, dict) and answer.keys() - {"error"} == ERROR_KEYS


def same(left: Any, right: Any) -> bool:
    """Equal but for TOLERANCE in numbers: padding to another length changes the last digits."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, float) and isinstance(right, float):
        return abs(left - right) <= TOLERANCE
    return left == right
