"""TorchServe's worker without its front end: its own decoding of a batch, our handler, its own encoding of answers."""

from __future__ import annotations

import io
import json
import logging
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from ts.context import Context
from ts.protocol.otf_message_handler import create_predict_response, retrieve_msg
from ts.service import Service

from handlers.newsgroups import NewsgroupsHandler
from stages.package import MODEL_CONFIG
from tests.bench.bodies import Body

MANIFEST = {"model": {"modelName": "newsgroups", "modelVersion": "1.0"}}


class Worker:
    """A loaded handler that takes batches of raw bodies."""

    def __init__(self, bundle: Path, handler: NewsgroupsHandler, workers: int = 1, config: Path = MODEL_CONFIG) -> None:
        """workers: that share the cores. config: the model's YAML. Raises FileNotFoundError where the bundle is
        incomplete."""
        self.handler = handler
        name = MANIFEST["model"]["modelName"]
        settings = yaml.safe_load(config.read_text(encoding="utf-8")) | {"maxWorkers": workers}
        # As the front end hands them out where there is one GPU.
        gpu = 0 if torch.cuda.is_available() else None
        self.context = Context(name, str(bundle), MANIFEST, 16, gpu, "0.12.0", model_yaml_config=settings)
        handler.initialize(self.context)

    def answer(self, batch: Sequence[Body]) -> list[tuple[int, str, bytes]]:
        """Status, content type and body of each answer. Raises whatever would have reached TorchServe's worker."""
        _, requests = retrieve_msg(_Socket(message(batch)))
        headers, rows, identities = Service.retrieve_data_for_inference(requests)
        self.context.request_processor = headers
        bodies = self.handler.handle(rows, self.context)
        if len(bodies) != len(batch):
            raise ValueError(f"{len(bodies)} answers to {len(batch)} requests")
        create_predict_response(bodies, identities, "Prediction success", 200, context=self.context)
        return [
            (self.context.get_response_status(i)[0], self.context.get_response_content_type(i), body.encode())
            for i, body in enumerate(bodies)
        ]


class _Socket(io.BytesIO):
    """A connection on which everything has arrived."""

    recv = io.BytesIO.read


def message(batch: Sequence[Body]) -> bytes:
    """A batch as the front end sends it to a worker (layout: the docstrings of ts/protocol/otf_message_handler.py)."""
    parts = [b"I"]
    for number, body in enumerate(batch):
        explain = "True" if body.endpoint == "explanations" else "False"
        headers = {"explain": explain} | ({"Content-Type": body.media} if body.media else {})
        fields = body.fields or (("body", body.media.split(";")[0].strip(), body.raw),)
        parts.append(_text(str(number)))
        parts += [_text(name) + _text(value) for name, value in headers.items()]
        parts.append(_END)
        parts += [_text(name) + _text(media) + _size(value) + value for name, media, value in fields]
        parts.append(_END)
    return b"".join([*parts, _END])


_END = struct.pack("!i", -1)


def _size(value: bytes) -> bytes:
    return struct.pack("!i", len(value))


def _text(value: str) -> bytes:
    return _size(value.encode()) + value.encode()


def quiet() -> None:
    """TorchServe's worker warns, with a traceback, of each body that it could not decode; here that is the point."""
    logging.getLogger().setLevel(logging.ERROR)


def parse(body: bytes) -> Any:
    """What a body's JSON says. Raises ValueError where it is none, and for the constants that JSON does not have."""
    return json.loads(body, parse_constant=_no_constant)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
