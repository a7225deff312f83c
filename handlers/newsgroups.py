"""The TorchServe contract around a predictor: one bad request never costs its batchmates their answers."""

from __future__ import annotations

import json
import logging
import os
import traceback
from http import HTTPStatus
from pathlib import Path
from typing import Any

from handlers.bodies import is_form
from handlers.cores import threads_each
from handlers.errors import RequestError
from handlers.explaining import BudgetError, explain
from handlers.predictor import Answer, Engine, Predictor
from handlers.requests import MAX_BYTES, MAX_CHARACTERS, MAX_POSTS, TENSORS, Request, most_passes, parse
from handlers.schema import CALIBRATION_FILE, PROVENANCE_FILE, option_schema, reply_schema
from handlers.settings import Settings
from handlers.telemetry import Telemetry
from handlers.timings import Timings

WARM_UP = "The first prediction allocates memory and picks kernels; no client should wait for that."
# Listed of an explanation, and characters shown of each word: enough to see why, and an answer to a post of a megabyte
# stays small.
EXPLAINED_WORDS, WORD_CHARACTERS = 100, 50
DIGITS = 6
# Bytes of a reply. The front end takes 6,553,500 of each in a batch (max_response_size), and ends the worker that gives
# more.
MAX_REPLY = 6_000_000

log = logging.getLogger(__name__)


# The server wants exactly one class in this module, and needs no base class for it.
class NewsgroupsHandler:
    """Serves the bundle of an archive. A variant overrides `load_engine` and nothing else."""

    def initialize(self, context: Any) -> None:
        """Load and warm the model.

        Raises ValueError where the model's YAML cannot be used, FileNotFoundError where the archive is incomplete.
        """
        self.folder = Path(context.system_properties["model_dir"])
        # Under the name by which it was asked, which need not be that of its archive.
        self.model = {"name": context.model_name, "version": context.manifest["model"]["modelVersion"]}
        config = context.model_yaml_config or {}
        self.settings = Settings.read(config)
        threads = threads_each(config.get("maxWorkers", 1))
        # Of the tokenizer's pool, which otherwise has one a core; its caller waits meanwhile. (NumPy's pool is there
        # before this module is: serve/env.sh.)
        os.environ.setdefault("RAYON_NUM_THREADS", str(threads))
        engine = self.load_engine(self.folder, threads, _device(context.system_properties.get("gpu_id")))
        self.predictor = Predictor(self.folder, engine, self.settings.token_budget)
        self.passes = most_passes(engine.max_tokens)
        self.predictor.predict([WARM_UP], fast_path=False)
        self.telemetry = Telemetry(context.metrics, self.folder, self.predictor.labels)

    def load_engine(self, folder: Path, threads: int, device: str) -> Engine:
        """The engine that runs the transformer of `folder` with `threads` threads; device: "cpu" or "cuda:<number>"."""
        # Imported here, so that a variant with another engine never pays for this one.
        import torch

        from handlers.torch_engine import TorchEngine

        torch.set_num_threads(threads)
        return TorchEngine(folder, device, self.settings.precision)

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[str]:
        """One JSON body a row, with its own status and content type. Never raises for what a client sent."""
        timings = Timings()
        replies: dict[int, Any] = {}
        requests: dict[int, Request] = {}
        described = 0
        with timings.step("decode"):
            for idx, row in enumerate(data):
                try:
                    headers = context.get_all_request_header(idx)
                    if _describes(row, headers):
                        replies[idx] = self.describe()
                        described += 1
                    else:
                        requests[idx] = parse(row, headers, self.passes)
                except RequestError as error:
                    replies[idx] = error
                except Exception as error:
                    replies[idx] = _unexpected("parsing", error)
        replies |= self._answer(requests, timings)
        with timings.step("encode"):
            bodies = [self._send(replies[idx], idx, context) for idx in range(len(data))]
        self.telemetry.taken(len(data) - described)
        self.telemetry.timed(timings.seconds)
        return bodies

    def describe(self) -> dict[str, Any]:
        """What `GET /models/<name>?customized=true` adds: labels, limits, schemas, calibration, provenance."""
        predictor = self.predictor
        return {
            "model": self.model,
            "labels": list(predictor.labels),
            "limits": {
                "bytes": MAX_BYTES,
                "characters": MAX_CHARACTERS,
                "posts": MAX_POSTS,
                "passes": self.passes,
                "tokens": predictor.engine.max_tokens,
            },
            "options": option_schema(predictor.fusion.reject, self.settings.fast_path, self.passes),
            "reply": reply_schema(predictor.labels),
            "calibration": json.loads((self.folder / CALIBRATION_FILE).read_text(encoding="utf-8")),
            "provenance": json.loads((self.folder / PROVENANCE_FILE).read_text(encoding="utf-8")),
        }

    def _answer(self, requests: dict[int, Request], timings: Timings) -> dict[int, Any]:
        """What each request is answered, by its index: a body or an error. The posts of all are predicted at once."""
        if not requests:
            return {}
        try:
            predicted = iter(self._predict(list(requests.values()), timings))
        except Exception as error:
            if len(requests) == 1:
                [(idx, request)] = requests.items()
                return {idx: _unexpected("prediction", error, request)}
            # Whatever it was, it is the fault of one of them: each on its own.
            return {i: reply for idx in requests for i, reply in self._answer({idx: requests[idx]}, timings).items()}
        replies: dict[int, Any] = {}
        counted: list[Answer] = []
        for idx, request in requests.items():
            answers = [next(predicted) for _ in request.posts]
            try:
                bodies = [self._body(*pair, request, timings) for pair in zip(request.posts, answers, strict=True)]
                replies[idx] = request.wrap(bodies, self.model)
                counted += answers
            except BudgetError as error:
                replies[idx] = _too_few_passes(error, len(request.posts), self.passes)
            except Exception as error:
                replies[idx] = _unexpected("answering", error, request)
        self.telemetry.answered(counted)
        return replies

    def _predict(self, requests: list[Request], timings: Timings) -> list[Answer]:
        """An answer to each post of all the requests, in order, with what each request asks of its own posts."""
        reject = self.predictor.fusion.reject
        return self.predictor.predict(
            [post for request in requests for post in request.posts],
            [request.fast_path and self.settings.fast_path for request in requests for _ in request.posts],
            [reject if request.threshold is None else request.threshold for request in requests for _ in request.posts],
            timings,
        )

    def _body(self, post: str, answer: Answer, request: Request, timings: Timings) -> dict[str, Any]:
        """The answer to one post, as it is sent. Raises BudgetError."""
        order = (-answer.probabilities).argsort(kind="stable")[: request.top_k]
        body = {
            "label": answer.label,
            "probabilities": {self.predictor.labels[i]: round(float(answer.probabilities[i]), DIGITS) for i in order},
            "abstained": answer.abstained,
            "path": answer.path,
            "windows": answer.windows,
            "tokens": answer.tokens,
            "truncated": answer.truncated,
            "model": self.model,
        }
        if request.explain:
            with timings.step("explain"):
                body["explanation"] = self._explanation(post, answer, request)
        return body

    def _explanation(self, post: str, answer: Answer, request: Request) -> dict[str, Any]:
        """The words that count most for the answer's own label, largest effect first. Raises BudgetError."""
        label = self.predictor.labels.index(answer.label)
        words = list(enumerate(explain(self.predictor, post, label, request.method, request.budget)))
        words.sort(key=lambda item: -abs(item[1][1]))
        listed, others = words[:EXPLAINED_WORDS], words[EXPLAINED_WORDS:]
        return {
            "method": request.method,
            "contributions": [
                {"position": position, "word": word[:WORD_CHARACTERS], "value": round(value, DIGITS)}
                for position, (word, value) in listed
            ],
            "rest": round(sum(value for _, (_, value) in others), DIGITS),
        }

    def _send(self, reply: Any, idx: int, context: Any) -> str:
        """Set status and content type of one item of the batch; returns its body."""
        code, body = 200, reply
        if isinstance(reply, RequestError):
            code, body = reply.code, reply.body()
            self.telemetry.failed(reply)
        text = json.dumps(body)
        if len(text) > MAX_REPLY:
            mend = "send fewer posts, or a smaller top_k"
            error = RequestError(413, "the answer is too long", "body", mend, tensors="outputs" in body)
            return self._send(error, idx, context)
        context.set_response_status(code=code, phrase=HTTPStatus(code).phrase, idx=idx)
        context.set_response_content_type(idx, "application/json")
        return text


