"""What the benchmarks of faults conclude from known samples, and a minute of soak where that is asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from loadtest.answers import failure
from stages.params import load as params_file
from stages.stage import StageError
from tests.bench import kill, overload, soak
from tests.bench.archives import torch_archive
from tests.bench.bodies import Body
from tests.bench.client import Reply
from tests.bench.hostile import judge
from tests.bench.kill import verdict
from tests.bench.overload import halves, missed, on, split
from tests.bench.traffic import Exchange
from tests.bench.verdict import Tally
from tests.bench.watching import beside
from tests.conftest import POSTS

# As TorchServe 0.12 answers when its queue is full, whatever the words say.
FULL = {
    "code": 503,
    "type": "ServiceUnavailableException",
    "message": 'Model "newsgroups" has no worker to serve inference request. Please use scale workers API',
}


def exchange(sent: float, seconds: float, status: int = 200, body: bytes = b'{"label": "a"}') -> Exchange:
    return Exchange(0, Reply(status, "application/json", body, sent, seconds))


def test_only_what_was_in_flight_may_fail() -> None:
    exchanges = [
        exchange(0, 0.5),
        exchange(9.9, 0.2, 503, b"Worker died."),
        exchange(10.2, 0.1, 503, b"Worker died."),
        exchange(10.3, 3.0),
        exchange(14.0, 0.1, body=b'{"label": "b"}'),
        exchange(14.5, 30.0, 0, b"TimeoutError"),
    ]
    figures = verdict(exchanges, [{"label": "a"}], [10.0, 20.0])
    assert figures["back_s"] == [3.3, None]
    assert (figures["failed"], figures["failed_not_in_flight"], figures["no_answer_in_time"]) == (3, 1, 1)
    assert figures["wrong_answers"] == 1 and figures["answered"] == 3
    close = [exchange(0, 0.5, body=b'{"label": "a", "p": 0.55}')]
    assert [verdict(close, [{"label": "a", "p": p}], [])["wrong_answers"] for p in (0.5, 0.55001)] == [1, 0]


class FakeWorker:
    """A worker that is killed, or has died between being found and that. age: in seconds."""

    def __init__(self, age: float, alive: bool = True) -> None:
        self.age, self.alive, self.kills = age, alive, 0

    def create_time(self) -> float:
        return -self.age

    def kill(self) -> None:
        if not self.alive:
            raise psutil.NoSuchProcess(1)
        self.kills += 1


def killing(monkeypatch: pytest.MonkeyPatch, *turns: list[FakeWorker] | None) -> dict[str, Any]:
    """A run of `kill` without a server, until the workers of all turns have been found; None is a server that died."""
    left, over = [*turns, []], threading.Event()

    class Server:
        @property
        def workers(self) -> list[FakeWorker]:
            found = left.pop(0)
            if not left:
                over.set()
            if found is None:
                over.set()
                raise StageError("TorchServe has died")
            return found

    def load(*_: object) -> list[Exchange]:
        assert over.wait(60)
        return []

    monkeypatch.setattr(kill, "serving", lambda *_: nullcontext(Server()))
    monkeypatch.setattr(kill, "draw", lambda *_: ["a car"])
    monkeypatch.setattr(kill, "Client", lambda *_: SimpleNamespace(post=lambda _: Reply(200, "", b"{}", 0, 0)))
    monkeypatch.setattr(kill, "load", load)
    monkeypatch.setattr(kill.psutil.Process, "create_time", FakeWorker.create_time)
    return kill.run(Path("m.mar"), Path("posts"), seed=0, seconds=60, period=0.01, timeout=1)


def test_a_worker_that_died_by_itself_is_not_counted_as_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    young, old = FakeWorker(age=1), FakeWorker(age=2)
    assert killing(monkeypatch, [FakeWorker(age=1, alive=False)], [young, old])["kills"] == 1
    assert (young.kills, old.kills) == (0, 1)


def test_a_run_in_which_nothing_was_killed_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StageError, match="no worker was killed"):
        killing(monkeypatch, [], [FakeWorker(age=1, alive=False)])


def test_a_server_that_died_ends_the_killing_and_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StageError, match="TorchServe has died"):
        killing(monkeypatch, [FakeWorker(age=1)], None)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--seconds", "5", "--period", "5"], "--period is 5: give more than 0 and less than --seconds, 5"),
        (["--period", "0"], "--period is 0"),
        (["--within", "0"], "--within is 0: give more than 0"),
        (["--workers", "0"], "--workers is 0: give more than 0"),
    ],
)
def test_impossible_options_are_refused_before_any_work(
    options: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["kill", *options])
    monkeypatch.setattr(kill, "run", lambda *_: pytest.fail("there was work"))
    with pytest.raises(SystemExit) as left:
        kill.main()
    assert left.value.code == 2 and said in capsys.readouterr().err


def test_what_goes_on_beside_a_load_ends_with_it_and_its_failure_is_not_lost() -> None:
    def until_told(over: threading.Event) -> str:
        assert over.wait(10)
        return "seen"

    with beside(until_told) as watching:
        assert not watching.done()
    assert watching.result() == "seen"
    with pytest.raises(KeyError), beside(until_told):
        raise KeyError


def test_what_a_watcher_raises_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dying:
        """A server whose memory can be read `reads` times."""

        frontend = SimpleNamespace(memory_full_info=lambda: SimpleNamespace(pss=1e6))

        def __init__(self, reads: int) -> None:
            self.reads, self.dead = reads, threading.Event()

        def cpu_seconds(self) -> float:
            return 0.0

        def descriptors(self) -> int:
            return 1

        def resident_mb(self) -> float:
            if not self.reads:
                self.dead.set()
                raise StageError("TorchServe has died")
            self.reads -= 1
            return 2.0

    server = Dying(reads=2)

    def load(*_: object, samples: Path = Path("overload.csv"), **__: object) -> Any:
        # The benchmark of overload runs others before, which nothing watches.
        if samples.stem == "overload":
            assert server.dead.wait(60)
        return SimpleNamespace(p99_ms=1.0, errors=0)

    monkeypatch.setattr(soak, "INTERVAL_S", 0.01)
    monkeypatch.setattr(soak, "draw", lambda *_: ["a car"])
    monkeypatch.setattr(soak, "Client", lambda *_: None)
    monkeypatch.setattr(soak, "load", load)
    monkeypatch.setattr(overload, "WATCH_S", 0.01)
    monkeypatch.setattr(overload, "run_locust", load)
    for bench in (soak, overload):
        monkeypatch.setattr(bench, "serving", lambda *_: nullcontext(server))
    with pytest.raises(StageError, match="TorchServe has died"):
        soak.run(Path("m.mar"), Path("posts"), seed=0, minutes=5)
    server = Dying(reads=2)
    with pytest.raises(StageError, match="TorchServe has died"):
        overload.run(Path("m.mar"), Path("posts"), 0, params_file().benchmark, 10.0, 4.0, 1.0, apart=False)


def test_a_server_error_for_a_bad_body_is_a_failure_whoever_gave_it() -> None:
    tally, body = Tally(), Body("a broken form", b"--")
    for status, kind in (
        (400, "BadRequestException"),
        (500, "ErrorDataDecoderException"),
        (503, "InternalServerException"),
    ):
        said = json.dumps({"code": status, "type": kind, "message": ""}).encode()
        judge(tally, body, Reply(status, "application/json", said, 0.0, 0.0))
    judge(tally, body, Reply(0, "", b"ConnectionResetError", 0.0, 0.0))
    assert tally.bodies == 4 and tally.refused == {"400 BadRequestException": 1}
    assert tally.problems == {
        "status 500 of the front end: ErrorDataDecoderException": 1,
        "status 503": 1,
        "status 0": 1,
    }


def test_refused_and_accepted_are_told_apart(tmp_path: Path) -> None:
    rows = [f"{i},{100 + i},0,1" for i in range(10)] + [f"{i},{5 + i},3,0" for i in range(10)]
    (tmp_path / "s.csv").write_text("\n".join(["scheduled_s,latency_ms,lag_ms,ok", *rows]) + "\n")
    (tmp_path / "s.json").write_text(json.dumps({"problems": {failure(503, FULL): 9, "the label is unknown": 1}}))
    figures = split(tmp_path / "s.csv")
    times = {"p50_ms": 104.0, "p99_ms": 109.0, "server_p50_ms": 104.0, "server_p99_ms": 109.0}
    assert figures["accepted"] == {"requests": 10, "rps": 1.1} | times
    assert figures["refused"]["p99_ms"] == 14.0 and figures["refused"]["server_p99_ms"] == 11.0
    assert figures["failed_otherwise"] == {"the label is unknown": 1}


def test_overload_has_bounds() -> None:
    good = {
        "failed_otherwise": {},
        "accepted": {"server_p99_ms": 250.0},
        "refused": {"server_p99_ms": 50.0},
        "resident_mb": {"before": 1000, "most": 1250},
    }
    assert missed(good, 250, 50) == []
    worse = {"resident_mb": {"before": 1000, "most": 1251}}
    assert missed(good | worse, 250, 50) == ["memory grew from 1000 to 1251 MB"]
    worse = {"accepted": {"server_p99_ms": 250.1}, "refused": {"server_p99_ms": None}}
    assert missed(good | worse, 250, 50) == [
        "p99 of accepted requests was 250.1 ms, over 250",
        "no request was refused",
    ]
    assert missed(good | {"failed_otherwise": {"no label": 2}}, 250, 50) == ["no label: 2"]


def test_the_server_gets_one_half_of_the_cores() -> None:
    assert halves({4, 1, 7}) == ({1}, {4, 7})
    with pytest.raises(StageError, match="leave --apart out"):
        halves({3})


def test_processes_start_on_the_given_cores_alone() -> None:
    before = os.sched_getaffinity(0)
    with pytest.raises(KeyError), on({max(before)}):
        command = [sys.executable, "-c", "import os; print(os.sched_getaffinity(0))"]
        assert subprocess.check_output(command, text=True).strip() == str({max(before)})
        raise KeyError
    assert os.sched_getaffinity(0) == before


def test_growth_is_noticed() -> None:
    figures = {"problems": {}, "mb_a_minute": {"all": 0.9}, "descriptors": {"first_half": 90, "second_half": 90}}
    assert soak.grew(figures, 1.0) == []
    worse = figures | {"problems": {"bad: no JSON": 2}, "mb_a_minute": {"all": 1.1}}
    worse["descriptors"] = {"first_half": 90, "second_half": 91}
    assert len(soak.grew(worse, 1.0)) == 3
    # The workers gave back what the front end took.
    hidden = figures | {"mb_a_minute": {"all": 0.2, "front end": 1.3, "workers": -1.1}}
    assert soak.grew(hidden, 1.0) == ["memory of front end grew by 1.3 MB a minute"]


@pytest.mark.soak
def test_a_minute_of_mixed_traffic(tiny_bundle: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if "soak" not in request.config.getoption("-m"):
        pytest.skip("takes a minute and a quiet machine: pytest -m soak")
    posts = tmp_path / "posts.txt"
    posts.write_text("\n".join(text for texts in POSTS.values() for text in texts * 7))
    figures = soak.run(torch_archive(tiny_bundle, tmp_path / "newsgroups.mar"), posts, seed=20, minutes=1)
    # Workers have seen every kind of request within seconds: a handler in process grows by 2 MB over 8,000 of them,
    # nearly all of it in the first thousand. Ten a minute leave room for a step of the allocator, which a line through
    # 40 seconds makes steep, but not for a kilobyte that every request leaves behind.
    assert figures["mb_a_minute"]["workers"] <= 10
    # The front end's heap, of up to 512 MB, still fills in its first minute: it has more room than in half an hour.
    assert soak.grew(figures, slope=60) == []
    assert {"200", "400", "422"} <= figures["codes"].keys()
