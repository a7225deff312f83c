"""The four commands on a small real slice: real corpus and checkpoint, real DVC, real TorchServe, real locust; and
somebody's own corpus as far as the archives."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import networkx
import pytest
import yaml
from dvc.repo import Repo

from handlers.onnx_engine import GRAPH_FILE, OnnxEngine
from handlers.predictor import Predictor
from handlers.schema import PROVENANCE_FILE
from handlers.torch_engine import TorchEngine
from stages.hardware import choose_device
from stages.report import TITLES
from stages.torchserve import PORTS, free_ports, own_config
from tests import browsing

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parent.parent
SMALL: dict[str, dict[str, Any]] = {
    "data": {"limit": 17},
    "prepare": {"validation": 0.2},
    "augment": {"share": 0.2},
    "train": {"max_tokens": 32, "epochs": 1, "evaluations": 1, "probe_epochs": 5},
    "explain": {"posts": 1, "samples": 40},
    "export": {"posts": 20, "reduced_agreement": 0.5, "reduced_f1_loss": 1},
    "benchmark": {"requests": 50, "warmup": 5, "slo_ms": 2000, "users": [2], "steps": 1},
}
# Eighteen posts of three classes, at data.path: each part needs one of each class.
OWN: dict[str, dict[str, Any]] = {"data": {"source": "files", "test": 0.34}, "prepare": {"validation": 0.34}}
VARIANTS = ["newsgroups", "newsgroups-onnx", "newsgroups-onnx-int8"]
DEVICE = choose_device().type
if DEVICE == "cuda":
    VARIANTS.append("newsgroups-onnx-fp16")
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


class Project:
    """A copy of this project in a folder of its own, with a git history and parameters changed in order."""

    def __init__(self, root: Path, temporary: Path, *changes: dict[str, dict[str, Any]]) -> None:
        self.root = root
        temporary.mkdir()
        copy_sources(root)
        params = yaml.safe_load((root / "params.yaml").read_text())
        for change in changes:
            for section, values in change.items():
                params[section] |= values
        (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
        scripts = Path(sys.executable).parent
        self.environment = os.environ | {
            "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
            "TMPDIR": str(temporary),
            "GIT_AUTHOR_NAME": "test",
            "GIT_AUTHOR_EMAIL": "test@localhost",
            "GIT_COMMITTER_NAME": "test",
            "GIT_COMMITTER_EMAIL": "test@localhost",
        }
        self.run("git", "init", "--quiet")
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", "before")

    def run(self, *command: str, code: int = 0) -> str:
        """Run a command in the project; what it printed, errors last. Fails on another exit status than `code`."""
        with subprocess.Popen(
            command,
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as child:
            try:
                printed, errors = child.communicate(timeout=900)
            except BaseException:
                # With all that it started; a stage stops its servers when it is asked to.
                os.killpg(child.pid, signal.SIGTERM)
                raise
        assert child.returncode == code, f"{' '.join(command)}\n{printed[-3000:]}\n{errors[-3000:]}"
        return printed + errors

    def metrics(self, name: str) -> dict[str, Any]:
        return json.loads((self.root / "outputs" / "metrics" / f"{name}.json").read_text())

    def stale(self) -> set[str]:
        """The stages that have changed, without their candidates."""
        status = json.loads(self.run("dvc", "status", "--json").splitlines()[0])
        return {name.partition("@")[0] for name in status}

    def would_run(self) -> set[str]:
        """The stages that have changed and those that read what they write."""
        graph = Repo(str(self.root)).index.graph
        # An edge leads from a stage to what it depends on.
        named = {stage.name.partition("@")[0]: stage for stage in graph}
        stale = self.stale()
        behind = {stage for name in stale for stage in networkx.ancestors(graph, named[name])}
        return stale | {stage.name.partition("@")[0] for stage in behind}


def copy_sources(folder: Path) -> None:
    """Copy what git knows of this project, or would with the next `git add`."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project after its first `dvc repro`."""
    project = Project(tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("scratch") / "tmp", SMALL)
    # Another TorchServe may be running here.
    config = project.root / "serve" / "config.properties"
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    config.write_text(own_config(config.read_text(), ports, Path("outputs/model_store")))
    print(project.run("dvc", "repro")[-1500:])
    return project


@pytest.fixture(scope="module")
def server(project: Project) -> Iterator[str]:
    """All archives in one TorchServe, started as the README says; its address."""
    log = project.root / "torchserve.log"
    archives = " ".join(f"{variant}.mar" for variant in VARIANTS)
    try:
        project.run("bash", "-c", f"source serve/env.sh && torchserve --start --models {archives} > {log} 2>&1")
        config = (project.root / "serve" / "config.properties").read_text()
        url = next(line.partition("=")[2] for line in config.splitlines() if line.startswith("inference_address="))
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
    changed = compared["outputs/metrics/quality.json"]["selected.test.macro_f1"]
    assert changed["new"] == project.metrics("quality")["selected"]["test"]["macro_f1"]
    assert "macro_f1" in project.run("dvc", "metrics", "show")
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


def test_ones_own_corpus_becomes_archives_that_answer_with_its_classes(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    own = Project(tmp_path / "project", tmp_path / "tmp", SMALL, OWN)
    own.run("dvc", "repro", "package")
    classes = sorted(folder.name for folder in (ROOT / "tests" / "corpus").iterdir())
    for variant in VARIANTS[:2]:
        unpacked = tmp_path / variant
        with zipfile.ZipFile(own.root / "outputs" / "model_store" / f"{variant}.mar") as archive:
            archive.extractall(unpacked)
        graph = unpacked / GRAPH_FILE
        predictor = Predictor(unpacked, OnnxEngine(graph) if graph.is_file() else TorchEngine(unpacked))
        assert list(predictor.labels) == classes
        for fast_path in (True, False):
            (answer,) = predictor.predict(["Sow the seeds in spring and water them."], fast_path)
            assert answer.label in classes
        corpus = json.loads((unpacked / PROVENANCE_FILE).read_text())["data"]["corpus"]
        assert corpus["source"] == "files"
        assert [list(corpus["posts_per_class"][split]) for split in ("train", "test")] == [classes, classes]
