"""The server as `serve/` configures it: one real TorchServe, its metrics scraped and its logs searched."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from handlers.drift import WINDOW
from handlers.requests import MAX_BYTES, MAX_POSTS
from handlers.schema import reply_schema
from serve import ready
from tests import served
from tests.conftest import LABELS
from tests.served import MODEL, PLANTED, Client, settled, told, value

ROOT = Path(__file__).resolve().parent.parent
MONITORING = ROOT / "serve" / "monitoring"
# Printed past the loggers, by the launcher, by Java and by TorchServe itself.
PLAIN = (
    "Warning: TorchServe is using non-default JVM",
    "WARNING: ",
    "nvidia-smi not available",
    "Model server started.",
)

FEATURES = ("length", "unknown", "label")

client = served.client


def test_the_model_is_described_to_who_manages_it_alone(client: Client) -> None:
    described = client.described()["customizedMetadata"]
    assert described["labels"] == list(LABELS) and described["provenance"] == {"data": "nine posts"}
    assert described["calibration"] == {"ece": 0.03}
    # The front end passes on whatever header a client makes up.
    for body in (b'{"text": "the rocket reached orbit"}', b""):
        status, answer = client.post(body, describe="True")
        assert "provenance" not in json.loads(answer)
        assert status == (200 if body else 400)
    # Of a form without fields it makes an empty row, which is what it makes of its own question.
    form = "application/x-www-form-urlencoded"
    status, answer = client.post(b"", form, describe="True")
    assert (status, json.loads(answer)["field"]) == (400, "body")
    assert json.loads(client.post(b"", form)[1]) == json.loads(answer)
    # The front end reads by the first content type, and tells the worker of the last.
    lines = ("POST", f"/predictions/{MODEL} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {client.key('inference')}")
    types = f"Content-Type: {form}\r\nContent-Type: text/plain\r\ndescribe: True\r\nContent-Length: 0\r\n\r\n"
    reply = client.raw(f"{' '.join(lines)}\r\n{types}".encode()).decode()
    assert reply.startswith("HTTP/1.1 400 ") and json.loads(reply.partition("\r\n\r\n")[2])["field"] == "body"


TENSOR = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["the car has a new engine and four wheels"]}
PREDICT, EXPLAIN = f"/predictions/{MODEL}", f"/explanations/{MODEL}"
FILE = (
    b'--x\r\nContent-Disposition: form-data; name="data"; filename="post.txt"\r\nContent-Type: text/plain\r\n\r\n'
    b"the car has a new engine and four wheels\r\n--x--\r\n"
)
MAIL = (
    b"Subject: =?iso-8859-1?q?caf=E9?=\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n"
    b"the car has a new engine and four wheels, \xe9\r\n"
)


@pytest.mark.parametrize(
    ("method", "path", "media", "body"),
    [
        ("POST", PREDICT, "application/x-www-form-urlencoded", b"data=the+car+has+a+new+engine+and+four+wheels"),
        ("POST", PREDICT, "multipart/form-data; boundary=x", FILE),  # curl -F data=@post.txt
        ("PUT", PREDICT, None, b"the car has a new engine and four wheels"),  # curl -T post.txt
        ("POST", PREDICT, "message/rfc822", MAIL),
        ("POST", f"/v2/models/{MODEL}/infer", "application/json", json.dumps({"id": "7", "inputs": [TENSOR]}).encode()),
        ("POST", EXPLAIN, "application/json", b'{"text": "the car has a new engine and four wheels"}'),
    ],
    ids=["form", "file", "upload", "mail", "tensors", "explanation"],
)
def test_every_way_to_send_a_post(client: Client, method: str, path: str, media: str | None, body: bytes) -> None:
    status, reply = client.send(method, path, media, body)
    answer = json.loads(reply)
    assert status == 200, answer
    kind = "tensors" if "inputs" in str(body) else "answer"
    Draft202012Validator(reply_schema(LABELS) | {"anyOf": [{"$ref": f"#/$defs/{kind}"}]}).validate(answer)
    if kind == "tensors":
        assert (answer["model_name"], answer["id"]) == (MODEL, "7")
        label = {"name": "label", "shape": [1], "datatype": "BYTES", "data": ["autos"]}
        assert answer["outputs"][0] == label
    else:
        assert answer["label"] == "autos"
        assert ("explanation" in answer) == (path == EXPLAIN)


def test_every_answer_and_refusal_is_counted(client: Client) -> None:
    before = settled(client)
    car = b"the car has a new engine and four wheels"
    full = json.dumps({"text": "the rocket reached orbit around the moon", "fast_path": "off"}).encode()
    assert [client.post(body)[0] for body in (full, full)] == [200, 200]
    answers = [
        json.loads(client.post(body, media)[1]) for body, media in ((full, "application/json"), (car, "text/plain"))
    ]
    assert client.post(b"{")[0] == 400
    code, error = client.post(b'{"text": "123"}')
    assert code == 422
    reason = re.sub(r"[\s,:|#]+", " ", json.loads(error)["reason"])

    def grown(name: str, by: float, **labels: str) -> None:
        start = value(before, name, **labels)
        assert told(client, name, start + by, **labels) - start == pytest.approx(by), (name, labels)

    linear = sum(answer["path"] == "linear" for answer in answers)
    grown("newsgroups_requests_total", 6)
    grown("newsgroups_posts_total", linear, path="linear")
    grown("newsgroups_posts_total", 4 - linear, path="full")
    grown("newsgroups_windows_total", 4 - linear)
    grown("newsgroups_tokens_total", 3 * answers[0]["tokens"] + answers[1]["tokens"])
    labels = [answers[0]["label"]] * 3 + [answers[1]["label"]]
    for label in set(labels):
        grown("newsgroups_predictions_total", labels.count(label), label=label)
    doubts = [1 - max(answer["probabilities"].values()) for answer in (*[answers[0]] * 3, answers[1])]
    grown("newsgroups_doubt_count", 4)
    grown("newsgroups_doubt_sum", sum(doubts))
    grown("newsgroups_doubt_bucket", sum(doubt <= 0.25 for doubt in doubts), le="0.25")
    grown("newsgroups_errors_total", 1, code="422", reason=reason)
    # Two of the six requests were refused before the model saw them, and none was explained.
    steps = {"decode": 6, "tokenize": 4, "infer": 4, "encode": 6}
    scraped = {dict(labels)["step"] for name, labels in client.scrape() if name == "newsgroups_step_seconds_count"}
    assert scraped - {"explain"} == steps.keys()
    for step, count in steps.items():
        grown("newsgroups_step_seconds_count", count, step=step)


def test_what_the_front_end_refuses_is_as_the_schema_says(client: Client) -> None:
    schema = reply_schema(LABELS)
    schema["anyOf"] = [{"$ref": "#/$defs/front_end"}]
    body = b'{"text": "a car"}'
    keyless = urllib.request.Request(f"{client.server.url}/predictions/{MODEL}", data=body)
    replies = [client._ask(keyless), client.post(body, path="/predictions/other"), client.post(body, path="/nowhere/a")]
    for (code, answer), expected in zip(replies, (400, 404, 404), strict=True):
        Draft202012Validator(schema).validate(json.loads(answer))
        assert code == json.loads(answer)["code"] == expected


def test_a_body_over_the_limit_is_refused_without_a_word(client: Client) -> None:
    assert client.post(b'{"text": "a car"}'.ljust(MAX_BYTES))[0] == 200
    head = f"Host: x\r\nAuthorization: Bearer {client.key('inference')}\r\nContent-Length: {MAX_BYTES + 1}\r\n\r\n"
    reply = client.raw(f"POST /predictions/{MODEL} HTTP/1.1\r\n{head}".encode())
    assert reply.startswith(b"HTTP/1.1 413 ") and b"content-length: 0\r\n" in reply


def test_a_proxy_of_the_environment_is_not_asked(client: Client) -> None:
    command = [sys.executable, ROOT / "serve" / "ready.py", "--url", client.server.url, "--timeout", "5"]
    proxies = {"http_proxy": "http://127.0.0.1:9", "no_proxy": ""}
    asked = subprocess.run(
        [*command, "--key-file", client.server.key_file], env=os.environ | proxies, capture_output=True, text=True
    )
    assert asked.returncode == 0, asked.stderr


def test_drift_shows_after_a_window_of_foreign_posts(client: Client) -> None:
    foreign = json.dumps({"instances": ["zu lange Wörter " * 30] * MAX_POSTS}).encode()
    end = time.monotonic() + 60
    # Each worker has a window of its own to fill. The words of the reference's few posts are all known, so a foreign
    # language shows in every feature.
    while not all(found := [value(client.scrape(), "newsgroups_drift_psi", feature=name) for name in FEATURES]):
        assert time.monotonic() < end
        for _ in range(WINDOW // MAX_POSTS):
            assert client.post(foreign)[0] == 200
    assert max(found) > 0.25


def test_nothing_of_a_request_is_logged(client: Client) -> None:
    bad = f"/predictions/{MODEL}%zz{PLANTED}"
    replies = [
        client.post(f'{{"text": "the {PLANTED} engine"}}'.encode()),
        client.post(f"the {PLANTED} engine".encode(), "text/plain", f"/explanations/{MODEL}?text={PLANTED}"),
        client.post(f'{{"text": "{PLANTED}'.encode()),
        client.post(f'{{"{PLANTED}": "{PLANTED}"}}'.encode()),
        client.post(f"{PLANTED} \xff".encode("latin-1"), "text/plain"),
        client.post(PLANTED.encode(), "image/png"),
        client.post(PLANTED.encode(), f"multipart/form-data; boundary={PLANTED}"),
        client.post(f"--x\r\n{PLANTED}\r\n{PLANTED}".encode(), "multipart/form-data; boundary=x"),
        client.post(f'{{"inputs": [{{"name": "{PLANTED}"}}]}}'.encode(), path=f"/v2/models/{MODEL}/infer"),
        client.post(f'{{"text": "{PLANTED} fault"}}'.encode()),
        client.post(f'["{PLANTED} fault", "a car"]'.encode()),
        client.post(b'{"text": "a car"}', path=bad),
        client.post(json.dumps([PLANTED] * (MAX_POSTS + 1)).encode()),
    ]
    assert {200, 400, 413, 415, 422, 500} <= {code for code, _ in replies}
    head = f"Host: x\r\nAuthorization: Bearer {client.key('inference')}\r\n"
    client.raw(f"POST /predictions/{MODEL} HTTP/1.1\r\n{head}Content-Length: {PLANTED}\r\n\r\n{PLANTED}".encode())
    client.raw(f"POST /predictions/{MODEL} HTTP/1.1\r\n{head}Content-Length: {9 << 20}\r\n\r\n{PLANTED}".encode())
    client.raw(f"{PLANTED} {PLANTED} {PLANTED}\r\n\r\n".encode())
    client.raw(f"GET /predictions/{PLANTED * 1000} HTTP/1.1\r\n{head}\r\n".encode())
    client.post(b'{"text": "a car"}', path="/predictions/the-last-one")
    folder = client.server.log.parent / "logs"
    # Both faults of ours and the last thing that was asked: then all before it is there.
    for name, message, times in (("model_log.log", "RuntimeError", 2), ("access_log.log", "/the-last-one", 1)):
        end = time.monotonic() + 30
        while (found := (folder / name).read_text().count(message)) < times and time.monotonic() < end:
            time.sleep(0.05)
        assert found >= times, name
    logs = [client.server.log, *folder.rglob("*.log*")]
    assert {path.name for path in logs} >= {"torchserve.log", "access_log.log", "model_log.log", "ts_log.log"}
    for path in logs:
        assert PLANTED not in path.read_text(errors="replace"), path.name


def test_every_line_of_the_logs_is_json(client: Client) -> None:
    client.post(b"{")
    for path in [client.server.log, *(client.server.log.parent / "logs").rglob("*.log")]:
        lines = path.read_text().splitlines()
        assert [line for line in lines if not line.startswith(("{", *PLAIN))] == [], path.name
        records = [json.loads(line) for line in lines if line.startswith("{")]
        assert len(records) >= len(lines) - len(PLAIN)
        assert all({"time", "level", "logger", "thread", "message"} <= record.keys() for record in records), path.name


def test_ready_asks_for_a_real_answer(client: Client) -> None:
    command = [sys.executable, ROOT / "serve" / "ready.py", "--url", client.server.url, "--timeout", "5"]
    good = subprocess.run([*command, "--key-file", client.server.key_file], capture_output=True, text=True)
    assert good.returncode == 0 and good.stdout.startswith("ready after")
    other = [*command, "--key-file", client.server.key_file, "--model", "other", "--timeout", "0.3"]
    bad = subprocess.run(other, capture_output=True, text=True)
    assert bad.returncode == 1 and bad.stderr.startswith("not ready: other at")


def test_ready_is_not_fooled_by_an_error(client: Client) -> None:
    with pytest.raises(ValueError, match="status 404"):
        ready.ask(client.server.url, "other", client.server.key_file, 5)


def names(client: Client) -> set[str]:
    """Every metric of the scrape, those without a sample yet included."""
    with urllib.request.urlopen(f"{client.server.metrics_url}/metrics", timeout=10) as response:
        page = response.read().decode()
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", page, flags=re.M))
    parts = [
        f"{name}_{part}" for name, kind in kinds.items() if kind == "histogram" for part in ("bucket", "sum", "count")
    ]
    return kinds.keys() | set(parts)


def metrics_of(expression: str) -> set[str]:
    """The metrics that a PromQL expression reads: its words that are no label, function, duration or operator."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(?:by|on|ignoring|group_left|group_right) *\([^)]*\)", "", bare)
    words = re.findall(r"(?<![\w.])[a-zA-Z_:][\w:]*(?! *\()\b(?! *\()", bare)
    return set(words) - {"and", "or", "unless", "offset", "sum", "max", "by", "ignoring", "group_left", "on"}


