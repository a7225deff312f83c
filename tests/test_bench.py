"""What the other benchmarks conclude from known samples."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import zipfile
from contextlib import nullcontext
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from stages.stage import StageError
from stages.torchserve import Server
from tests.bench import inprocess, servers
from tests.bench.archives import shipped_config, torch_archive, with_config
from tests.bench.coldstart import ENDS, medians, steps
from tests.bench.growth import draw
from tests.bench.seeds import summary
from tests.bench.stock import build_stock, ratio
from tests.bench.traffic import asked
from tests.bench.training import equal_score
from tests.bench.workers import explaining
from tests.conftest import POSTS

ROOT = Path(__file__).resolve().parent.parent


def test_the_stock_handler_finds_all_that_it_imports(tiny_bundle: Path, tmp_path: Path) -> None:
    build_stock(tmp_path / "stock.mar", tiny_bundle)
    with zipfile.ZipFile(tmp_path / "stock.mar") as archive:
        archive.extractall(tmp_path / "unpacked")
    # As in a worker, the unpacked archive is the only folder of ours that Python knows.
    command = [sys.executable, "-c", "import stock_handler"]
    done = subprocess.run(command, cwd=tmp_path / "unpacked", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_ratio_is_of_rounds() -> None:
    # What slows a round slows both sides, and is in neither's favour.
    assert ratio([30, 15, 60], [15, 7.5, 30]) == {"mean": 2, "low": 2, "high": 2}
    found = ratio([20, 40, 80], [10, 10, 10])
    # Twice, four and eight times: Student's t with two degrees of freedom, 4.303, times log(2) / sqrt(3).
    assert found == {"mean": 4, "low": pytest.approx(0.715, abs=1e-3), "high": pytest.approx(22.38, abs=0.01)}
    assert ratio([10], [5]) == {"mean": 2}
    assert ratio([10, 20], [0, 5]) is None


def test_other_servers_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    turns = iter([40.0, 20.0, 80.0, 10.0, 5.0, 20.0])

    class Load:
        posts, seed, knobs = Path("posts"), 0, SimpleNamespace(rounds=2)

        def closed(self, server: str, model: str, _: Path, users: int, *__: object) -> SimpleNamespace:
            if users == 1:
                return SimpleNamespace(rps=1.0)
            asked.append(f"{server} as {model}")
            return SimpleNamespace(rps=next(turns))

        def capacities(self, served: list[Any], _: Path, starts: list[float], __: bool) -> list[dict[str, Any]]:
            assert [name for _, name in served] == ["torchserve", "litserve"] and starts == [7.0, 3.5]
            return [{"rounds_rps": {"1": 9.0, "2": 18.0}}, {"rounds_rps": {"1": 3.0, "2": 6.0}}]

    def alone(*_: object, **__: object) -> float:
        asked.append("alone")
        return next(turns)

    monkeypatch.setattr(servers, "asked", lambda *_: ["a car"])
    monkeypatch.setattr(servers, "serving", lambda *_: nullcontext("ours"))
    monkeypatch.setattr(servers, "litserving", lambda *_: nullcontext("theirs"))
    monkeypatch.setattr(servers.inprocess, "rate", alone)
    found = servers.compare(Path("m.mar"), Load(), full_path=True)
    assert asked == ["ours as torchserve", "theirs as litserve", "alone"] * 2
    same = {"low": pytest.approx(2), "high": pytest.approx(2), "mean": 2}
    assert found["saturated_rps"]["ratios"]["torchserve / litserve"] == same
    shares = {name: each["mean"] for name, each in found["saturated_rps"]["ratios"].items()}
    assert shares == {"torchserve / litserve": 2, "torchserve / in_process": 0.5, "litserve / in_process": 0.25}
    assert found["capacity"]["ratios"] == {"torchserve / litserve": {"mean": 3, "low": 3, "high": 3}}


def test_a_start_is_taken_apart_by_its_log() -> None:
    started = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp()
    log = ["no JSON"]
    # A message that comes twice, as from a second worker, counts once.
    for number, message in enumerate([*ENDS.values(), list(ENDS.values())[-1]], start=1):
        log.append(json.dumps({"time": f"2026-01-02T03:04:{5 + number**2:02}.500Z", "message": f"{message} x"}))
    found = steps(log, started, started + 20)
    assert list(found.values()) == [1.5, 3, 5, 7, 3.5]
    assert medians([{"total": 1.0}, {"total": 9.0}, {"total": 2.0}]) == {"total": 2.0}
    with pytest.raises(StageError, match="Python and PyTorch"):
        steps(log[:3], started, started + 20)


def test_an_archive_with_other_settings_differs_in_nothing_else(tiny_bundle: Path, tmp_path: Path) -> None:
    usual = torch_archive(tiny_bundle, tmp_path / "newsgroups.mar")
    assert with_config(usual, tmp_path) == usual
    copy = with_config(usual, tmp_path / "other", workers=2, precision="bf16", queue=16, batch=1)
    with zipfile.ZipFile(usual) as one, zipfile.ZipFile(copy) as two:
        assert one.namelist() == two.namelist()
        changed = [name for name in one.namelist() if one.read(name) != two.read(name)]
        config = yaml.safe_load(two.read("newsgroups.yaml"))
    assert changed == ["newsgroups.yaml"] and (config["minWorkers"], config["maxWorkers"]) == (2, 2)
    assert config["handler"] == shipped_config()["handler"] | {"precision": "bf16"}
    assert (config["jobQueueSize"], config["batchSize"]) == (16, 1)


def test_in_process_and_the_load_test_read_the_same_posts(tmp_path: Path) -> None:
    (tmp_path / "posts.txt").write_text("".join(f"post {'abc'[i % 3]}{i}\n" for i in range(30)))
    (tmp_path / "key.json").write_text('{"inference": {"key": "k"}}')
    options = {"bad_share": 0, "explain_share": 0, "full_path": True, "posts": "posts.txt", "key_file": "key.json"}
    code = (
        f"import json, sys; from argparse import Namespace; sys.path.insert(0, {str(ROOT / 'loadtest')!r}); "
        f"import locustfile; run = locustfile.Run(Namespace(seed=3, **{options})); "
        "print(json.dumps([json.loads(run.next_request()[1])['text'] for _ in range(50)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert asked(tmp_path / "posts.txt", 50, seed=3) == json.loads(done.stdout)


def test_predictors_in_process_get_all_posts_through(tiny_bundle: Path, tmp_path: Path) -> None:
    archive = torch_archive(tiny_bundle, tmp_path / "newsgroups.mar")
    texts = [text for texts in POSTS.values() for text in texts]
    assert inprocess.rate(archive, texts, fast_path=False) > 0
    with zipfile.ZipFile(archive) as whole, zipfile.ZipFile(tmp_path / "broken.mar", "w") as broken:
        for name in set(whole.namelist()) - {"model.safetensors"}:
            broken.writestr(name, whole.read(name))
    with pytest.raises(StageError, match="in process ended with 1"):
        inprocess.rate(tmp_path / "broken.mar", texts, fast_path=False)


def test_seeds_have_a_mean_and_a_spread() -> None:
    def run(f1: float, posts: int = 100) -> dict[str, Any]:
        score = {"accuracy": f1, "macro_f1": f1, "ece": 0.02}
        parts = dict.fromkeys(("wide", "deep", "fused", "shipped"), score)
        return {"test": {"posts": posts, "fast_share": 0.7, "baseline": {"accuracy": 0.5, "macro_f1": 0.5}, **parts}}

    found = summary([run(0.8), run(0.9), run(1.0)])
    f1 = found["shipped"]["macro_f1"]
    # Student's t of two degrees of freedom: 4.303 standard errors.
    assert (f1["mean"], f1["sd"], f1["values"]) == (0.9, 0.1, [0.8, 0.9, 1.0])
    assert f1["high"] - f1["mean"] == pytest.approx(4.303 * 0.1 / 3**0.5, abs=2e-4)
    assert found["over_baseline"]["macro_f1"]["mean"] == 0.4 and found["fast_share"]["sd"] == 0
    with pytest.raises(StageError, match="one corpus"):
        summary([run(0.8), run(0.8, posts=99)])


@pytest.mark.parametrize("status", [200, 422])
def test_posts_are_explained_until_the_block_ends(status: int, tmp_path: Path) -> None:
    asked: list[str] = []
    enough = threading.Event()

    class Explainer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path + json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            if len(asked) > 2:
                enough.set()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Explainer) as http:
        threading.Thread(target=http.serve_forever).start()
        key = tmp_path / "key_file.json"
        key.write_text(json.dumps({"inference": {"key": "k"}}))
        url = f"http://127.0.0.1:{http.server_port}"
        server = Server(url, url, url, key, tmp_path / "log", 0, 0.0)
        failing = pytest.raises(StageError, match="an explanation failed: 422")
        try:
            with nullcontext() if status == 200 else failing, explaining(server, "m", ["a", "b"]):
                assert enough.wait(10)
        finally:
            http.shutdown()
    assert asked[:3] == ["/explanations/ma", "/explanations/mb", "/explanations/ma"]


def test_growth_is_drawn(tmp_path: Path) -> None:
    rows = [{"tokens": 1000 * size, "total_s": 1.1 * size, "peak_mib": 900.0} for size in (1, 2, 4)]
    time, memory = draw(rows, tmp_path / "growth.png").axes
    assert time.lines[0].get_ydata().tolist() == [row["total_s"] for row in rows]
    assert memory.lines[0].get_ydata().tolist() == [row["peak_mib"] for row in rows]
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_an_equal_score_costs_what_the_last_of_the_stock_runs_took() -> None:
    runs = [{"macro_f1": 0.46, "total_s": 80.0}, {"macro_f1": 0.736, "total_s": 160.0}]
    found = equal_score(runs, {"macro_f1": 0.74, "total_s": 40.0})
    assert found == {"stock_macro_f1_by_epochs": [0.46, 0.736], "stock_s": 160.0, "times_as_fast": 4.0}


def test_a_score_that_the_stock_side_never_reached_gives_no_ratio() -> None:
    found = equal_score([{"macro_f1": 0.46, "total_s": 80.0}], {"macro_f1": 0.74, "total_s": 40.0})
    assert found["times_as_fast"] is None
