"""A small search over the batch settings of a worker: one at a time, from what ships, the best value kept.

    python -m tests.bench.batching --variant newsgroups-onnx-int8

batchSize, maxBatchDelay, maxWorkers (threads are cores / workers) and handler.token_budget live in the archive's YAML:
each trial serves a copy of the archive with one of them changed. Prints what a lone user waits for and what sixteen get
through, which is the trade-off. Needs the archives of `dvc repro`.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stages.benchmark import Bench
from stages.files import write_csv
from stages.package import MODEL_CONFIG
from stages.params import load
from stages.paths import MODEL_STORE, PREPARED
from stages.stage import StageError
from stages.torchserve import serving
from tests.bench.archives import reconfigured

CONFIG = MODEL_CONFIG.name
TRIED = {
    "batchSize": (2, 4, 8, 16),
    "maxBatchDelay": (1, 5, 20),
    "maxWorkers": (1, 2),
    "token_budget": (256, 512, 1024, 4096),
}
# Of the YAML's section handler.
OWN = ("token_budget",)


@dataclass(frozen=True)
class Trial:
    """What one setting gives: p99 of a lone user in ms, and requests a second and p99 of sixteen."""

    alone_p99_ms: float
    rps: float
    p99_ms: float


def settings(archive: Path) -> dict[str, int]:
    """The settings that an archive ships with. Raises ValueError where one is not found."""
    with zipfile.ZipFile(archive) as content:
        config = yaml.safe_load(content.read(CONFIG))
    config |= config.get("handler", {})
    if missing := sorted(TRIED.keys() - config.keys()):
        raise ValueError(f"{archive}: {CONFIG} does not set {missing[0]}")
    return {name: config[name] for name in TRIED}


def with_settings(archive: Path, target: Path, values: Mapping[str, int]) -> None:
    """Write a copy of an archive with other settings."""

    def change(config: dict[str, Any]) -> None:
        for name, value in values.items():
            (config["handler"] if name in OWN else config)[name] = value
        # It may not exceed maxWorkers, and all of them are wanted from the start.
        config["minWorkers"] = values["maxWorkers"]

    reconfigured(archive, target, change)


def search(measure: Callable[[dict[str, int]], Trial], start: dict[str, int], slo_ms: float) -> dict[str, int]:
    """Change one setting at a time and keep the best: most requests a second with p99 within the objective.

    Where none is within it, the smallest p99 wins.
    """
    best, trials = dict(start), {tuple(start.values()): measure(start)}

    def merit(values: dict[str, int]) -> tuple[bool, float]:
        trial = trials[tuple(values.values())]
        return (True, trial.rps) if trial.p99_ms <= slo_ms else (False, -trial.p99_ms)

    for name, tried in TRIED.items():
        for value in tried:
            values = best | {name: value}
            if tuple(values.values()) not in trials:
                trials[tuple(values.values())] = measure(values)
        best = max((best | {name: value} for value in {*tried, best[name]}), key=merit)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="newsgroups-onnx-int8")
    parser.add_argument("--cascade", choices=("on", "off"), default="on")
    parser.add_argument("--requests", type=int, default=400, help="of sixteen users; a lone one sends a quarter")
    parser.add_argument("--output", type=Path, help="CSV file for the table")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    params = load()
    archive, full_path = MODEL_STORE / f"{options.variant}.mar", options.cascade == "off"
    if not archive.is_file():
        sys.exit(f"{archive} is missing: run dvc repro")
    header = [*TRIED, "alone p99 ms", "16: requests/s", "16: p99 ms"]
    print("".join(f"{name:>15}" for name in header))
    table: list[list[float]] = []

    def measure(values: dict[str, int]) -> Trial:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder, archive.name)
            with_settings(archive, copy, values)
            with serving(copy, options.variant) as server:
                posts = PREPARED / "test.parquet"
                bench = Bench(server, options.variant, posts, Path(folder), params.benchmark, params.seed)
                bench.warm_up()
                alone = bench.closed(1, options.requests // 4, "alone", full_path)
                many = bench.closed(16, options.requests, "many", full_path)
        trial = Trial(alone.p99_ms, many.rps, many.p99_ms)
        table.append([*values.values(), round(trial.alone_p99_ms, 1), round(trial.rps, 1), round(trial.p99_ms, 1)])
        print("".join(f"{figure:>15}" for figure in table[-1]), flush=True)
        return trial

    try:
        best = search(measure, settings(archive), params.benchmark.slo_ms)
    except StageError as error:
        sys.exit(f"batching: {error}")
    if options.output:
        write_csv(options.output, header, table)
    print("best:", ", ".join(f"{name} {value}" for name, value in best.items()))


if __name__ == "__main__":
    main()
