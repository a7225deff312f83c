"""The four commands on a small real slice: real corpus and checkpoint, real DVC, real TorchServe, real locust."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from handlers.onnx_engine import GRAPH_FILE, OnnxEngine
from handlers.predictor import Predictor
from handlers.torch_engine import TorchEngine
from stages.report import TITLES
from stages.torchserve import PORTS, free_ports
from tests import browsing
from tests.project import DEVICE, SMALL, VARIANTS, Project

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parent.parent
PLOT_TITLES = (
    "Confusion of minilm",
    "Reliability of minilm",
    "Risk over coverage of minilm",
    "Sensitivity of each layer to int8",
    "Latency against offered rate",
    # The curves of training have no other title than their files.
    "outputs/plots/train/minilm/plots/metrics/loss.tsv",
    "outputs/plots/train/minilm/plots/metrics/validation_loss.tsv",
    "outputs/plots/train/minilm/plots/metrics/validation_macro_f1.tsv",
)
POST = "From: a@b.c\nSubject: Shuttle launch\n\nThe shuttle reached its orbit around the moon, NASA said."

browser = browsing.browser


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project after its first `dvc repro`."""
    project = Project(tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("scratch") / "tmp", SMALL)
    print(project.run("dvc", "repro")[-1500:])
    return project


@pytest.fixture(scope="module")
def server(project: Project) -> Iterator[str]:
    """All archives in one TorchServe, started as the README says; its address."""
    log = project.root / "torchserve.log"
    archives = " ".join(f"{variant}.mar" for variant in VARIANTS)
    # Another TorchServe may be running here: what the environment says wins over the configuration.
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    for key, port in ports.items():
        own = f"http://127.0.0.1:{port}" if key.endswith("address") else str(port)
        project.environment[f"TS_{key.upper()}"] = own
    url = project.environment["TS_INFERENCE_ADDRESS"]
    try:
        project.run("bash", "-c", f"source serve/env.sh && torchserve --start --models {archives} > {log} 2>&1")
        for model in VARIANTS:
            project.run(sys.executable, "serve/ready.py", "--url", url, "--model", model, "--timeout", "120")
        yield url
    finally:
        project.run("torchserve", "--stop", "--foreground")


def ask(url: str, project: Project, model: str, body: bytes, kind: str = "application/json") -> tuple[int, Any]:
    key = json.loads((project.root / "key_file.json").read_text())["inference"]["key"]
    headers = {"Authorization": f"Bearer {key}", "Content-Type": kind}
    request = urllib.request.Request(f"{url}/predictions/{model}", data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_repro_leaves_everything_a_report_needs(project: Project) -> None:
    quality = project.metrics("quality")
    assert quality["selected"]["name"] == "minilm"
    for part in ("selected", "baseline"):
        for name in ("accuracy", "macro_f1"):
            # Twenty classes: chance is 0.05.
            assert 0.15 < quality[part]["test"][name] <= 1
    serving = project.metrics("serving")
    assert set(serving) == set(VARIANTS)
    for row in serving.values():
        assert {"capacity_rps", "p50_ms", "p99_ms", "size_mb", "rss_mb", "cold_start_s"} <= row.keys()
        assert row["errors"] == 0
    for picture in ("minilm/confusion.png", "minilm/reliability.png", "serving.png", "explain.png"):
        assert (project.root / "outputs" / "plots" / picture).stat().st_size > 1000


def test_every_stage_stays_under_six_gibibytes(project: Project) -> None:
    folder = project.root / "outputs" / "metrics" / "stages"
    peaks = {path.stem: json.loads(path.read_text())["peak_memory_mib"] for path in folder.glob("*.json")}
    assert len(peaks) == 17
    assert max(peaks.values()) < 6 * 1024


def test_a_second_repro_has_nothing_to_do(project: Project) -> None:
    assert "Data and pipelines are up to date" in project.run("dvc", "repro")
    assert project.stale() == set()


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        ("handlers/newsgroups.py", '"""', '"""Edited. ', {"package", "benchmark", "report"}),
        (
            "params.yaml",
            "synonym_rate: 0.1",
            "synonym_rate: 0.2",
            {"augment", "train", "fuse", "evaluate", "select", "behaviour", "explain", "export", "package", "benchmark"}
            | {"report"},
        ),
    ],
)
def test_an_edit_reruns_what_hangs_on_it(project: Project, name: str, old: str, new: str, expected: set[str]) -> None:
    path = project.root / name
    before = path.read_text()
    assert old in before
    try:
        path.write_text(before.replace(old, new, 1))
        if name == "params.yaml":
            # It runs at every edit of that, and what it writes stays the same.
            project.run("dvc", "repro", "check")
        assert project.would_run() == expected
    finally:
        path.write_text(before)
        project.run("dvc", "repro", "check")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("synonym_rate: 0.1", "synonym_rate: 0.1\n  sinonym_rate: 0.1", "augment has no key 'sinonym_rate'"),
        ("slo_ms: 2000", "slo_ms: -1", "benchmark.slo_ms is -1; allowed: float 1 to 60000"),
    ],
)
def test_a_bad_parameter_stops_the_run_before_any_work(project: Project, old: str, new: str, message: str) -> None:
    path = project.root / "params.yaml"
    before = path.read_text()
    assert old in before
    try:
        path.write_text(before.replace(old, new, 1))
        output = project.run("dvc", "repro", code=255)
        assert message in output
        assert "Traceback" not in output
        assert output.count("Running stage") == 1
    finally:
        path.write_text(before)
        project.run("dvc", "repro", "check")


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_archive_answers_as_in_process(variant: str, project: Project, server: str) -> None:
    bundle, graph = (project.root / "outputs/models" / path for path in ("selected", f"onnx/{variant}/{GRAPH_FILE}"))
    # As the server runs it: another device rounds otherwise.
    engine = OnnxEngine(graph, device=DEVICE) if graph.is_file() else TorchEngine(bundle, DEVICE)
    (expected,) = Predictor(bundle, engine).predict([POST], fast_path=False)
    asked = {"text": POST, "fast_path": "off"}
    status, answer = ask(server, project, variant, json.dumps(asked).encode())
    assert (status, answer["label"], answer["path"]) == (200, expected.label, "full")
    assert max(answer["probabilities"].values()) == pytest.approx(expected.probabilities.max(), abs=1e-4)
    assert answer["model"] == {"name": variant, "version": "1.0"}
    # The same post as plain text, on the path that the cascade chooses.
    (expected,) = Predictor(bundle, engine).predict([POST])
    status, answer = ask(server, project, variant, POST.encode(), "text/plain")
    assert (status, answer["label"], answer["path"]) == (200, expected.label, expected.path)


