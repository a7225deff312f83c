"""This project in a folder of its own, small and with a git history; for the tests from end to end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import networkx
import yaml
from dvc.repo import Repo

from stages.hardware import choose_device

ROOT = Path(__file__).parent.parent
SMALL: dict[str, dict[str, Any]] = {
    "data": {"limit": 17},
    "prepare": {"validation": 0.2},
    "augment": {"share": 0.2},
    "train": {"max_tokens": 32, "epochs": 1, "evaluations": 1, "probe_epochs": 5},
    "explain": {"posts": 1, "samples": 40},
    "export": {"posts": 20, "reduced_agreement": 0.5, "reduced_f1_loss": 1},
    "benchmark": {"requests": 50, "warmup": 5, "slo_ms": 2000, "users": [2], "steps": 1},
}
VARIANTS = ["newsgroups", "newsgroups-onnx", "newsgroups-onnx-int8"]
DEVICE = choose_device().type
if DEVICE == "cuda":
    VARIANTS.append("newsgroups-onnx-fp16")


class Project:
    """A copy of this project in a folder of its own, with a git history and parameters changed in order."""

    def __init__(self, root: Path, temporary: Path, *changes: dict[str, dict[str, Any]]) -> None:
        self.root = root
        temporary.mkdir()
        copy_sources(root)
        params = yaml.safe_load((root / "params.yaml").read_text())
        for change in changes:
            for section, values in change.items():
                params[section] |= values
        (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
        scripts = Path(sys.executable).parent
        self.environment = os.environ | {
            "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
            "TMPDIR": str(temporary),
            "GIT_AUTHOR_NAME": "test",
            "GIT_AUTHOR_EMAIL": "test@localhost",
            "GIT_COMMITTER_NAME": "test",
            "GIT_COMMITTER_EMAIL": "test@localhost",
        }
        self.run("git", "init", "--quiet")
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", "before")

    def run(self, *command: str, code: int = 0) -> str:
        """Run a command in the project; what it printed, errors last. Fails on another exit status than `code`."""
        with subprocess.Popen(
            command,
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as child:
            try:
                printed, errors = child.communicate(timeout=1200)
            except BaseException:
                # With all that it started; a stage stops its servers when it is asked to.
                os.killpg(child.pid, signal.SIGTERM)
                raise
        assert child.returncode == code, f"{' '.join(command)}\n{printed[-3000:]}\n{errors[-3000:]}"
        return printed + errors

    def metrics(self, name: str) -> dict[str, Any]:
        return json.loads((self.root / "outputs" / "metrics" / f"{name}.json").read_text())

    def stale(self) -> set[str]:
        """The stages that have changed, without their candidates."""
        status = json.loads(self.run("dvc", "status", "--json").splitlines()[0])
        return {name.partition("@")[0] for name in status}

    def would_run(self) -> set[str]:
        """The stages that have changed and those that read what they write."""
        graph = Repo(str(self.root)).index.graph
        # An edge leads from a stage to what it depends on.
        named = {stage.name.partition("@")[0]: stage for stage in graph}
        stale = self.stale()
        behind = {stage for name in stale for stage in networkx.ancestors(graph, named[name])}
        return stale | {stage.name.partition("@")[0] for stage in behind}


def copy_sources(folder: Path) -> None:
    """Copy what git knows of this project, or would with the next `git add`."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
