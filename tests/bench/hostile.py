"""Bodies that no client should send, in batches with good ones: every answer is JSON, and no good one changes.

    python -m tests.bench.hostile --bodies 100000
    python -m tests.bench.hostile --bodies 0 --http 5000 --archive outputs/model_store/newsgroups.mar

In process: TorchServe's decoding and encoding around the handler, on a tiny model. Over HTTP: a real TorchServe, many
clients at once, so that its batches mix. Exit status 1 where something happened that must not: among it a 5xx for a bad
body, whether the handler's or, as the figures then say, the front end's own.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tqdm import tqdm

from handlers.cores import usable_cores
from handlers.newsgroups import NewsgroupsHandler
from stages.stage import StageError
from stages.torchserve import serving
from tests.bench.bodies import Body, bodies, corpus, large
from tests.bench.client import Client, Reply
from tests.bench.traffic import report
from tests.bench.verdict import FRONT_END_KEYS, Tally
from tests.bench.worker import Worker, parse, quiet
from tests.conftest import build_bundle

GOOD = (
    Body("good", b'{"text": "The car needs engine oil"}'),
    Body("good, full path", b'{"text": "orbit around the moon", "fast_path": "off"}'),
    Body("good, explained", b'{"text": "a hockey team plays on ice"}', endpoint="explanations"),
    Body("good, several", b'{"instances": ["the goalie saved the puck", "a satellite"], "top_k": 2}'),
)
# Hostile bodies beside the good ones in one batch; together four times what the server takes at once.
HOSTILE_A_BATCH = 12
CLIENTS = 16
# How the front end names a batch of which the worker made no answers, because the handler raised or the worker died.
HANDLER_FAILED = "InternalServerException"


class Checker:
    """Sends batches to a worker and judges every answer."""

    def __init__(self, worker: Worker) -> None:
        self.worker, self.tally = worker, Tally()
        self.expected = [parse(worker.answer([body])[0][2]) for body in GOOD]

    def batch(self, hostile: Sequence[Body]) -> None:
        """One batch: a good body after every third hostile one."""
        turn = self.tally.bodies // HOSTILE_A_BATCH
        batch: list[tuple[Body, int | None]] = []
        for number, body in enumerate(hostile):
            batch.append((body, None))
            if number % 3 == 0:
                good = (turn + number // 3) % len(GOOD)
                batch.append((GOOD[good], good))
        try:
            answers = self.worker.answer([body for body, _ in batch])
        except Exception as error:
            self.tally.bodies += len(hostile)
            names = ", ".join(body.name for body in hostile)
            self.tally.problem(f"an exception: {type(error).__name__}", f"{error}: {names}")
            return
        for (body, good), (status, media, content) in zip(batch, answers, strict=True):
            if good is None:
                self.tally.hostile(body.name, status, media, content)
            else:
                self.tally.mate(self.expected[good], status, content)


def tiny_worker(folder: Path) -> Worker:
    """A worker with the tiny model, which it makes in `folder`; one thread, because its tensors gain from no more."""
    return Worker(build_bundle(folder), NewsgroupsHandler(), workers=usable_cores())


def in_process(checker: Checker, count: int, seed: int, progress: Callable[[int], object]) -> None:
    """Send the corpus once, then invented and damaged bodies until there were `count`."""
    known = [*corpus(), *large()]
    for start in range(0, len(known), HOSTILE_A_BATCH):
        checker.batch(known[start : start + HOSTILE_A_BATCH])
    progress(checker.tally.bodies)

    # Only generation: a failure is counted, not shrunk.
    @hypothesis.seed(seed)
    @settings(
        max_examples=max(1, (count - checker.tally.bodies) // HOSTILE_A_BATCH + 1),
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(bodies(), min_size=HOSTILE_A_BATCH, max_size=HOSTILE_A_BATCH))
    def run(batch: list[Body]) -> None:
        checker.batch(batch)
        progress(len(batch))

    run()


def over_http(archive: Path, count: int, seed: int) -> tuple[Tally, list[str]]:
    """Send `count` bodies from many clients at once to `archive`. Returns the tally and what befell the workers."""
    model = archive.stem
    # Hypothesis draws outside of a test only one by one and slowly; the corpus, damaged at random, is as nasty.
    generator = random.Random(seed)
    known, huge = corpus(), large()
    hostile = [*known, *huge, *(damaged(generator.choice(known), generator) for _ in range(count))][:count]
    requests: list[tuple[Body, int | None]] = [(body, None) for body in hostile]
    requests += [(GOOD[i % len(GOOD)], i % len(GOOD)) for i in range(count // 3)]
    generator.shuffle(requests)
    tally = Tally()
    with serving(archive, model) as server, ThreadPoolExecutor(CLIENTS) as pool:
        client = Client(server, model)
        expected = [parse(client.post(body).body) for body in GOOD]
        before = {process.pid for process in server.workers}
        replies = pool.map(lambda request: client.post(request[0]), requests)
        for (body, good), reply in tqdm(zip(requests, replies, strict=True), "over HTTP", len(requests), leave=False):
            if good is not None:
                tally.mate(expected[good], reply.status, reply.body)
            else:
                judge(tally, body, reply)
        dead = [f"worker {pid} died" for pid in before - {process.pid for process in server.workers}]
        lines = server.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return tally, dead + [line for line in lines if "Retry worker" in line]


def judge(tally: Tally, body: Body, reply: Reply) -> None:
    """Judge the reply to a hostile body, of the front end or of the handler."""
    if kind := front_end_refusal(reply):
        tally.front_end(body.name, reply.status, kind)
    else:
        tally.hostile(body.name, reply.status, reply.media, reply.body)


def front_end_refusal(reply: Reply) -> str | None:
    """The name that TorchServe's front end gives to its own answer; None for an answer of the handler, and for what
    the front end says when the handler gave none."""
    try:
        answer = parse(reply.body)
    except ValueError:
        return None
    if not isinstance(answer, dict) or answer.keys() != FRONT_END_KEYS or answer["type"] == HANDLER_FAILED:
        return None
    return answer["type"]


def damaged(body: Body, generator: random.Random) -> Body:
    """The body with one to four of its bytes replaced, or cut off."""
    raw = bytearray(body.raw)
    if generator.random() < 0.3:
        del raw[generator.randrange(len(raw) + 1) :]
    for _ in range(generator.randrange(1, 5) if raw else 0):
        raw[generator.randrange(len(raw))] = generator.randrange(256)
    return Body(f"{body.name}, damaged", bytes(raw), body.media, body.endpoint)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bodies", type=int, default=100_000, help="in process (0: none)")
    parser.add_argument("--http", type=int, default=5_000, help="over HTTP (0: none)")
    parser.add_argument("--archive", type=Path, default=Path("outputs/model_store/newsgroups.mar"))
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--output", type=Path, help="JSON file for the figures, which are printed as well")
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    failed = False
    if options.bodies:
        with tempfile.TemporaryDirectory() as folder, tqdm(total=options.bodies, desc="in process") as bar:
            quiet()
            checker = Checker(tiny_worker(Path(folder)))
            in_process(checker, options.bodies, options.seed, bar.update)
        figures["in_process"] = checker.tally.summary()
        failed |= bool(checker.tally.problems)
    if options.http:
        try:
            tally, workers = over_http(options.archive, options.http, options.seed)
        except StageError as error:
            sys.exit(f"hostile: {error}")
        figures["http"] = tally.summary() | {"dead_workers": workers}
        failed |= bool(tally.problems or workers)
    report(figures, options.output)
    sys.exit(failed)


if __name__ == "__main__":
    main()
