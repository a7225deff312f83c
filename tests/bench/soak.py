"""Soak: mixed traffic for a while; memory and file descriptors must not grow.

    python -m tests.bench.soak --minutes 30

Predictions, explanations, long posts and bad bodies, from clients that send again as soon as they are answered. Exit
status 1 where resident memory, of the whole or of the front end or the workers alone, grew by more than --slope
megabytes a minute after the warm-up, descriptors grew, or an answer was not as promised.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from handlers.cores import usable_cores
from stages.stage import StageError
from stages.torchserve import Server, serving
from tests.bench.bodies import Body, corpus
from tests.bench.client import Client
from tests.bench.traffic import arguments, draw, load, post, report
from tests.bench.verdict import fault
from tests.bench.watching import beside

CLIENTS = 4
POSTS = 200
LONG = 20_000
# The first third is warm-up: the server's heap and the allocator's arenas fill until then.
WARM_UP = 1 / 3
INTERVAL_S = 1.0

# Seconds since the start, resident megabytes of the front end and of its workers, open descriptors of both.
Row = tuple[float, float, float, int]


def traffic(posts: list[str]) -> list[Body]:
    """What is sent: of ten requests six predictions, two explanations, one long post, one bad body."""
    bad = [body for body in corpus() if len(body.raw) < LONG and not body.media.startswith("multipart")]
    bodies = []
    for number, text in enumerate(posts):
        kind = number % 10
        if kind < 6:
            bodies.append(post(text, **({"fast_path": "off"} if kind == 0 else {})))
        elif kind < 8:
            bodies.append(Body("explain", post(text).raw, endpoint="explanations"))
        elif kind == 8:
            bodies.append(post((" ".join(posts))[:LONG]))
        else:
            bodies.append(bad[number // 10 % len(bad)])
    return bodies


def run(archive: Path, posts: Path, seed: int, minutes: float) -> dict[str, Any]:
    """Serve `archive` under mixed traffic. Returns slopes, totals and problems. Raises StageError where it dies."""
    bodies = traffic(draw(posts, POSTS, seed))
    with serving(archive, archive.stem) as server:
        client = Client(server, archive.stem)
        started = time.monotonic()
        until = started + minutes * 60
        used = server.cpu_seconds()
        with beside(lambda over: _watch(server, started, until, over)) as watching:
            exchanges = load(client, bodies, CLIENTS, until)
        used = server.cpu_seconds() - used
    problems: Counter[str] = Counter()
    for exchange in exchanges:
        reply, body = exchange.reply, bodies[exchange.number]
        # A malformed declaration is refused by the front end, in its own words.
        refused = 400 <= reply.status < 500 and b'"type"' in reply.body
        if not refused and (problem := fault(reply.status, reply.media, reply.body)):
            problems[f"{body.name}: {problem}"] += 1
    kept = np.array([row for row in watching.result() if row[0] >= WARM_UP * minutes * 60])
    half, parts = len(kept) // 2, {"all": kept[:, 1] + kept[:, 2], "front end": kept[:, 1], "workers": kept[:, 2]}
    return {
        "minutes": minutes,
        "requests": len(exchanges),
        # Of the machine's cores; what others did on them meanwhile is not in it.
        "server_machine_share": round(used / (minutes * 60) / usable_cores(), 2),
        "codes": {str(code): n for code, n in sorted(Counter(e.reply.status for e in exchanges).items())},
        "problems": dict(problems),
        "resident_mb": {
            part: {"after_warm_up": round(sizes[0]), "end": round(sizes[-1]), "most": round(sizes.max())}
            for part, sizes in parts.items()
        },
        "mb_a_minute": {
            part: round(float(np.polyfit(kept[:, 0] / 60, sizes, 1)[0]), 3) for part, sizes in parts.items()
        },
        # Connections come and go within a second, so the least of each half is what stays open.
        "descriptors": {"first_half": int(kept[:half, 3].min()), "second_half": int(kept[half:, 3].min())},
    }


def _watch(server: Server, started: float, until: float, over: threading.Event) -> list[Row]:
    """A row every second, for as long as there is traffic."""
    rows: list[Row] = []
    with tqdm(total=round(until - started), desc="soak", unit="s") as bar:
        while not over.wait(INTERVAL_S) and (now := time.monotonic()) < until:
            front_end = server.frontend.memory_full_info().pss / 1e6
            rows.append((now - started, front_end, server.resident_mb() - front_end, server.descriptors()))
            bar.update(round(now - started) - bar.n)
    return rows


def grew(figures: dict[str, Any], slope: float) -> list[str]:
    """What must not have happened, a line each."""
    descriptors = figures["descriptors"]
    lines = [f"{what}: {count}" for what, count in figures["problems"].items()]
    # Each part by itself: one that shrinks would hide another that grows.
    for part, grown in figures["mb_a_minute"].items():
        if grown > slope:
            lines.append(f"memory of {part} grew by {grown} MB a minute")
    if descriptors["second_half"] > descriptors["first_half"]:
        lines.append(f"descriptors grew from {descriptors['first_half']} to {descriptors['second_half']}")
    return lines


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--slope", type=float, default=1.0, help="megabytes a minute")
    options = parser.parse_args()
    try:
        figures = run(options.archive, options.posts, options.seed, options.minutes)
    except StageError as error:
        sys.exit(f"soak: {error}")
    report(figures, options.output)
    sys.exit("; ".join(grew(figures, options.slope)) or 0)


if __name__ == "__main__":
    main()