def _too_few_passes(error: BudgetError, posts: int, most: int) -> RequestError:
    """What a client hears of an explanation that its budget does not cover, one of so many posts that share the most
    passes of a request."""
    if error.needed <= most // posts:
        mend = f"raise the budget to {error.needed}"
    else:
        mend = f"send at most {most // error.needed} such posts in a request"
    mend += ", or choose a method that takes fewer: spans, or linear, which takes none"
    return RequestError(422, "the explanation takes more passes than allowed", "budget", f"{error}: {mend}")


def _describes(row: dict[str, Any], headers: dict[str, str]) -> bool:
    """Whether one item of the batch asks what the model is, not about a post.

    The front end says so by a header, which a client of the inference address may send as well. There the front end
    adds the header explain to whatever is asked, but for old addresses (`/invocations`, `/<model>/predict`), from which
    a row is empty only where it was a form without fields, and a form is one by its content type. (With a second
    content type, behind which TorchServe hides the first, a form there is described all the same. What a description
    holds is no secret.)
    """
    types = (value for name, value in headers.items() if name.lower() == "content-type")
    asks = headers.get("describe") == "True" and "explain" not in headers
    return not row and asks and not any(map(is_form, types))


def _device(gpu: int | None) -> str:
    """The server's choice of a GPU, where PyTorch can see one."""
    if gpu is None:
        return "cpu"
    import torch

    return f"cuda:{gpu}" if torch.cuda.is_available() else "cpu"


def _unexpected(step: str, error: Exception, request: Request | None = None) -> RequestError:
    """What a client hears of a fault of our own. request: None where it could not be read."""
    # Not the exception's message: it may quote the request.
    where = "".join(traceback.format_tb(error.__traceback__))
    log.error("%s failed: %s\n%s", step, type(error).__name__, where)
    mend = "try again; where it happens again, report it with the time of the request"
    tensors = request is not None and request.form == TENSORS
    return RequestError(500, "the server could not answer", "body", mend, tensors)
