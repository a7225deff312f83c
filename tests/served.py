"""A real TorchServe with the tiny bundle, and a client that hides nothing; for the tests of the server as it is set up.

A test file gets the fixture by naming it, as in `client = served.client`.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from handlers.schema import CALIBRATION_FILE, PROVENANCE_FILE
from stages.archive import build_archive
from stages.torchserve import Server, serving

ROOT = Path(__file__).resolve().parent.parent
MODEL = "newsgroups"
# What may stand in no log.
PLANTED = "xyzzyplanted"
# A fault of ours that quotes the post, as exceptions of libraries do.
HANDLER = f'''
from handlers.newsgroups import NewsgroupsHandler

class FaultyHandler(NewsgroupsHandler):
    def initialize(self, context):
        super().initialize(context)
        usual = self.predictor.cleaning

        def cleaning(text):
            if "{PLANTED} fault" in text:
                raise RuntimeError(text)
            return usual(text)

        self.predictor.cleaning = cleaning
'''

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@dataclass(frozen=True)
class Client:
    """Sends what a test says, and nothing that hides what came back."""

    server: Server

    def post(
        self, body: bytes, media: str = "application/json", path: str = f"/predictions/{MODEL}", **more: str
    ) -> tuple[int, bytes]:
        headers = {"Authorization": f"Bearer {self.key('inference')}", "Content-Type": media, **more}
        return self._ask(urllib.request.Request(self.server.url + path, data=body, headers=headers))

    def send(self, method: str, path: str, media: str | None, body: bytes) -> tuple[int, bytes]:
        """A request with no other headers than these, where urllib would add a content type."""
        headers = {"Authorization": f"Bearer {self.key('inference')}"} | ({"Content-Type": media} if media else {})
        address = urlsplit(self.server.url)
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()

    def described(self) -> dict[str, Any]:
        """What the management address says of the model."""
        url = f"{self.server.management_url}/models/{MODEL}?customized=true"
        headers = {"Authorization": f"Bearer {self.key('management')}"}
        status, body = self._ask(urllib.request.Request(url, headers=headers))
        assert status == 200, body
        [model] = json.loads(body)
        return model

    def raw(self, request: bytes) -> bytes:
        """What a request gets that no client library would send."""
        address = urlsplit(self.server.url)
        with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
            connection.sendall(request)
            return connection.recv(4096)

    def key(self, name: str) -> str:
        return json.loads(self.server.key_file.read_text())[name]["key"]

    def scrape(self) -> Samples:
        """Every sample of the metrics address, by name and labels (the host's aside)."""
        with urllib.request.urlopen(f"{self.server.metrics_url}/metrics", timeout=10) as response:
            lines = response.read().decode().splitlines()
        found = {}
        for line in lines:
            if line and not line.startswith("#"):
                name, labels, value = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line).groups()
                pairs = re.findall(r'(\w+)="([^"]*)"', labels or "")
                found[name, frozenset(pair for pair in pairs if pair[0].lower() != "hostname")] = float(value)
        return found

    @staticmethod
    def _ask(request: urllib.request.Request) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()


@pytest.fixture(scope="module")
def client(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Of an archive whose handler fails where the planted word and a fault are asked for."""
    folder = tmp_path_factory.mktemp("serve")
    (folder / "faulty.py").write_text(HANDLER)
    code = {f"handlers/{path.name}": path for path in (ROOT / "handlers").glob("*.py")}
    told = {PROVENANCE_FILE: '{"data": "nine posts"}', CALIBRATION_FILE: '{"ece": 0.03}'}
    for name, text in told.items():
        (folder / name).write_text(text)
    model = {path.name: path for path in (*tiny_bundle.iterdir(), *(folder / name for name in told))}
    archive = folder / f"{MODEL}.mar"
    build_archive(archive, "1.0", folder / "faulty.py", ROOT / "serve" / "newsgroups.yaml", code | model)
    with serving(archive, MODEL) as server:
        yield Client(server)


def value(samples: Samples, name: str, **labels: str) -> float:
    """One sample of the model, 0 where nothing has been counted yet."""
    return samples.get((name, frozenset({"model_name": MODEL, **labels}.items())), 0.0)


def told(client: Client, name: str, expected: float, **labels: str) -> float:
    """The value once it is as expected; a worker's lines reach the metrics a moment after its answer."""
    end = time.monotonic() + 30
    while (found := value(client.scrape(), name, **labels)) != pytest.approx(expected) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def settled(client: Client) -> Samples:
    """What is counted once nothing more arrives of what was asked before."""
    end, before = time.monotonic() + 30, client.scrape()
    while time.monotonic() < end:
        time.sleep(0.3)
        # Ours alone: TorchServe's own gauges of the machine never rest.
        if _ours(now := client.scrape()) == _ours(before):
            break
        before = now
    return before


def _ours(samples: Samples) -> Samples:
    return {key: each for key, each in samples.items() if key[0].startswith("newsgroups_")}
