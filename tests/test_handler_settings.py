"""What a deployment sets: the handler's section, the limit of bytes, workers and their threads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from handlers.cores import usable_cores
from handlers.newsgroups import NewsgroupsHandler
from handlers.requests import MAX_BYTES
from tests import handling
from tests.handling import CAR, DESCRIBE, ICE, MOON, SERVE, context, row, serve, started

bundle, handler = handling.bundle, handling.handler

HANDLER = {"fast_path": True, "precision": "float32", "token_budget": 1024}
# What a worker's start makes of the tokenizer's pool, in a process that has none yet.
POOL = """
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import yaml

import handlers.newsgroups
from handlers.text import Encoder

folder, config, threads = sys.argv[1:]
handlers.newsgroups.threads_each = lambda _: int(threads)

class Worker(handlers.newsgroups.NewsgroupsHandler):
    def load_engine(self, folder, threads, device):
        encoder, before = Encoder(folder, 32), psutil.Process().num_threads()
        encoder(["a car"] * 16)
        sys.exit(print(psutil.Process().num_threads() - before))

Worker().initialize(SimpleNamespace(
    system_properties={"model_dir": folder}, model_name="m", manifest={"model": {"modelVersion": "1"}},
    model_yaml_config=yaml.safe_load(Path(config).read_text()),
))
"""


def test_the_limit_of_bytes_is_the_servers() -> None:
    assert f"\nmax_request_size={MAX_BYTES}\n" in (SERVE / "config.properties").read_text()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (None, "must have the keys fast_path, precision, token_budget"),
        ({"fast_path": True}, "must have the keys"),
        (HANDLER | {"more": 1}, "must have the keys"),
        (HANDLER | {"fast_path": "off"}, "fast_path is 'off': write on or off, unquoted"),
        (HANDLER | {"precision": "fp16"}, "precision is 'fp16': choose one of float32, bf16"),
        (HANDLER | {"precision": ["bf16"]}, "choose one of float32, bf16"),
        (HANDLER | {"token_budget": 0}, "token_budget is 0: write a number of tokens, 1 or more"),
        (HANDLER | {"token_budget": "many"}, "token_budget is 'many'"),
    ],
)
def test_a_wrong_setting_stops_the_worker_at_its_start(bundle: Path, section: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        started(bundle, handler=section)


def test_a_deployment_can_turn_the_fast_path_off(bundle: Path) -> None:
    full = started(bundle, handler=HANDLER | {"fast_path": False})
    (_, plain), (_, asked), (_, described) = serve(
        full, bundle, row(ICE), row({"text": ICE, "fast_path": "on"}), DESCRIBE
    )
    assert plain["path"] == asked["path"] == "full"
    assert described["options"]["properties"]["fast_path"]["default"] == "off"


def test_bf16_changes_the_third_digit_only(bundle: Path, handler: NewsgroupsHandler) -> None:
    halved = started(bundle, handler=HANDLER | {"precision": "bf16"})
    assert {weight.dtype for weight in halved.predictor.engine.model.parameters()} == {torch.bfloat16}
    requests = [row({"text": text, "fast_path": "off"}) for text in (CAR, ICE, MOON)]
    for (_, low), (_, high) in zip(serve(halved, bundle, *requests), serve(handler, bundle, *requests), strict=True):
        assert low["label"] == high["label"]
        assert low["probabilities"] == pytest.approx(high["probabilities"], abs=5e-3)
        assert low["probabilities"] != high["probabilities"]


def test_a_deployment_sets_what_one_call_of_the_transformer_takes(bundle: Path) -> None:
    small = started(bundle, handler=HANDLER | {"token_budget": 1})
    calls: list[int] = []
    usual = small.predictor.engine.logits
    small.predictor.engine.logits = lambda ids: calls.append(len(ids)) or usual(ids)
    serve(small, bundle, *(row({"text": text, "fast_path": "off"}) for text in (CAR, ICE, MOON)))
    assert calls == [1, 1, 1]


def test_in_bf16_a_batch_moves_an_answer_little(bundle: Path) -> None:
    halved = started(bundle, handler=HANDLER | {"precision": "bf16"})
    requests = [row({"text": text, "fast_path": "off"}) for text in (CAR, ICE, MOON, "moon " * 40)]
    together = serve(halved, bundle, *requests)
    for request, (_, answer) in zip(requests, together, strict=True):
        [(_, alone)] = serve(halved, bundle, request)
        assert answer["label"] == alone["label"]
        # Of the tiny transformer, whose logits are small: of a real one, serve/newsgroups.yaml says how much.
        assert answer["probabilities"] == pytest.approx(alone["probabilities"], abs=2e-4)


@pytest.mark.parametrize(("there", "gpu", "device"), [(True, 1, "cuda:1"), (True, None, "cpu"), (False, 0, "cpu")])
def test_a_worker_takes_the_gpu_that_the_server_chose_for_it(
    there: bool, gpu: int | None, device: str, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    class Recording(NewsgroupsHandler):
        def load_engine(self, folder: Path, threads: int, device: str) -> Any:
            seen.append(device)
            usual = torch.get_num_threads()
            engine = super().load_engine(folder, threads, "cpu")
            torch.set_num_threads(usual)
            return engine

    monkeypatch.setattr("torch.cuda.is_available", lambda: there)
    around = context(bundle)
    around.system_properties["gpu_id"] = gpu
    Recording().initialize(around)
    assert seen == [device]


def test_workers_share_the_cores(bundle: Path) -> None:
    seen = []

    class Recording(NewsgroupsHandler):
        def load_engine(self, folder: Path, threads: int, device: str) -> Any:
            seen.append((threads, device))
            usual = torch.get_num_threads()
            engine = super().load_engine(folder, threads, device)
            torch.set_num_threads(usual)
            return engine

    cores = usable_cores()
    for workers in (1, cores, 4 * cores):
        Recording().initialize(context(bundle, maxWorkers=workers))
    assert seen == [(cores, "cpu"), (1, "cpu"), (1, "cpu")]


@pytest.mark.parametrize("threads", [1, 3])
def test_the_tokenizer_has_a_workers_threads(bundle: Path, threads: int) -> None:
    known = ("RAYON_NUM_THREADS", "TOKENIZERS_PARALLELISM")
    environment = {name: value for name, value in os.environ.items() if name not in known}
    command = [sys.executable, "-c", POOL, str(bundle), str(SERVE / "newsgroups.yaml"), str(threads)]
    done = subprocess.run(command, cwd=SERVE.parent, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == str(threads), done.stderr
