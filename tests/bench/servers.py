"""Other ways to run the same model, by the same harness with the same posts on the same cores.

    python -m tests.bench.servers

TorchServe, LitServe around the predictor that ships, with as many workers and batches of the same size, and the limit
of every server: the predictors without one. Both servers are up at once; all take turns in every round, so that what
slows the machine for a while is in nobody's favour. Needs the outputs of `dvc repro` (archives, export, prepared
posts). Prints what each sustains, what it gets through when saturated, and the ratios: geometric means of the rounds
with their 95% intervals.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
from stages.params import load as params_file
from stages.paths import MODEL_STORE, ONNX, PREPARED, SELECTED
from stages.stage import StageError
from stages.torchserve import free_ports, serving
from tests.bench import inprocess
from tests.bench.archives import shipped_config
from tests.bench.capacity import Load
from tests.bench.stock import ROUNDS, SATURATED, SATURATING, ratio
from tests.bench.traffic import asked, report

# LitServe runs as TorchServe does.
CONFIG = shipped_config()
WORKERS, BATCH, DELAY_S = CONFIG["maxWorkers"], CONFIG["batchSize"], CONFIG["maxBatchDelay"] / 1000
POSTS = PREPARED / "test.parquet"
WARMUP = 60
# The three sides; the first two are also the names under which the model is served.
TORCHSERVE, LITSERVE, ALONE = "torchserve", "litserve", "in_process"


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
        super().__init__(max_batch_size=BATCH, batch_timeout=DELAY_S, api_path=f"/predictions/{LITSERVE}")
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
        # As a worker of TorchServe has it: by serve/env.sh, and by our handler.
        pools = {"OPENBLAS_NUM_THREADS": "1", "RAYON_NUM_THREADS": str(threads_each(WORKERS))}
        environment = pools | dict(os.environ)
        with log.open("wb") as output:
            server = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
        try:
            url, end = f"http://127.0.0.1:{port}", time.monotonic() + timeout
            while not answers(url):
                if server.poll() is not None or time.monotonic() > end:
                    sys.exit(f"LitServe did not start: {log.read_text(errors='replace')[-500:]}")
                time.sleep(0.2)
            yield Process(url, key, server.pid)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def answers(url: str) -> bool:
    """Whether a server gives a prediction."""
    body, kind = json.dumps({"text": "the shuttle reached orbit"}).encode(), {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/predictions/{LITSERVE}", data=body, headers=kind)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status == 200
    except OSError:
        return False


def compare(archive: Path, load: Load, full_path: bool) -> dict[str, Any]:
    """Capacities of the two servers, posts a second of all three sides when saturated, and the ratios."""
    texts = asked(load.posts, SATURATED, load.seed)
    saturated: dict[str, list[float]] = {TORCHSERVE: [], LITSERVE: [], ALONE: []}
    with (
        tempfile.TemporaryDirectory() as name,
        serving(archive, TORCHSERVE) as ours,
        litserving(archive.stem) as other,
    ):
        folder, served = Path(name), [(ours, TORCHSERVE), (other, LITSERVE)]
        for server, side in served:
            load.closed(server, side, folder, 1, WARMUP, full_path)
        for _ in range(load.knobs.rounds):
            for server, side in served:
                saturated[side].append(load.closed(server, side, folder, SATURATING, SATURATED, full_path).rps)
            saturated[ALONE].append(inprocess.rate(archive, texts, fast_path=not full_path))
        starts = [max(FIRST_RATE * min(saturated[side]), 1.0) for _, side in served]
        found = dict(zip((TORCHSERVE, LITSERVE), load.capacities(served, folder, starts, full_path), strict=True))
    rounds = {side: list(each["rounds_rps"].values()) for side, each in found.items()}
    return {
        "capacity": found | {"ratios": ratios(rounds)},
        "saturated_rps": {side: [round(each, 1) for each in own] for side, own in saturated.items()}
        | {"ratios": ratios(saturated)},
    }


def ratios(rounds: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float] | None]:
    """Each side over every one after it, round by round, with the 95% interval; None where a round found nothing."""
    pairs = itertools.combinations(rounds, 2)
    return {f"{side} / {other}": ratio(rounds[side], rounds[other]) for side, other in pairs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="newsgroups-onnx-int8", help="which model all of them run")
    parser.add_argument("--cascade", choices=("on", "off"), default="off", help="off compares engines")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="in which the sides take turns")
    parser.add_argument("--output", type=Path, help="JSON file for the figures, which are printed as well")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        litserve.LitServer(Api(options.serve), accelerator="cpu", workers_per_device=WORKERS).run(
            host="127.0.0.1", port=options.port, generate_client_file=False
        )
        return
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        params = params_file()
        load = Load(POSTS, params.seed, replace(params.benchmark, rounds=options.rounds))
        found = compare(MODEL_STORE / f"{options.variant}.mar", load, options.cascade == "off")
    except StageError as error:
        sys.exit(f"servers: {error}")
    settings = {"variant": options.variant, "cascade": options.cascade, "slo_ms": load.knobs.slo_ms}
    report(settings | found, options.output)


if __name__ == "__main__":
    main()
