"""Load from many clients at once, every reply kept; and the command line that the server benchmarks share."""

from __future__ import annotations

import json
import random
import threading
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.posts import read_posts
from stages.files import write_json
from stages.paths import MODEL_STORE, PREPARED
from tests.bench.bodies import Body
from tests.bench.client import Client, Reply


@dataclass(frozen=True)
class Exchange:
    """A request and its reply. number: of the body among those that the load chooses from."""

    number: int
    reply: Reply


def load(client: Client, bodies: Sequence[Body], clients: int, until: float) -> list[Exchange]:
    """Send bodies in turn, each client one after another, until the time `until` (of time.monotonic()).

    Returns all exchanges, in the order in which they began.
    """
    exchanges: list[Exchange] = []

    def work(first: int) -> None:
        turn = first
        while time.monotonic() < until:
            number = turn % len(bodies)
            exchanges.append(Exchange(number, client.post(bodies[number])))
            turn += clients

    threads = [threading.Thread(target=work, args=(first,)) for first in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(exchanges, key=lambda exchange: exchange.reply.sent)


def draw(path: Path, count: int, seed: int) -> list[str]:
    """At most so many posts of a file, drawn at random: the test split is sorted by class."""
    posts, _ = read_posts(path)
    return random.Random(seed).sample(posts, min(count, len(posts)))


def asked(path: Path, count: int, seed: int) -> list[str]:
    """The posts of a file that a closed loop of the load test sends with this seed, in their order."""
    posts, _ = read_posts(path)
    numbers, chosen = random.Random(seed), []
    for _ in range(count):
        numbers.random()  # by which it decides what kind of request to send
        chosen.append(numbers.choice(posts))
    return chosen


def post(text: str, **options: Any) -> Body:
    """A good request."""
    return Body("good", json.dumps({"text": text, **options}).encode())


def arguments(doc: str | None) -> ArgumentParser:
    """--archive, --posts, --seed and --output."""
    parser = ArgumentParser(description=doc, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--archive", type=Path, default=MODEL_STORE / "newsgroups.mar")
    parser.add_argument("--posts", type=Path, default=PREPARED / "test.parquet")
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--output", type=Path, help="JSON file for the figures, which are printed as well")
    return parser


def report(figures: dict[str, Any], output: Path | None) -> None:
    """Print the figures, and write them where that was asked for."""
    print(json.dumps(figures, indent=1))
    if output:
        write_json(output, figures)
