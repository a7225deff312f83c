"""A real TorchServe with a trivial archive; for the tests of what starts servers and of what loads them.

A test file gets the fixture by naming it, as in `server = trivial.server`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from stages import torchserve
from stages.torchserve import Server, serving

ROOT = Path(__file__).resolve().parent.parent
HANDLER = """
import json

def handle(data, context):
    answers = []
    for index, row in enumerate(data or []):
        body = row.get("body") or b"{}"
        text = body.get("text") if isinstance(body, dict) else None
        context.set_response_content_type(index, "application/json")
        if not isinstance(text, str) or not text:
            context.set_response_status(400, "Bad Request", index)
            answers.append(json.dumps({"code": 400, "reason": "no text", "field": "text", "mend": "send text"}))
            continue
        total = 0.5 if text == "wrong" else 1.0
        probabilities = {"a": total * 0.9, "b": total * 0.1}
        model = {"name": "trivial", "version": "1"}
        answers.append(json.dumps({"label": "a", "probabilities": probabilities, "model": model}))
    return answers
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Of an archive in a project whose path has a blank."""
    project = tmp_path_factory.mktemp("my project")
    shutil.copytree(ROOT / "serve", project / "serve")
    folder = project / "model store"
    folder.mkdir()
    (folder / "trivial.py").write_text(HANDLER)
    command = [sys.executable, "-m", "model_archiver.model_packaging", "--model-name", "trivial", "--version", "1"]
    command += ["--handler", "trivial.py", "--export-path", "."]
    subprocess.run(command, cwd=folder, env=os.environ | {"TMPDIR": str(folder)}, check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torchserve, "SERVE", project / "serve")
        with serving(folder / "trivial.mar", "trivial") as started:
            yield started
    assert not [process for process in psutil.process_iter() if _is_of(process, started)]


def _is_of(process: psutil.Process, server: Server) -> bool:
    """Whether a live process belongs to that server: its temporary folder is named on the command line."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE and str(server.log.parent) in " ".join(process.cmdline())
    except psutil.Error:
        return False
