"""kill -9 on the worker, every few seconds under load: how soon are there answers again, and which requests fail?

    python -m tests.bench.kill --seconds 60 --period 5
    python -m tests.bench.kill --archive outputs/model_store/newsgroups-onnx-int8.mar

Exit status 1 where answers took longer than --within to come back, a request failed that was not in flight when a
worker was killed, one got no answer within --timeout, an answer was not the one that the post got alone, or no worker
was killed.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from stages.stage import StageError
from stages.torchserve import Server, serving
from tests.bench.archives import with_config
from tests.bench.client import Client
from tests.bench.traffic import Exchange, arguments, draw, load, post, report
from tests.bench.verdict import same
from tests.bench.watching import beside
from tests.bench.worker import parse

CLIENTS = 4
POSTS = 20


def run(archive: Path, posts: Path, seed: int, seconds: float, period: float, timeout: float) -> dict[str, Any]:
    """Serve `archive`, load it, and kill its oldest worker every `period` seconds. Returns what happened.

    Raises StageError where no worker was killed, or TorchServe died.
    """
    bodies = [post(text) for text in draw(posts, POSTS, seed)]
    with serving(archive, archive.stem) as server:
        client = Client(server, archive.stem, timeout)
        expected = [parse(client.post(body).body) for body in bodies]
        until = time.monotonic() + seconds
        with beside(lambda over: _kill(server, period, until - period, over)) as killing:
            exchanges = load(client, bodies, CLIENTS, until)
    if not (kills := killing.result()):
        raise StageError("no worker was killed, for none was alive when it was time: give a longer --period")
    return verdict(exchanges, expected, kills)


def _kill(server: Server, period: float, until: float, over: threading.Event) -> list[float]:
    """Kill the oldest worker every `period` seconds until `until`. Returns when (both of time.monotonic())."""
    kills = []
    while time.monotonic() < until and not over.wait(period):
        # A worker may die by itself between being found and being killed.
        with contextlib.suppress(psutil.NoSuchProcess):
            if workers := sorted(server.workers, key=psutil.Process.create_time):
                workers[0].kill()
                kills.append(time.monotonic())
    return kills


def verdict(exchanges: Sequence[Exchange], expected: Sequence[Any], kills: Sequence[float]) -> dict[str, Any]:
    """What the exchanges say. back_s: seconds from each kill to the next right answer to a request sent after it."""
    good = [exchange.reply for exchange in exchanges if exchange.reply.status == 200]
    failed = [exchange.reply for exchange in exchanges if exchange.reply.status != 200]
    in_flight = [any(reply.sent <= kill <= reply.sent + reply.seconds for kill in kills) for reply in failed]
    back = []
    for kill in kills:
        answered = [reply.sent + reply.seconds - kill for reply in good if reply.sent > kill]
        back.append(round(min(answered), 2) if answered else None)
    wrong = sum(
        exchange.reply.status == 200 and not same(parse(exchange.reply.body), expected[exchange.number])
        for exchange in exchanges
    )
    return {
        "kills": len(kills),
        "back_s": back,
        "answered": len(good),
        "slowest_s": round(max((reply.seconds for reply in good), default=0.0), 2),
        "failed": len(failed),
        "failed_not_in_flight": len(failed) - sum(in_flight),
        "failures": dict(Counter(f"{reply.status} {reply.body[:60].decode(errors='replace')}" for reply in failed)),
        "no_answer_in_time": sum(reply.status == 0 and reply.body == b"TimeoutError" for reply in failed),
        "wrong_answers": wrong,
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--workers", type=int, help="instead of the archive's own number of them")
    parser.add_argument("--period", type=float, default=5, help="seconds between kills")
    parser.add_argument("--timeout", type=float, default=30, help="seconds that a client waits")
    parser.add_argument("--within", type=float, default=10, help="seconds until there must be answers again")
    options = parser.parse_args()
    if not 0 < options.period < options.seconds:
        parser.error(f"--period is {options.period:g}: give more than 0 and less than --seconds, {options.seconds:g}")
    for name in ("workers", "timeout", "within"):
        if (value := getattr(options, name)) is not None and not value > 0:
            parser.error(f"--{name} is {value:g}: give more than 0")
    with tempfile.TemporaryDirectory() as folder:
        archive = with_config(options.archive, Path(folder), options.workers)
        try:
            figures = run(archive, options.posts, options.seed, options.seconds, options.period, options.timeout)
        except StageError as error:
            sys.exit(f"kill: {error}")
    report(figures, options.output)
    late = any(back is None or back > options.within for back in figures["back_s"])
    sys.exit(late or any(figures[key] for key in ("failed_not_in_flight", "no_answer_in_time", "wrong_answers")))


if __name__ == "__main__":
    main()
