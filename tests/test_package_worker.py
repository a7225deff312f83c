"""What an archive needs to run: a worker in a process of its own that has nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from stages.package import MODEL_CONFIG, PROJECT
from tests import packaged
from tests.packaged import FACTS

onnx, store = packaged.onnx, packaged.store

# What TorchServe's worker does with an unpacked archive, its folder the only one of ours that Python knows. Whatever it
# opens to write, changes on disk or connects to is noted.
WORKER = """
import json, os, sys
from pathlib import Path

touched = []

def watch(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        if isinstance(path, int) or path == os.devnull or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
    elif event not in ("os.mkdir", "os.remove", "os.rename", "os.link", "os.symlink", "os.truncate", "os.chmod",
                       "socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto"):
        return
    if event == "os.remove" and arguments[1] >= 0:
        # Of a folder that is open, as shutil.rmtree does it.
        arguments = (os.path.join(os.readlink(f"/proc/self/fd/{arguments[1]}"), arguments[0]),)
    touched.append(f"{event} {arguments}")
    if event.startswith("socket"):
        raise OSError("this machine has no network")

sys.addaudithook(watch)
from ts.context import RequestProcessor
from ts.model_loader import ModelLoaderFactory

folder = sys.argv[1]
sys.path.insert(0, folder)
manifest = json.loads(Path(folder, "MAR-INF", "MANIFEST.json").read_text())["model"]
service = ModelLoaderFactory.get_model_loader().load(manifest["modelName"], folder, manifest["handler"], None, 16)
context = service.context
rows = [{"text": "the rocket reached orbit", "fast_path": "off"}, {"text": "the rocket"}, None]
headers = [{}, {"explain": "True"}, {"describe": "True"}]
kind = {"body": {"content-type": "application/json"}}
context.request_processor = [RequestProcessor(kind | more) for more in headers]
# The front end asks for a description with the header alone.
bodies = service._entry_point([{} if row is None else {"body": row} for row in rows], context)
known = ("sklearn", "datasets", "shap", "lime", "matplotlib", "pandas", "nltk", "dvc", "stages", "transformers",
         "handlers.model", "handlers.torch_engine", "onnxruntime")
print(json.dumps({"bodies": [json.loads(body) for body in bodies], "touched": touched,
                  "imported": [name for name in known if name in sys.modules], "config": context.model_yaml_config}))
"""


ENVIRONMENT = PROJECT / "serve" / "env.sh"


@pytest.mark.parametrize("name", ["newsgroups", "newsgroups-onnx"])
def test_a_worker_serves_the_unpacked_archive_and_touches_nothing_else(store: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "unpacked"
    with zipfile.ZipFile(store / f"{name}.mar") as archive:
        archive.extractall(folder)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    # What PyTorch and ONNX Runtime were told in this process must not help them in that one.
    inherited = ("PYTHONPATH", "TORCHINDUCTOR_CACHE_DIR", "ORT_DISABLE_TELEMETRY")
    environment = {key: value for key, value in os.environ.items() if key not in inherited} | {"TMPDIR": str(scratch)}
    # As it is started: serve/env.sh keeps Python from writing its compiled modules beside the archive's.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    worker = '"$0" -P -c "$1" "$2"'
    command = ["bash", "-c", f'source "$3" && {worker}', sys.executable, WORKER, str(folder), str(ENVIRONMENT)]
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    finally:
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)
    assert done.returncode == 0, done.stderr
    reply: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    # PyTorch makes an empty folder where temporary files go, and Python tries whether it may write there.
    assert [change for change in reply["touched"] if str(scratch) not in change] == []
    assert [path for path in scratch.rglob("*") if path.is_file()] == []
    answer, explained, described = reply["bodies"]
    assert answer["model"] == {"name": name, "version": "1.0"}
    assert answer["path"] == "full"
    assert explained["explanation"]["contributions"]
    assert described["provenance"]["params"] == FACTS.params
    assert reply["config"] == yaml.safe_load(MODEL_CONFIG.read_text())
    expected = ["onnxruntime"] if name.endswith("onnx") else ["transformers", "handlers.model", "handlers.torch_engine"]
    assert reply["imported"] == expected


def test_importing_a_handler_loads_no_engine() -> None:
    code = (
        "import sys, handlers.newsgroups; print(sorted({'torch', 'transformers', 'onnxruntime'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_serving_machine_needs_a_subset() -> None:
    def pins(path: Path) -> dict[str, Requirement]:
        lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
        return {item.name.lower(): item for item in map(Requirement, filter(None, lines))}

    project, serving = pins(PROJECT / "requirements.txt"), pins(PROJECT / "serve" / "requirements.txt")
    assert {name: item.specifier for name, item in serving.items()} == {
        name: item.specifier for name, item in project.items() if name in serving
    }
    # And all of what a worker and the scripts beside it import.
    paths = [*(PROJECT / "handlers").glob("*.py"), *(PROJECT / "serve").glob("*.py")]
    found = {
        root for path in paths for root in re.findall(r"^\s*(?:from|import) (\w+)", path.read_text(), re.MULTILINE)
    }
    packages = found - sys.stdlib_module_names - {"handlers"}
    assert {"torch", "transformers", "tokenizers", "safetensors", "onnxruntime", "ts"} <= packages
    names = {"ts": "torchserve", "onnxruntime": "onnxruntime-gpu"}
    assert {names.get(package, package) for package in packages} <= serving.keys()
