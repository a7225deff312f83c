"""What a worker counts and times, handed to TorchServe, whose metrics address serves it to Prometheus.

TorchServe passes on only what `serve/metrics.yaml` declares; a test holds that file against METRICS.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ts.metrics.metric_type_enum import MetricTypes

from handlers.drift import Drift, features, load
from handlers.predictor import Answer
from handlers.requests import RequestError

# Type, unit, and labels beside `model_name`, by name. The front end adds the host's name to each.
METRICS: dict[str, tuple[MetricTypes, str, tuple[str, ...]]] = {
    # Requests that a worker took, good or bad, but for those that only ask what the model is: those whose wait
    # TorchServe adds to ts_queue_latency_microseconds. (Its own ts_inference_requests_total also counts what a full
    # queue refused.)
    "newsgroups_requests_total": (MetricTypes.COUNTER, "Count", ()),
    # Posts answered, by the way they took through the cascade.
    "newsgroups_posts_total": (MetricTypes.COUNTER, "Count", ("path",)),
    # Tokens that the transformer read to answer posts, and its passes. Those of explanations are not counted: of them
    # newsgroups_step_seconds, step explain, gives the time.
    "newsgroups_tokens_total": (MetricTypes.COUNTER, "Count", ()),
    "newsgroups_windows_total": (MetricTypes.COUNTER, "Count", ()),
    "newsgroups_predictions_total": (MetricTypes.COUNTER, "Count", ("label",)),
    "newsgroups_abstentions_total": (MetricTypes.COUNTER, "Count", ()),
    "newsgroups_errors_total": (MetricTypes.COUNTER, "Count", ("code", "reason")),
    # One less the probability of the answer's label. Not that probability itself: TorchServe's histograms have fixed
    # bounds (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, ...), close together only where doubt is small.
    "newsgroups_doubt": (MetricTypes.HISTOGRAM, "probability", ()),
    # What one batch spent on each step.
    "newsgroups_step_seconds": (MetricTypes.HISTOGRAM, "Seconds", ("step",)),
    # Population stability index of the last thousand posts of the worker that reports; see handlers/drift.py.
    "newsgroups_drift_psi": (MetricTypes.GAUGE, "index", ("feature",)),
}

PATHS = ("linear", "full")
DIGITS = 6

# What TorchServe's line format of a metric uses itself.
_SYNTAX = re.compile(r"[\s,:|#]+")


class Telemetry:
    """The metrics of one worker. None of them carries anything of a request's text."""

    def __init__(self, metrics: Any, bundle: Path, labels: Sequence[str]) -> None:
        """metrics: TorchServe's `context.metrics`, or None where nobody collects. bundle: the folder that holds the
        drift reference. labels: the classes, in the predictor's order. Raises FileNotFoundError where there is no
        reference."""
        self.labels = tuple(labels)
        self._model = "" if metrics is None else metrics.model_name
        self._metrics = {} if metrics is None else {name: _declared(metrics, name) for name in METRICS}
        self._drift = Drift(load(bundle))
        # A rate over a counter that does not exist yet misses its first step.
        for name in ("requests", "tokens", "windows", "abstentions"):
            self._add(f"newsgroups_{name}_total", 0)
        for path in PATHS:
            self._add("newsgroups_posts_total", 0, path)
        for label in self.labels:
            self._add("newsgroups_predictions_total", 0, _class(label))

    def taken(self, requests: int) -> None:
        """Count the requests of a batch that are about posts."""
        self._add("newsgroups_requests_total", requests)

    def answered(self, answers: Sequence[Answer]) -> None:
        """Count posts that were answered."""
        for path, count in Counter(answer.path for answer in answers).items():
            self._add("newsgroups_posts_total", count, path)
        for label, count in Counter(answer.label for answer in answers).items():
            self._add("newsgroups_predictions_total", count, _class(label))
        for name, count in {
            "newsgroups_tokens_total": sum(answer.tokens for answer in answers),
            "newsgroups_windows_total": sum(answer.windows for answer in answers),
            "newsgroups_abstentions_total": sum(answer.abstained for answer in answers),
        }.items():
            if count:
                self._add(name, count)
        for answer in answers:
            self._add("newsgroups_doubt", 1 - float(answer.probabilities.max()))
        if answers:
            for feature, value in self._drift.add(features(answers, self.labels)).items():
                self._add("newsgroups_drift_psi", value, feature)

    def failed(self, error: RequestError) -> None:
        """Count a request that was refused. Its reason is a label, so it must never quote the request."""
        self._add("newsgroups_errors_total", 1, str(error.code), error.reason)

    def timed(self, seconds: Mapping[str, float]) -> None:
        """Record what one batch spent on each step, in seconds: decode, tokenize, infer, explain, encode."""
        for step, value in seconds.items():
            self._add("newsgroups_step_seconds", value, step)

    def _add(self, name: str, value: float, *labels: str) -> None:
        if metric := self._metrics.get(name):
            plain = (_SYNTAX.sub(" ", label).strip() for label in labels)
            # Enough digits. The front end reads "1e-06", the smallest there is then, but not "1e+16" or "nan", which no
            # count, share or time comes to.
            metric.add_or_update(round(value, DIGITS), [self._model, *plain])


def _class(label: str) -> str:
    """A class's name as a label, its signs as in a URL, so that c and c# stay two."""
    return re.sub(r"[%,:|#]", lambda sign: f"%{ord(sign[0]):02X}", label)


def _declared(metrics: Any, name: str) -> Any:
    """The metric as TorchServe's worker knows it."""
    kind, unit, labels = METRICS[name]
    try:
        return metrics.get_metric(name, kind)
    except KeyError:
        # A server with another metrics file drops its lines, but must answer all the same.
        return metrics.add_metric_to_cache(name, unit, ["model_name", *labels], kind)
