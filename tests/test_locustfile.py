"""The real locust against a real TorchServe with a trivial archive."""

from __future__ import annotations

import contextlib
import csv
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import requests

from loadtest.openloop import percentile
from stages.loadrun import run
from stages.torchserve import Server, free_ports
from tests import trivial

ROOT = Path(__file__).resolve().parent.parent

server = trivial.server


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
        (("--host", "http://127.0.0.1:9"), "is there a server at --host"),
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


def test_its_web_page_starts_runs_and_refuses_what_cannot_be(server: Server, tmp_path: Path) -> None:
    [port] = free_ports(1)
    page = f"http://127.0.0.1:{port}"
    command = [word for word in locust_command(server, tmp_path) if word not in ("--headless", "--only-summary")]
    command += ["--web-host", "127.0.0.1", "--web-port", str(port)]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(command, cwd=tmp_path, stderr=log) as child:
        try:
            shown = wait_for(lambda: requests.get(page, timeout=5).text)
            fields = json.loads(re.search(r"window.templateArgs = (.*)", shown)[1])["extra_options"]
            assert {"model", "posts", "bad_share", "explain_share", "full_path"} <= fields.keys()
            # An open loop has no page.
            assert fields.keys().isdisjoint({"rate", "slo_ms", "samples"})
            # As the page does, with every field of its form.
            form = {name: field["default_value"] for name, field in fields.items()}
            form |= {"user_count": 2, "spawn_rate": 2, "host": server.url}

            def start(**changes: Any) -> None:
                assert requests.post(f"{page}/swarm", data=form | changes, timeout=5).json()["success"]

            def asked() -> dict[str, int]:
                told = requests.get(f"{page}/stats/requests", timeout=5).json()
                assert not any(row["num_failures"] for row in told["stats"])
                done = told["state"] == "stopped"
                return {row["name"]: row["num_requests"] for row in told["stats"]} if done else {}

            start(requests=30)
            wait_for(lambda: asked().get("Aggregated") == 30)
            start(bad_share=2)
            wait_for(lambda: "--bad-share is 2: give 0 to 1" in requests.get(f"{page}/logs", timeout=5).text)
            wait_for(lambda: asked().get("Aggregated") == 0)
            start(requests=20, bad_share=0.5)
            wait_for(lambda: asked().get("bad"))
            child.send_signal(signal.SIGTERM)
            assert child.wait(timeout=30) == 0
        finally:
            child.kill()


def wait_for(question: Callable[[], Any]) -> Any:
    """Its first answer that is true; a page that is not there yet gives none."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with contextlib.suppress(requests.ConnectionError):
            if answer := question():
                return answer
        time.sleep(0.1)
    raise TimeoutError


def test_several_processes_load_one_server(server: Server, tmp_path: Path) -> None:
    done = locust(server, tmp_path, "--processes", "2", "-u", "4", "-r", "4", "--run-time", "3s", "--bad-share", "0.3")
    assert done.returncode == 0, done.stderr
    assert "bad" in done.stdout + done.stderr and "predict" in done.stdout + done.stderr
    # A run that cannot be ends at once, its workers too: their output would keep this call waiting.
    done = locust(server, tmp_path, "--processes", "2", "-u", "4", "--run-time", "2s", "--model", "other")
    assert done.returncode == 1 and "model not loaded" in done.stderr


@pytest.mark.parametrize("apart", [False, True], ids=["same files", "other files"])
def test_a_worker_elsewhere_that_lacks_the_masters_files_ends_the_run(
    server: Server, tmp_path: Path, apart: bool
) -> None:
    [port] = free_ports(1)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "own.txt").write_text("a post\n")
    own = ["--worker", "--master-port", str(port), "--key-file", str(server.key_file)]
    command = [sys.executable, "-m", "locust", "-f", str(ROOT / "loadtest" / "locustfile.py"), *own]
    command += ["--posts", "own.txt" if apart else "posts.txt"]
    master = ("--master", "--expect-workers", "1", "--master-bind-port", str(port), "-u", "2", "--run-time", "4s")
    (tmp_path / "posts.txt").write_text("a post\n")
    with subprocess.Popen(command, cwd=elsewhere if apart else tmp_path, stderr=subprocess.DEVNULL) as worker:
        try:
            done = locust(server, tmp_path, *master)
        finally:
            worker.kill()
    assert done.returncode == int(apart), done.stderr
    assert ("posts.txt" in done.stderr) == apart


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
    with subprocess.Popen(
        locust_command(server, tmp_path, "--rate", "20", "--requests", "2000"),
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # Of what a shell starts in the background it is ignored, and would stay so.
        preexec_fn=lambda: signal.signal(sent, signal.SIG_DFL),
    ) as child:
        try:
            wait_for_a_client(server)
            child.send_signal(sent)
            _, told = child.communicate(timeout=30)
        finally:
            child.kill()
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
