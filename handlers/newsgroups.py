"""The TorchServe contract around a predictor: one bad request never costs its batchmates their answers."""

from __future__ import annotations

import itertools
import json
import logging
import os
import time
import traceback
from http import HTTPStatus
from pathlib import Path
from typing import Any

from handlers.predictor import Answer, Engine, Predictor
from handlers.requests import ANSWER_SCHEMA, MAX_CHARACTERS, MAX_POSTS, Request, RequestError, parse
from handlers.telemetry import Telemetry

WARM_UP = "The first prediction allocates memory and picks kernels; no client should wait for that."
EXPLAINED_WORDS = 10
DIGITS = 6

log = logging.getLogger(__name__)


# The server wants exactly one class in this module, and needs no base class for it.
class NewsgroupsHandler:
    """Serves the bundle of an archive. A variant overrides `load_engine` and nothing else."""

    def initialize(self, context: Any) -> None:
        """Load and warm the model. Raises FileNotFoundError where the archive is incomplete."""
        folder = Path(context.system_properties["model_dir"])
        manifest = context.manifest["model"]
        self.model = {"name": manifest["modelName"], "version": manifest["modelVersion"]}
        # The one place that decides it: workers x threads = cores.
        workers = (context.model_yaml_config or {}).get("maxWorkers", 1)
        threads = max(1, _cores() // workers)
        engine = self.load_engine(folder, threads, _device(context.system_properties.get("gpu_id")))
        self.predictor = Predictor(folder, engine)
        self.predictor.predict([WARM_UP], fast_path=False)
        self.telemetry = Telemetry(context.metrics, folder, self.predictor.labels)

    def load_engine(self, folder: Path, threads: int, device: str) -> Engine:
        """The engine that runs the transformer of `folder` with `threads` threads; device: "cpu" or "cuda:<number>"."""
        # Imported here, so that a variant with another engine never pays for this one.
        import torch

        from handlers.torch_engine import TorchEngine

        torch.set_num_threads(threads)
        return TorchEngine(folder, device)

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[str]:
        """One JSON body a row, with its own status and content type. Never raises for what a client sent."""
        times = [time.perf_counter()]
        replies: dict[int, tuple[int, Any]] = {}
        requests: dict[int, Request] = {}
        for idx, row in enumerate(data):
            headers = context.get_all_request_header(idx)
            try:
                if headers.get("describe") == "True":
                    replies[idx] = 200, self.describe()
                else:
                    requests[idx] = parse(row, headers)
            except RequestError as error:
                replies[idx] = self._refused(error)
            except Exception as error:
                replies[idx] = self._refused(_unexpected("parsing", error))
        times.append(time.perf_counter())
        for fast_path in (True, False):
            group = {idx: request for idx, request in requests.items() if request.fast_path is fast_path}
            replies |= self._answer(group, fast_path)
        times.append(time.perf_counter())
        for idx, (code, _) in replies.items():
            context.set_response_status(code=code, phrase=HTTPStatus(code).phrase, idx=idx)
            context.set_response_content_type(idx, "application/json")
        bodies = [json.dumps(replies[idx][1]) for idx in range(len(data))]
        times.append(time.perf_counter())
        seconds = (after - before for before, after in itertools.pairwise(times))
        self.telemetry.timed(dict(zip(("decode", "infer", "encode"), seconds, strict=True)))
        return bodies

    def _refused(self, error: RequestError) -> tuple[int, dict[str, Any]]:
        """Status and body of a request that gets no answer."""
        self.telemetry.failed(error)
        return error.code, error.body()

    def describe(self) -> dict[str, Any]:
        """What `GET /models/<name>?customized=true` adds: labels, limits and the schema of an answer."""
        return {
            "model": self.model,
            "labels": list(self.predictor.labels),
            "limits": {
                "characters": MAX_CHARACTERS,
                "posts": MAX_POSTS,
                "tokens": self.predictor.engine.max_tokens,
            },
            "answer": ANSWER_SCHEMA,
        }

    def _answer(self, requests: dict[int, Request], fast_path: bool) -> dict[int, tuple[int, Any]]:
        """Status and body of each request, by its index; all posts of all of them are predicted at once."""
        if not requests:
            return {}
        try:
            answers = self.predictor.predict([post for r in requests.values() for post in r.posts], fast_path)
            rest = iter(answers)
            replies = {
                idx: (200, request.wrap([self._reply(request, post, next(rest)) for post in request.posts], self.model))
                for idx, request in requests.items()
            }
            self.telemetry.answered(answers)
            return replies
        except Exception as error:
            if len(requests) == 1:
                return dict.fromkeys(requests, self._refused(_unexpected("prediction", error)))
            # Whatever it was, it is the fault of one of them: each on its own.
            replies = {}
            for idx, request in requests.items():
                replies |= self._answer({idx: request}, fast_path)
            return replies

    def _reply(self, request: Request, post: str, answer: Answer) -> dict[str, Any]:
        """The answer to one post, as it is sent."""
        order = (-answer.probabilities).argsort(kind="stable")[: request.top_k]
        reply = {
            "label": answer.label,
            "probabilities": {self.predictor.labels[i]: round(float(answer.probabilities[i]), DIGITS) for i in order},
            "path": answer.path,
            "tokens": answer.tokens,
            "truncated": answer.truncated,
            "model": self.model,
        }
        if request.explain:
            reply["explanation"] = {"method": "linear", "contributions": self._contributions(post, answer)}
        return reply

    def _contributions(self, post: str, answer: Answer) -> dict[str, float]:
        """What the wide part's words add to the answer's score of its own label, largest effect first.

        Exact for that part. On the full path the transformer adds its own share, which is not among them.
        """
        predictor = self.predictor
        weight = predictor.fusion.fast if answer.path == "linear" else predictor.fusion.wide
        words = predictor.linear.contributions(predictor.cleaning(post), predictor.labels.index(answer.label))
        ranked = sorted(words.items(), key=lambda item: (-abs(item[1]), item[0]))[:EXPLAINED_WORDS]
        return {word: round(weight * value, DIGITS) for word, value in ranked}


def _cores() -> int:
    """Cores this process may use, which in a container can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _device(gpu: int | None) -> str:
    """The server's choice of a GPU, where PyTorch can see one."""
    if gpu is None:
        return "cpu"
    import torch

    return f"cuda:{gpu}" if torch.cuda.is_available() else "cpu"


def _unexpected(step: str, error: Exception) -> RequestError:
    """What a client is told of a fault of our own."""
    # Not the exception's message: it may quote the request.
    where = "".join(traceback.format_tb(error.__traceback__))
    log.error("%s failed: %s\n%s", step, type(error).__name__, where)
    mend = "try again; where it happens again, report it with the time of the request"
    return RequestError(500, "the server could not answer", "body", mend)
