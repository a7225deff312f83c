"""Other ways to run the same model, by the same harness with the same posts on the same cores.

    python -m tests.bench.servers

LitServe around the predictor that ships, with as many workers and batches of the same size, and the limit of every
server: the predictors without one. Needs the outputs of `dvc repro` (archives, export, prepared posts). Prints
capacities and their ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import litserve
import psutil
import torch

from handlers.cores import threads_each
from handlers.onnx_engine import GRAPH_FILE, OnnxEngine
from handlers.predictor import Predictor
from handlers.torch_engine import TorchEngine
from stages.benchmark import FIRST_RATE
from stages.hardware import choose_device
from stages.loadrun import Target
from stages.params import load as params_file
from stages.paths import MODEL_STORE, ONNX, PREPARED, SELECTED
from stages.torchserve import free_ports, serving
from tests.bench import inprocess
from tests.bench.archives import shipped_config
from tests.bench.capacity import Load
from tests.bench.traffic import draw, report

# LitServe runs as TorchServe does.
CONFIG = shipped_config()
WORKERS, BATCH, DELAY_S = CONFIG["maxWorkers"], CONFIG["batchSize"], CONFIG["maxBatchDelay"] / 1000
POSTS = PREPARED / "test.parquet"
WARMUP, USERS = 60, 16
LIMIT_POSTS = 2000


def predictor(variant: str, threads: int) -> Predictor:
    """The predictor of a variant, as a worker of its archive runs it."""
    device = choose_device().type
    if variant == "newsgroups":
        torch.set_num_threads(threads)
        return Predictor(SELECTED, TorchEngine(SELECTED, device))
    return Predictor(SELECTED, OnnxEngine(ONNX / variant / GRAPH_FILE, threads, device))


class Api(litserve.LitAPI):
    """The predictor behind LitServe; the answer has the fields of ours, so that the harness checks it alike."""

    def __init__(self, variant: str) -> None:
        super().__init__(max_batch_size=BATCH, batch_timeout=DELAY_S, api_path=f"/predictions/{variant}")
        self.variant = variant

    # LitServe fixes both signatures, and tells requests apart by their annotation.
    def setup(self, device: str) -> None:  # noqa: ARG002
        self.predictor = predictor(self.variant, threads_each(WORKERS))

    # LitServe takes an annotation for the name of a query parameter; without one the body is parsed as JSON.
    def decode_request(self, request) -> tuple[str, bool]:  # noqa: ANN001
        return request["text"], request.get("fast_path") != "off"

    def batch(self, inputs: list[tuple[str, bool]]) -> list[tuple[str, bool]]:
        return inputs

    def predict(self, requests: list[tuple[str, bool]]) -> list[dict[str, Any]]:
        answers: dict[int, dict[str, Any]] = {}
        for fast in (True, False):
            chosen = [index for index, (_, wanted) in enumerate(requests) if wanted is fast]
            for index, answer in zip(
                chosen, self.predictor.predict([requests[i][0] for i in chosen], fast), strict=True
            ):
                pairs = zip(self.predictor.labels, answer.probabilities, strict=True)
                answers[index] = {
                    "label": answer.label,
                    "probabilities": {label: round(float(value), 6) for label, value in pairs},
                    "model": {"name": self.variant, "version": "litserve"},
                }
        return [answers[index] for index in range(len(requests))]

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


@dataclass(frozen=True)
class Process:
    """A server that is one process with children, under the harness of the benchmark."""

    url: str
    key_file: Path
    pid: int

    def cpu_seconds(self) -> float:
        top = psutil.Process(self.pid)
        times = [process.cpu_times() for process in (top, *top.children(recursive=True))]
        return sum(each.user + each.system for each in times)


@contextlib.contextmanager
def litserving(variant: str, timeout: float = 120.0) -> Iterator[Process]:
    """LitServe in a process of its own until the block ends; yields once it answers."""
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory() as name:
        key = Path(name, "key_file.json")
        # LitServe asks for none, the harness sends one.
        key.write_text(json.dumps({"inference": {"key": "none"}}))
        log = Path(name, "litserve.log")
        command = [sys.executable, "-m", "tests.bench.servers", "--serve", variant, "--port", str(port)]
        with log.open("wb") as output:
            server = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        try:
            url, end = f"http://127.0.0.1:{port}", time.monotonic() + timeout
            while not answers(url, variant):
                if server.poll() is not None or time.monotonic() > end:
                    sys.exit(f"LitServe did not start: {log.read_text(errors='replace')[-500:]}")
                time.sleep(0.2)
            yield Process(url, key, server.pid)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def answers(url: str, variant: str) -> bool:
    """Whether a server gives a prediction."""
    body, kind = json.dumps({"text": "the shuttle reached orbit"}).encode(), {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/predictions/{variant}", data=body, headers=kind)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status == 200
    except OSError:
        return False


def sustained(server: Target, variant: str, load: Load, samples: Path, full_path: bool) -> dict[str, float | None]:
    """The capacity of a started server, as the benchmark stage measures it."""
    load.closed(server, variant, samples, 1, WARMUP, full_path)
    loop = load.closed(server, variant, samples, USERS, load.requests // 4, full_path)
    return load.capacity(server, variant, samples, loop.rps * FIRST_RATE, full_path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="newsgroups-onnx-int8", help="which model all of them run")
    parser.add_argument("--cascade", choices=("on", "off"), default="off", help="off compares engines")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        litserve.LitServer(Api(options.serve), accelerator="cpu", workers_per_device=WORKERS).run(
            host="127.0.0.1", port=options.port, generate_client_file=False
        )
        return
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    params, full_path = params_file(), options.cascade == "off"
    load = Load(POSTS, params.seed, params.benchmark.slo_ms, params.benchmark.steps)
    archive = MODEL_STORE / f"{options.variant}.mar"
    limit = inprocess.rate(archive, draw(POSTS, LIMIT_POSTS, params.seed), fast_path=not full_path)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        with serving(archive, options.variant) as server:
            found["TorchServe"] = sustained(server, options.variant, load, Path(folder, "torchserve"), full_path)
        with litserving(options.variant) as other:
            found["LitServe"] = sustained(other, options.variant, load, Path(folder, "litserve"), full_path)
    figures = {
        "variant": options.variant,
        "cascade": options.cascade,
        "slo_ms": load.slo_ms,
        "in_process_rps": round(limit, 1),
        **found,
        "of_in_process": {name: round((each["capacity_rps"] or 0) / limit, 2) for name, each in found.items()},
    }
    report(figures, options.output)


if __name__ == "__main__":
    main()
