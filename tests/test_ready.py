"""What starts a server and tells that it has started: serve/env.sh and serve/ready.py."""

from __future__ import annotations

import io
import json
import os
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from handlers.newsgroups import NewsgroupsHandler
from serve import ready
from tests import handling
from tests.handling import row, serve

ROOT = Path(__file__).resolve().parent.parent

bundle, handler = handling.bundle, handling.handler


def test_a_broken_transformer_is_not_ready(
    handler: NewsgroupsHandler, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Opener:
        def open(self, request: urllib.request.Request, **_: object) -> io.BytesIO:
            [(code, answer)] = serve(handler, bundle, row(json.loads(request.data)))
            body = io.BytesIO(json.dumps(answer).encode())
            if code != 200:
                raise urllib.error.HTTPError(request.full_url, code, "", request.headers, body)
            return body

    def broken(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(ready, "OPENER", Opener())
    assert ready.ask("http://127.0.0.1:9", "newsgroups", None, 5) == "space"
    monkeypatch.setattr(handler.predictor.engine, "logits", broken)
    # Which the linear part would hide: of this post it is sure.
    assert serve(handler, bundle, row(ready.POST))[0][1]["path"] == "linear"
    with pytest.raises(ValueError, match="status 500"):
        ready.ask("http://127.0.0.1:9", "newsgroups", None, 5)


def test_a_worker_finds_its_archives_code_before_any_other() -> None:
    script = "source serve/env.sh && echo ${PYTHONPATH-none}"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["none"], done.stderr


@pytest.mark.parametrize("content", ["[]", "null", '"key"', "{}", '{"inference": 1}'])
def test_ready_says_what_is_wrong_with_a_key_file(tmp_path: Path, content: str) -> None:
    file = tmp_path / "key_file.json"
    file.write_text(content)
    with pytest.raises(TimeoutError, match=r"key_file\.json holds no key for inference"):
        ready.wait("http://127.0.0.1:9", "newsgroups", file, 0)


@pytest.mark.parametrize(("before", "after"), [("", "1"), ("3", "3")])
def test_a_worker_keeps_numpy_to_one_thread_unless_told_otherwise(before: str, after: str) -> None:
    script = "source serve/env.sh && echo $OPENBLAS_NUM_THREADS"
    environment = os.environ | {"OPENBLAS_NUM_THREADS": before}
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == [after], done.stderr