def test_bad_posts_get_an_answer_of_their_own(project: Project, server: str) -> None:
    for body, code in ((b'{"text": ""}', 422), (b'{"text": 5}', 422), (b"{", 400)):
        status, answer = ask(server, project, "newsgroups", body)
        assert (status, answer["code"]) == (code, code)
        assert answer["reason"]
        assert answer["mend"]
    status, answer = ask(server, project, "newsgroups", b"word " * 199_999, "text/plain")
    assert (status, isinstance(answer["label"], str)) == (200, True)
    assert ask(server, project, "newsgroups", json.dumps({"text": POST}).encode())[0] == 200


def test_locust_against_the_server(project: Project, server: str) -> None:
    locust = ("locust", "-f", "loadtest/locustfile.py", "--headless", "--only-summary", "--host", server)
    output = project.run(*locust, "--users", "4", "--requests", "40", "--bad-share", "0.2", "--explain-share", "0.2")
    assert "predict" in output
    refused = project.run(*locust, "--requests", "5", "--model", "absent", code=1)
    assert "model not loaded" in refused


def test_metrics_diff_and_plots(project: Project) -> None:
    compared = json.loads(project.run("dvc", "metrics", "diff", "--json").splitlines()[0])
    changed = compared["outputs/metrics/quality/shipped.json"]["macro_f1"]
    assert changed["new"] == project.metrics("quality")["selected"]["test"]["macro_f1"]
    head, *rows = project.run("dvc", "metrics", "show").splitlines()
    # A table that fits on a wide screen: a row for each system, test, method and variant.
    assert len(head) < 240 and {"macro_f1", "failed", "comprehensiveness", "rps", "cold_start_s"} <= set(head.split())
    named = {row.split()[0].removeprefix("outputs/metrics/").removesuffix(".json") for row in rows}
    assert {"quality/baseline", "behaviour/typo", "explain/lime", "serving/newsgroups-onnx-int8"} <= named
    project.run("dvc", "plots", "show", "--out", "report")
    page = (project.root / "report" / "index.html").read_text()
    assert [title for title in PLOT_TITLES if f'"title": {{"text": "{title}"' not in page] == []


@browsing.needs_chromium
@pytest.mark.parametrize("width", [browsing.PHONE, browsing.DESK])
def test_the_whole_report_renders(project: Project, browser: object, width: int) -> None:
    with browsing.shown(browser, project.root / "outputs" / "report" / "index.html", width) as page:
        assert page.evaluate("[...document.querySelectorAll('section')].map(section => section.id)") == list(TITLES)
        # Every section has something to show.
        assert min(page.evaluate("[...document.querySelectorAll('section')].map(s => s.innerText.length)")) > 200


def test_no_request_text_is_logged(project: Project, server: str) -> None:
    planted = "xylophonic"
    status, _ = ask(server, project, "newsgroups", json.dumps({"text": f"{POST} {planted}"}).encode())
    assert status == 200
    ask(server, project, "newsgroups", f'{{"text": 5, "{planted}": 1}}'.encode())
    logs = [project.root / "torchserve.log", *(project.root / "logs").rglob("*.log")]
    assert len(logs) > 1
    assert all(planted not in path.read_text(errors="replace") for path in logs)