def test_the_reader_of_expressions_reads() -> None:
    query = 'sum by (a) (rate(x_total{l="y"}[5m])) / on (b) group_left max(z offset 10m) > 100e3 and w_bucket'
    assert metrics_of(query) == {"x_total", "z", "w_bucket"}


def test_dashboard_alerts_and_autoscaler_refer_to_metrics_that_exist(client: Client) -> None:
    alerts = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    adapter = yaml.safe_load((ROOT / "serve" / "kubernetes" / "adapter.yaml").read_text())["rules"]["custom"]
    variables = [
        re.search(r"\((\w+),", item["query"])[1] for item in dashboard["templating"]["list"] if "(" in item["query"]
    ]
    expressions = [
        *(rule["expr"] for group in alerts for rule in group["rules"]),
        *(target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])),
        *(re.sub(r"<<[^>]*>>", "", query) for rule in adapter for query in (rule["seriesQuery"], rule["metricsQuery"])),
        *variables,
    ]
    assert len(expressions) > 25
    # Prometheus itself makes `up`.
    known = names(client) | {"up"}
    for expression in expressions:
        assert (read := metrics_of(expression)) and read <= known, (expression, read - known)


def test_a_worker_that_was_killed_comes_back_and_the_log_says_so(client: Client) -> None:
    [killed, *_] = client.server.workers
    killed.kill()
    end = time.monotonic() + 60
    log = client.server.log.parent / "logs" / "ts_log.log"
    while not (said := "Retry worker" in log.read_text()) and time.monotonic() < end:
        time.sleep(0.05)
    assert said
    # But not what each batch did.
    assert not any(word in log.read_text() for word in ("Flushing req", "Backend response time"))
