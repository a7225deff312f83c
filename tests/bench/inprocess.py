"""The predictors of the archives without a server: what no server around them exceeds.

    python -m tests.bench.inprocess

On a GPU where there is one. Prints posts a second of each archive, with the cascade off and on.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from multiprocessing.queues import SimpleQueue
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Barrier
from pathlib import Path

import yaml

from handlers.newsgroups import NewsgroupsHandler
from handlers.newsgroups_onnx import NewsgroupsOnnxHandler
from stages.package import MODEL_CONFIG
from stages.paths import MODEL_STORE, PREPARED
from stages.stage import StageError
from tests.bench.traffic import draw, report
from tests.bench.worker import Worker

# Seconds that the others wait for the last one to load.
LOADING_S = 120
# The first predictions allocate memory and pick kernels, for each length anew.
WARM_UP_BATCHES = 25


def rate(archive: Path, texts: Sequence[str], *, fast_path: bool) -> float:
    """Posts a second that get through when nothing waits for a client.

    As many processes as TorchServe would start workers for this archive, each with their share of the cores and batches
    of their size, which they take from `texts` in turn. Loading and warm-up are left out. Raises StageError where one
    failed.
    """
    spawn = multiprocessing.get_context("spawn")
    # As serve/env.sh has it for a worker; NumPy reads it when it is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(archive) as content:
        content.extractall(folder)
        config = yaml.safe_load(content.read(MODEL_CONFIG.name))
        workers, batch = config["maxWorkers"], config["batchSize"]
        loaded, spans, taken = spawn.Barrier(workers), spawn.SimpleQueue(), spawn.Value("l", 0)
        handler = NewsgroupsOnnxHandler if "onnx" in archive.stem else NewsgroupsHandler
        processes = [
            spawn.Process(
                target=_work, args=(Path(folder), handler, workers, batch, texts, fast_path, loaded, taken, spans)
            )
            for _ in range(workers)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    if failed := [process.exitcode for process in processes if process.exitcode]:
        raise StageError(f"{archive}: a predictor in process ended with {failed[0]}; its error is above")
    starts, ends = zip(*(spans.get() for _ in processes), strict=True)
    return len(texts) / (max(ends) - min(starts))


def _work(
    folder: Path,
    handler: type[NewsgroupsHandler],
    workers: int,
    batch: int,
    texts: Sequence[str],
    fast_path: bool,
    loaded: Barrier,
    taken: Synchronized[int],
    spans: SimpleQueue[tuple[float, float]],
) -> None:
    """Predict batches of `texts` that nobody has taken, once all have loaded, and say from when to when (of
    time.monotonic(), which processes share)."""
    predictor = Worker(folder, handler(), workers, config=folder / MODEL_CONFIG.name).handler.predictor
    for first in range(0, min(WARM_UP_BATCHES * batch, len(texts)), batch):
        predictor.predict(texts[first : first + batch], fast_path=fast_path)
    loaded.wait(LOADING_S)
    started = time.monotonic()
    while True:
        with taken.get_lock():
            first = taken.value
            taken.value += batch
        if first >= len(texts):
            break
        predictor.predict(texts[first : first + batch], fast_path=fast_path)
    spans.put((started, time.monotonic()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posts", type=int, default=2000, help="of the test split")
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--output", type=Path, help="JSON file for the figures, which are printed as well")
    options = parser.parse_args()
    texts = draw(PREPARED / "test.parquet", options.posts, options.seed)
    try:
        figures = {
            archive.stem: {
                f"cascade_{cascade}_posts_s": round(rate(archive, texts, fast_path=cascade == "on"), 1)
                for cascade in ("off", "on")
            }
            for archive in sorted(MODEL_STORE.glob("*.mar"))
        }
    except StageError as error:
        sys.exit(f"inprocess: {error}")
    report(figures, options.output)


if __name__ == "__main__":
    main()
