"""The handler with TorchServe's own context around it, batch by batch; for the tests of it.

A test file gets the fixtures by naming them, as in `handler = handling.handler`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from ts.context import Context, RequestProcessor

from handlers.newsgroups import NewsgroupsHandler
from handlers.schema import CALIBRATION_FILE, PROVENANCE_FILE

SERVE = Path(__file__).parent.parent / "serve"
YAML = yaml.safe_load((SERVE / "newsgroups.yaml").read_text())
MANIFEST = {"model": {"modelName": "newsgroups", "modelVersion": "1.0"}}
JSON = "application/json"
CAR, ICE, MOON = "The car needs engine oil", "a hockey team plays on ice", "a satellite in orbit around the moon"

Row = tuple[dict[str, Any], dict[str, Any]]
DESCRIBE: Row = ({}, {"describe": "True"})


def row(value: Any, media: str = JSON, **headers: str) -> Row:
    """A request and its headers, the way TorchServe's worker hands them over."""
    return {"body": value}, {"body": {"content-type": media}, **headers}


def context(bundle: Path, rows: Sequence[Row] = (), **config: Any) -> Context:
    """What the worker builds around a batch."""
    made = Context("newsgroups", str(bundle), MANIFEST, 16, None, "0.12.0", model_yaml_config=YAML | config)
    made.request_processor = [RequestProcessor(headers) for _, headers in rows]
    return made


def serve(handler: NewsgroupsHandler, bundle: Path, *rows: Row) -> list[tuple[int, Any]]:
    """Status and parsed body of each row of one batch."""
    around = context(bundle, rows)
    bodies = handler.handle([data for data, _ in rows], around)
    assert len(bodies) == len(rows)
    assert all(around.get_response_content_type(i) == JSON for i in range(len(rows)))
    return [(around.get_response_status(i)[0], json.loads(body)) for i, body in enumerate(bodies)]


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle as it lies in an archive: with its provenance and calibration."""
    folder = tmp_path_factory.mktemp("archive") / "bundle"
    shutil.copytree(tiny_bundle, folder)
    (folder / PROVENANCE_FILE).write_text('{"data": {"corpus": "nine posts"}}')
    (folder / CALIBRATION_FILE).write_text('{"ece": 0.03}')
    return folder


@pytest.fixture(scope="module")
def handler(bundle: Path) -> NewsgroupsHandler:
    return started(bundle)


def started(bundle: Path, **config: Any) -> NewsgroupsHandler:
    """A handler after its start, with the tests' own number of threads."""
    usual = torch.get_num_threads()
    made = NewsgroupsHandler()
    made.initialize(context(bundle, **config))
    torch.set_num_threads(usual)
    return made
