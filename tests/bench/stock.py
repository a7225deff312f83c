"""Our served model against TorchServe's stock Hugging Face handler: the same weights, posts, machine and threads.

    python -m tests.bench.stock --output stock.json
    python -m tests.bench.stock --output stock.json --sides newsgroups newsgroups-onnx-int8 -- limit

First what the server itself costs (`noop`: a handler that does nothing), which bounds all. Then `against`: the stock
handler, with the batch size that suits it best, and ours, cascade off and on, all served at once and under load in
turn, so that what slows the machine for a while is in nobody's favour; and `limit`: each of ours saturated, and in turn
with it the same predictors in process, as many and in batches as large as the server's. Parts run in one go, or one by
one: each adds its figures to --output.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
import tempfile
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import accuracy_score, f1_score
from tqdm import tqdm

from stages.archive import build_archive
from stages.benchmark import FIRST_RATE
from stages.corpus import label_names, load_split
from stages.files import read_json, write_json
from stages.hardware import choose_device, choose_precision
from stages.intervals import mean_interval
from stages.package import HANDLERS, MODEL_CONFIG
from stages.params import load as params_file
from stages.paths import MODEL_STORE, PREPARED, SELECTED
from stages.stage import StageError
from stages.torchserve import Server, serving
from stages.variants import INT8
from tests.bench import inprocess
from tests.bench.archives import with_config
from tests.bench.capacity import Load
from tests.bench.client import Client
from tests.bench.traffic import asked, post, report
from tests.bench.worker import parse

BENCH = Path(__file__).resolve().parent
PARTS = ("noop", "against", "limit")
STOCK, BF16 = "stock", "newsgroups-bf16"
CLIENTS = 8
SATURATING = 32
# Posts whose answers are scored, and of a saturated or in-process run: beside so many, its first and last second, when
# not all clients wait for an answer, are few.
SCORED, SATURATED = 1000, 600
ROUNDS = 5
# Tried for the stock handler: ours was chosen for ours, and by default TorchServe has 1.
STOCK_BATCHES = (1, 2, 4)


@dataclass(frozen=True)
class Bench:
    """What all parts share. The posts are those of a prepared split. archives: ours, by the name of their side."""

    archives: dict[str, Path]
    bundle: Path
    load: Load

    def noop(self, folder: Path) -> dict[str, Any]:
        """Closed loops against the handler that does nothing."""
        archive = folder / "noop.mar"
        build_archive(archive, "1.0", BENCH / "noop_handler.py", MODEL_CONFIG, {})
        with serving(archive, archive.stem) as server:
            self.load.closed(server, "noop", folder, 8, 500, full_path=False)
            points = {
                users: self.load.closed(server, "noop", folder, users, 400 * min(users, 8), full_path=False)
                for users in (1, 8, 32)
            }
        return {f"users_{users}": {"rps": round(p.rps, 1), "p50_ms": round(p.p50_ms, 2)} for users, p in points.items()}

    def against(self, folder: Path) -> dict[str, Any]:
        """Of every side, cascade off and on: quality, what it gets through when saturated, capacity; and the ratios.

        The stock handler knows no cascade, and is measured beside either.
        """
        stock, sustained = self._best_stock(folder)
        figures: dict[str, Any] = {"stock_by_batch_size": sustained}
        with contextlib.ExitStack() as stack:
            served = [
                (stack.enter_context(serving(archive, name)), name)
                for name, archive in {STOCK: stock, **self.archives}.items()
            ]
            for cascade, full_path in (("off", True), ("on", False)):
                figures[cascade] = self._measure(served, folder / cascade, full_path)
        return figures

    def _best_stock(self, folder: Path) -> tuple[Path, dict[str, float]]:
        """The stock handler's archive with the batch size with which it sustains most, and what it sustained with each,
        in one round."""
        usual = folder / f"{STOCK}.mar"
        build_stock(usual, self.bundle)
        load = replace(self.load, knobs=replace(self.load.knobs, rounds=1))
        sustained: dict[Path, float] = {}
        for size in STOCK_BATCHES:
            archive = with_config(usual, folder / str(size), batch=size)
            with serving(archive, STOCK) as server:
                most = load.closed(server, STOCK, folder, SATURATING, SATURATED // 3, full_path=False).rps
                found = load.capacity(server, STOCK, folder / str(size), max(FIRST_RATE * most, 1.0), full_path=False)
            sustained[archive] = found["capacity_rps"]
        best = max(sustained, key=sustained.__getitem__)
        return best, {archive.parent.name: rate for archive, rate in sustained.items()}

    def limit(self, folder: Path) -> dict[str, Any]:
        """Posts a second of each archive, saturated, and of its predictors in process, in turn; cascade off."""
        texts = asked(self.load.posts, SATURATED, self.load.seed)
        figures = {}
        for name, archive in self.archives.items():
            with serving(archive, name) as server:
                self._quality(server, name, full_path=True)
                pairs = [
                    (
                        self.load.closed(server, name, folder, SATURATING, SATURATED, full_path=True).rps,
                        inprocess.rate(archive, texts, fast_path=False),
                    )
                    for _ in range(self.load.knobs.rounds)
                ]
            figures[name] = {
                "served_rps": [round(served, 1) for served, _ in pairs],
                "in_process_rps": [round(alone, 1) for _, alone in pairs],
                "share": ratio(*zip(*pairs, strict=True)),
            }
        return figures

    def _measure(self, served: Sequence[tuple[Server, str]], folder: Path, full_path: bool) -> dict[str, Any]:
        """Everything of all sides with the cascade off, or on."""
        quality = [self._quality(server, name, full_path) for server, name in served]
        saturated: list[list[float]] = [[] for _ in served]
        for _ in range(self.load.knobs.rounds):
            for (server, name), own in zip(served, saturated, strict=True):
                own.append(self.load.closed(server, name, folder, SATURATING, SATURATED, full_path).rps)
        starts = [max(FIRST_RATE * min(own), 1.0) for own in saturated]
        found = self.load.capacities(served, folder, starts, full_path)
        stock_rounds = list(found[0]["rounds_rps"].values())
        sides = {}
        for (_, name), good, most, each in zip(served, quality, saturated, found, strict=True):
            sides[name] = good | {"saturated_rps": [round(value, 1) for value in most]} | each
            if name != STOCK:
                sides[name]["over_stock"] = {
                    "capacity": ratio(list(each["rounds_rps"].values()), stock_rounds),
                    "saturated": ratio(most, saturated[0]),
                    "macro_f1": round(good["macro_f1"] - quality[0]["macro_f1"], 4),
                }
        return sides

    def _quality(self, server: Server, name: str, full_path: bool) -> dict[str, float]:
        """Accuracy and macro-F1 of the answers to SCORED posts; also warms the server up."""
        texts, truth, labels = self._sample(SCORED)
        client, options = Client(server, name), {"fast_path": "off"} if full_path else {}
        with ThreadPoolExecutor(CLIENTS) as pool:
            replies = list(tqdm(pool.map(lambda text: client.post(post(text, **options)), texts), name, len(texts)))
        if wrong := [reply for reply in replies if reply.status != 200]:
            raise StageError(f"{name}: {len(wrong)} of {len(replies)} posts got no answer: {wrong[0].body[:200]!r}")
        found = [labels.index(parse(reply.body)["label"]) for reply in replies]
        return {
            "accuracy": round(accuracy_score(truth, found), 4),
            "macro_f1": round(f1_score(truth, found, average="macro"), 4),
        }

    def _sample(self, count: int) -> tuple[list[str], list[int], list[str]]:
        """Texts, labels and label names of posts drawn from the split."""
        posts = self.load.posts
        split = load_split(posts.parent, posts.stem)
        chosen = np.random.default_rng(self.load.seed).permutation(len(split))[:count]
        drawn = split.select(chosen)
        usable = [row for row in drawn if any(map(str.isalpha, row["text"]))]
        return [row["text"] for row in usable], [row["label"] for row in usable], label_names(split)


def build_stock(archive: Path, bundle: Path) -> None:
    """Pack the stock handler with the weights of our bundle, and what of ours it loads them with."""
    modules = {f"handlers/{path.name}": path for path in HANDLERS.glob("*.py")}
    files = {name: bundle / name for name in ("config.json", "model.safetensors", "tokenizer.json")}
    build_archive(archive, "1.0", BENCH / "stock_handler.py", MODEL_CONFIG, modules | files)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float] | None:
    """Geometric mean of ours over theirs, round by round, with its 95% interval; None where a round found nothing."""
    if not (all(ours) and all(theirs)):
        return None
    bounds = mean_interval([math.log(one / other) for one, other in zip(ours, theirs, strict=True)])
    return {
        name: round(math.exp(value), 3)
        for name, value in zip(("mean", "low", "high"), bounds, strict=True)
        if value is not None
    }


def measure(bench: Bench, parts: Sequence[str], output: Path | None) -> dict[str, Any]:
    """Run the parts, one after another; figures of earlier runs in `output` are kept."""
    figures = read_json(output) if output and output.is_file() else {}
    for part in parts:
        # What else the machine did: figures of a part that others disturbed are not worth comparing.
        before = round(os.getloadavg()[0], 1)
        with tempfile.TemporaryDirectory() as folder:
            figures[part] = getattr(bench, part)(Path(folder)) | {"load_before": before}
        if output:
            write_json(output, figures)
    return figures


def sides(store: Path, names: Sequence[str], folder: Path) -> dict[str, Path]:
    """The archives of these sides; BF16 is PyTorch's with its engine in that precision."""
    torch = store / "newsgroups.mar"
    return {
        name: with_config(torch, folder, precision="bf16") if name == BF16 else store / f"{name}.mar" for name in names
    }


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)} (default: all)")
    usual = ["newsgroups", *([BF16] if choose_precision("auto", choose_device()) == "bf16" else []), INT8]
    parser.add_argument("--sides", nargs="+", default=usual, help=f"archives, and {BF16} (default: {' '.join(usual)})")
    parser.add_argument("--bundle", type=Path, default=SELECTED, help="folder with the weights of the stock handler")
    parser.add_argument("--posts", type=Path, default=PREPARED / "test.parquet")
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--steps", type=int, default=3, help="of the search for the capacity")
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help="in which the sides, or server and predictors, take turns"
    )
    parser.add_argument("--output", type=Path, help="JSON file for the figures, which are printed as well")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown part {unknown.pop()!r}: choose of {', '.join(PARTS)}")
    knobs = replace(params_file().benchmark, steps=options.steps, rounds=options.rounds)
    load = Load(options.posts, options.seed, knobs)
    try:
        with tempfile.TemporaryDirectory() as folder:
            archives = sides(MODEL_STORE, options.sides, Path(folder))
            figures = measure(Bench(archives, options.bundle, load), options.parts or PARTS, options.output)
    except StageError as error:
        sys.exit(f"stock: {error}")
    report(figures, options.output)


if __name__ == "__main__":
    main()
