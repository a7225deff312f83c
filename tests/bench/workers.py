"""How many workers should share the cores? Capacity, a lone user, and predictions beside explanations, for each number.

    python -m tests.bench.workers --archive outputs/model_store/newsgroups-onnx-int8.mar --output workers.json

One server for each number, all up at once; they take turns in every round, so that what slows the machine meets all.
Needs the outputs of `dvc repro`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from stages.benchmark import FIRST_RATE, Bench, confirm, mode
from stages.params import Benchmark, load
from stages.serving_figures import capacity
from stages.stage import StageError
from stages.torchserve import Server, serving
from tests.bench.archives import with_config
from tests.bench.client import Client
from tests.bench.traffic import arguments, draw, post, report

ALONE, FEW, MANY = 1, 4, 16
KEPT = ("capacity_rps", "capacity_low_rps", "capacity_high_rps", "confirmed", "rounds_rps")


@contextlib.contextmanager
def explaining(server: Server, model: str, texts: Sequence[str]) -> Iterator[None]:
    """One client that has one post after another explained until the block ends.

    Raises StageError where an explanation fails.
    """
    client, over, wrong = Client(server, model), threading.Event(), []

    def work() -> None:
        turn = 0
        while not over.is_set():
            body = dataclasses.replace(post(texts[turn % len(texts)]), endpoint="explanations")
            reply = client.post(body)
            if reply.status != 200:
                wrong.append(f"{reply.status}: {reply.body[:200]!r}")
            turn += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if wrong:
        raise StageError(f"{model}: an explanation failed: {wrong[0]}")


def compare(
    archive: Path, counts: Sequence[int], posts: Path, knobs: Benchmark, seed: int
) -> dict[str, dict[str, Any]]:
    """Figures by number of workers. posts: the file to draw from."""
    name, texts = archive.stem, draw(posts, 64, seed)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        benches: list[Bench] = []
        servers: list[Server] = []
        for count in counts:
            own = folder / str(count)
            own.mkdir()
            servers.append(stack.enter_context(serving(with_config(archive, own, workers=count), name)))
            benches.append(Bench(servers[-1], name, posts, own / "samples", knobs, seed))
            benches[-1].warm_up()
        figures: dict[str, dict[str, Any]] = {
            str(count): {"cold_start_s": round(server.cold_start_s, 1)}
            for count, server in zip(counts, servers, strict=True)
        }
        for own, bench, server in zip(figures.values(), benches, servers, strict=True):
            alone = bench.closed(ALONE, knobs.requests // 4, "alone", full_path=True)
            own["alone_cascade_off"] = {"p50_ms": round(alone.p50_ms, 1), "p99_ms": round(alone.p99_ms, 1)}
            with explaining(server, name, texts):
                few = bench.closed(FEW, knobs.requests, "beside")
            own["beside_explanations"] = {
                "rps": round(few.rps, 1),
                "p50_ms": round(few.p50_ms, 1),
                "p99_ms": round(few.p99_ms, 1),
            }
        for full_path in (False, True):
            loops = [bench.closed(MANY, knobs.requests, f"many-{mode(full_path)}", full_path) for bench in benches]
            searches = [
                bench.search(loop.rps * FIRST_RATE, full_path) for bench, loop in zip(benches, loops, strict=True)
            ]
            for own, loop, curve in zip(figures.values(), loops, confirm(benches, searches, full_path), strict=True):
                found = capacity(curve, knobs.slo_ms)
                own[f"cascade_{mode(full_path)}"] = {"saturated_rps": round(loop.rps, 1)} | {
                    key: found[key] for key in KEPT
                }
        for own, server in zip(figures.values(), servers, strict=True):
            own["rss_mb"] = round(server.resident_mb())
    return figures


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    knobs = load().benchmark
    parser = arguments(__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--requests", type=int, default=knobs.requests, help="at each rate")
    parser.add_argument("--rounds", type=int, default=knobs.rounds, help="of the comparison")
    options = parser.parse_args()
    knobs = dataclasses.replace(knobs, requests=options.requests, rounds=options.rounds)
    try:
        figures = compare(options.archive, options.workers, options.posts, knobs, options.seed)
    except StageError as error:
        sys.exit(f"workers: {error}")
    report(figures, options.output)


if __name__ == "__main__":
    main()
