"""Our served model against TorchServe's stock Hugging Face handler: same posts, machine, threads and model work.

    python -m tests.bench.stock --output ratios.json
    python -m tests.bench.stock --archive outputs/model_store/newsgroups-onnx.mar --output onnx.json noop ours
    python -m tests.bench.stock --precision bf16

First what the server itself costs (`noop`: a handler that does nothing), which bounds all; then `ours` with the
cascade off and on, `stock`, and `limit`: the archive saturated, and in turn with it the same predictors in process, as
many and in batches as large as the server's. Parts run in one go, or one by one: each adds its figures to --output, and
the ratios are those of whatever is there.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import accuracy_score, f1_score
from tqdm import tqdm

from handlers.settings import PRECISIONS
from stages.archive import build_archive
from stages.benchmark import FIRST_RATE
from stages.corpus import label_names, load_split
from stages.files import read_json, write_json
from stages.intervals import mean_interval
from stages.package import HANDLERS, MODEL_CONFIG
from stages.paths import SELECTED
from stages.stage import StageError
from stages.torchserve import Server, serving
from tests.bench import inprocess
from tests.bench.archives import with_config
from tests.bench.capacity import Load
from tests.bench.client import Client
from tests.bench.traffic import arguments, post, report
from tests.bench.worker import parse

BENCH = Path(__file__).resolve().parent
PARTS = ("noop", "ours", "stock", "limit")
CLIENTS = 8
SATURATING = 32
# Posts whose answers are scored, and of a saturated or in-process run: beside so many, its first and last second, when
# not all clients wait for an answer, are few.
SCORED, SATURATED = 1000, 2000
LIMIT_ROUNDS = 3


@dataclass(frozen=True)
class Bench:
    """What all parts share. The posts are those of a prepared split."""

    archive: Path
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

    def ours(self, folder: Path) -> dict[str, Any]:
        """Our archive: capacity and quality with the cascade off and on, and what it gets through when saturated."""
        name = self.archive.stem
        figures: dict[str, Any] = {"archive": self.archive.name}
        with serving(self.archive, name) as server:
            for cascade, full_path in (("off", True), ("on", False)):
                figures[cascade] = self._measure(server, name, folder / cascade, full_path)
        return figures

    def stock(self, folder: Path) -> dict[str, Any]:
        """The stock handler with the weights of our bundle."""
        archive = folder / "stock.mar"
        build_stock(archive, self.bundle)
        with serving(archive, archive.stem) as server:
            return self._measure(server, archive.stem, folder / "stock", full_path=False)

    def limit(self, folder: Path) -> dict[str, Any]:
        """Posts a second of the archive, saturated, and of its predictors in process, in turn; cascade off."""
        texts, _, _ = self._sample(SATURATED)
        name = self.archive.stem
        served, in_process = [], []
        with serving(self.archive, name) as server:
            self._quality(server, name, {"fast_path": "off"})
            for _ in range(LIMIT_ROUNDS):
                served.append(self.load.closed(server, name, folder, SATURATING, SATURATED, full_path=True).rps)
                in_process.append(inprocess.rate(self.archive, texts, fast_path=False))
        shares = [one / other for one, other in zip(served, in_process, strict=True)]
        mean, low, high = (round(value, 3) for value in mean_interval(shares))
        return {
            "served_rps": [round(value, 1) for value in served],
            "in_process_rps": [round(value, 1) for value in in_process],
            "share": {"mean": mean, "low": low, "high": high},
        }

    def _measure(self, server: Server, name: str, folder: Path, full_path: bool) -> dict[str, Any]:
        """Quality of the served answers, saturated throughput, and capacity within the objective."""
        options = {"fast_path": "off"} if full_path else {}
        quality = self._quality(server, name, options)
        saturated = self.load.closed(server, name, folder, SATURATING, SATURATED, full_path)
        found = self.load.capacity(server, name, folder, max(saturated.rps * FIRST_RATE, 1.0), full_path)
        return quality | {"saturated_rps": round(saturated.rps, 1)} | found

    def _quality(self, server: Server, name: str, options: dict[str, str]) -> dict[str, float]:
        """Accuracy and macro-F1 of the answers to SCORED posts; also warms the server up."""
        texts, truth, labels = self._sample(SCORED)
        client = Client(server, name)
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


def ratios(figures: dict[str, Any]) -> dict[str, float]:
    """Ours over stock, of the parts that were measured."""
    found = {}
    ours, stock = figures.get("ours"), figures.get("stock")
    if ours and stock:
        for cascade in ("off", "on"):
            for what in ("capacity_rps", "saturated_rps"):
                if stock[what]:
                    found[f"{what}_cascade_{cascade}_over_stock"] = round(ours[cascade][what] / stock[what], 2)
            found[f"macro_f1_cascade_{cascade}_less_stock"] = round(ours[cascade]["macro_f1"] - stock["macro_f1"], 4)
    return found


def measure(bench: Bench, parts: Sequence[str], output: Path | None) -> dict[str, Any]:
    """Run the parts, one after another; figures of earlier runs in `output` are kept."""
    figures = read_json(output) if output and output.is_file() else {}
    for part in parts:
        # What else the machine did: figures of a part that others disturbed are not worth comparing.
        before = round(os.getloadavg()[0], 1)
        with tempfile.TemporaryDirectory() as folder:
            figures[part] = getattr(bench, part)(Path(folder)) | {"load_before": before}
        figures["ratios"] = ratios(figures)
        if output:
            write_json(output, figures)
    return figures


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = arguments(__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--precision", choices=PRECISIONS, help="of our PyTorch engine, instead of the archive's own")
    parser.add_argument("--bundle", type=Path, default=SELECTED, help="folder with the weights of the stock handler")
    parser.add_argument("--slo-ms", type=float, default=250)
    parser.add_argument("--steps", type=int, default=3, help="of the search for the capacity")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown part {unknown.pop()!r}: choose of {', '.join(PARTS)}")
    load = Load(options.posts, options.seed, options.slo_ms, options.steps)
    try:
        with tempfile.TemporaryDirectory() as folder:
            archive = with_config(options.archive, Path(folder), precision=options.precision)
            figures = measure(Bench(archive, options.bundle, load), options.parts or PARTS, options.output)
    except StageError as error:
        sys.exit(f"stock: {error}")
    report(figures, options.output)


if __name__ == "__main__":
    main()
