"""What a worker counts: the lines that TorchServe's own worker code prints for it."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import ts
import yaml
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl

from handlers import drift
from handlers.drift import WINDOW, Bins
from handlers.predictor import Answer
from handlers.requests import RequestError
from handlers.telemetry import METRICS, Telemetry

ROOT = Path(__file__).resolve().parent.parent
DECLARED = ROOT / "serve" / "metrics.yaml"
SHIPPED = Path(ts.__file__).parent / "configs" / "metrics.yaml"
LABELS = ("rec.autos", "odd: label, with | signs")

# Of TorchServe's own what it cannot measure, as serve/metrics.yaml says.
LEFT_OUT = {"CPUUtilization", "GPUMemoryUtilization", "GPUMemoryUsed", "GPUUtilization"}
# What the front end itself sets; the other gauges are what a Python process of its own collects.
OF_THE_FRONT_END = {"QueueTime", "WorkerThreadTime", "WorkerLoadTime"}

# Metric.java of TorchServe 0.12, which reads a worker's lines.
LINE = re.compile(
    r"\s*([\w\s]+)\.([\w\s]+):([0-9\-,.e]+)\|#([^|]*)(\|#type:([^|,]+))?\|#hostname:([^,]+),([^,]+)(,(.*))?"
)


def answer(label: int = 0, path: str = "full", confidence: float = 0.75, **changes: object) -> Answer:
    fields = {"tokens": 7, "windows": 1} if path == "full" else {"tokens": 0, "windows": 0}
    probabilities = np.full(len(LABELS), 1 - confidence)
    probabilities[label] = confidence
    fields |= {"words": 4, "unknown": 1, "truncated": False, "abstained": False} | changes
    return Answer(label=LABELS[label], probabilities=probabilities, path=path, **fields)


def cache(config: Path = DECLARED) -> MetricsCacheYamlImpl:
    metrics = MetricsCacheYamlImpl(str(config))
    metrics.initialize_cache()
    metrics.model_name = "newsgroups"
    return metrics


def lines(caplog: pytest.LogCaptureFixture) -> dict[tuple[str, ...], list[float]]:
    """Values by name and labels, parsed as the front end does; empties the log."""
    found: dict[tuple[str, ...], list[float]] = {}
    for message in caplog.messages:
        assert message.startswith("[METRICS]")
        match = LINE.fullmatch(message.removeprefix("[METRICS]"))
        assert match, message
        dimensions = [pair.split(":") for pair in match[4].split(",")]
        assert all(len(pair) == 2 for pair in dimensions)
        assert [name for name, _ in dimensions] == ["model_name", *METRICS[match[1]][2]]
        found.setdefault((match[1].removeprefix("newsgroups_"), *(v for _, v in dimensions[1:])), []).append(
            float(match[3])
        )
    caplog.clear()
    return found


def telemetry(folder: Path, caplog: pytest.LogCaptureFixture) -> Telemetry:
    drift.save({"label": Bins.of(np.array([0] * 90 + [1] * 10), [0])}, folder)
    metrics = cache()
    caplog.clear()
    caplog.set_level(logging.INFO)
    return Telemetry(metrics, folder, LABELS)


def test_counters_exist_before_the_first_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    telemetry(tmp_path, caplog)
    found = lines(caplog)
    assert {("posts_total", "linear"), ("posts_total", "full"), ("predictions_total", "rec.autos")} <= found.keys()
    assert ("requests_total",) in found
    assert set(map(tuple, found.values())) == {(0.0,)}


def test_a_batch_is_counted_in_sums(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counts = telemetry(tmp_path, caplog)
    lines(caplog)
    counts.taken(2)
    counts.answered([answer(), answer(path="linear", confidence=0.99), answer(1, abstained=True, windows=3)])
    assert lines(caplog) == {
        ("requests_total",): [2],
        ("posts_total", "full"): [2],
        ("posts_total", "linear"): [1],
        ("predictions_total", "rec.autos"): [2],
        ("predictions_total", "odd%3A label%2C with %7C signs"): [1],
        ("tokens_total",): [14],
        ("windows_total",): [4],
        ("abstentions_total",): [1],
        ("doubt",): [0.25, 0.01, 0.25],
    }


def test_errors_and_times(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counts = telemetry(tmp_path, caplog)
    lines(caplog)
    counts.failed(RequestError(422, "a post holds no letter, so there is nothing", "text", "send words"))
    # Of the smallest value Python prints no fixed point.
    counts.timed({"decode": 1e-9, "tokenize": 1.4e-6, "infer": 0.25})
    assert lines(caplog) == {
        ("errors_total", "422", "a post holds no letter so there is nothing"): [1],
        ("step_seconds", "decode"): [0],
        ("step_seconds", "tokenize"): [1e-6],
        ("step_seconds", "infer"): [0.25],
    }


def test_the_front_end_reads_a_workers_lines_so() -> None:
    with zipfile.ZipFile(Path(ts.__file__).parent / "frontend" / "model-server.jar") as jar:
        assert LINE.pattern.encode() in jar.read("org/pytorch/serve/metrics/Metric.class")
    assert LINE.fullmatch("a.b:2e-06|#c:d|#type:GAUGE|#hostname:h,1")
    assert not LINE.fullmatch("a.b:1e+16|#c:d|#type:GAUGE|#hostname:h,1")


def test_what_is_declared_of_the_machine_is_collected_on_one_with_a_gpu() -> None:
    package = Path(ts.__file__).parent
    [command] = re.findall(r"^system_metrics_cmd=(.+)$", (ROOT / "serve" / "config.properties").read_text(), flags=re.M)
    with zipfile.ZipFile(package / "frontend" / "model-server.jar") as jar:
        assert b"system_metrics_cmd" in jar.read("org/pytorch/serve/util/ConfigManager.class")
    # As the front end calls it.
    command = [sys.executable, *command.split()]
    done = subprocess.run(command, cwd=package.parent, input="\n", capture_output=True, text=True, check=True)
    collected = set(re.findall(r"^(\w+)\.", done.stdout, flags=re.M))
    declared = {item["name"] for item in yaml.safe_load(DECLARED.read_text())["ts_metrics"]["gauge"]}
    assert declared - OF_THE_FRONT_END == collected - LEFT_OUT
    # Or else it collects nothing at all, for want of a package that is no requirement of it.
    assert command[-2:] == ["--gpu", "0"]


def test_drift_shows_once_the_window_is_full(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counts = telemetry(tmp_path, caplog)
    counts.answered([answer(1)] * (WINDOW - 1))
    assert ("drift_psi", "label") not in lines(caplog)
    counts.answered([answer(1)])
    [value] = lines(caplog)["drift_psi", "label"]
    assert value > 0.25


def test_without_a_collector_nothing_is_said(tiny_bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    quiet = Telemetry(None, tiny_bundle, LABELS)
    quiet.answered([answer()] * WINDOW)
    quiet.failed(RequestError(400, "no", "body", "send"))
    quiet.timed({"infer": 1.0})
    assert not caplog.messages


def test_a_server_with_another_metrics_file_still_answers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    telemetry(tmp_path, caplog)
    metrics = cache(SHIPPED)
    caplog.clear()
    caplog.set_level(logging.INFO)
    Telemetry(metrics, tmp_path, LABELS).answered([answer()])
    assert lines(caplog)["tokens_total",] == [0, 7]


def test_what_is_emitted_is_declared_and_torchserves_own_is_kept() -> None:
    ours, shipped = (yaml.safe_load(path.read_text()) for path in (DECLARED, SHIPPED))
    names = {item["name"] for items in shipped["ts_metrics"].values() for item in items}
    assert names > LEFT_OUT
    assert ours["ts_metrics"] == {
        kind: [item for item in items if item["name"] not in LEFT_OUT] for kind, items in shipped["ts_metrics"].items()
    }
    declared = {
        item["name"]: (kind, item["unit"], tuple(item["dimensions"]))
        for kind, items in ours["model_metrics"].items()
        for item in items
    }
    for item in shipped["model_metrics"]["gauge"]:
        assert declared.pop(item["name"]) == ("gauge", item["unit"], tuple(item["dimensions"]))
    assert declared == {
        name: (kind.value, unit, ("model_name", *labels)) for name, (kind, unit, labels) in METRICS.items()
    }
