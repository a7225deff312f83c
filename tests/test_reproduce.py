"""Archives built again from a clone: on a tiny project with a real git history and a real DVC pipeline."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from stages.reproduce import STORE, recorded, table
from stages.stage import StageError

ROOT = Path(__file__).resolve().parent.parent
PIPELINE = f"""
stages:
  package:
    cmd: {shlex.quote(sys.executable)} pack.py
    deps: [pack.py]
    outs: [outputs/model_store]
    metrics:
      - outputs/metrics/package.json:
          cache: false
"""
# Packs the same bytes every time, unless a file outside of DVC's sight says otherwise.
PACK = """
import hashlib, json, os
from pathlib import Path

store, metrics = Path("outputs/model_store"), Path("outputs/metrics/package.json")
store.mkdir(parents=True, exist_ok=True)
metrics.parent.mkdir(parents=True, exist_ok=True)
content = os.environ.get("VOLATILE", "the same").encode()
(store / "newsgroups.mar").write_bytes(content)
metrics.write_text(json.dumps({"newsgroups": {"size_mb": 0.0, "sha256": hashlib.sha256(content).hexdigest()}}))
"""


def run(folder: Path, *command: str) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A committed project whose archive has been built once."""
    folder = tmp_path_factory.mktemp("project")
    run(folder, "git", "init", "--quiet")
    run(folder, sys.executable, "-m", "dvc", "init", "--quiet")
    (folder / "dvc.yaml").write_text(PIPELINE)
    (folder / "pack.py").write_text(PACK)
    run(folder, sys.executable, "-m", "dvc", "repro", "--quiet")
    run(folder, "git", "add", "--all")
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    run(folder, "git", *identity, "commit", "--quiet", "--message", "built")
    return folder


def reproduce(
    project: Path, monkeypatch: pytest.MonkeyPatch, *options: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    for name, value in {"PYTHONPATH": str(ROOT), **environment}.items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-m", "stages.reproduce", *options]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)


def test_the_same_bytes(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What is not committed stays behind.
    (project / "pack.py").write_text("raise SystemExit('not the commit')")
    done = reproduce(project, monkeypatch)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()[-2:]
    assert [line.split()[-1] for line in lines] == ["same", "same"]
    assert lines[0].startswith("newsgroups ") and lines[0].split()[1] == lines[0].split()[2]


def test_other_bytes_are_told(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = reproduce(project, monkeypatch, VOLATILE="something else")
    assert done.returncode == 1
    assert [line.split()[-1] for line in done.stdout.splitlines()[-2:]] == ["DIFFERENT", "DIFFERENT"]


def test_from_scratch_takes_nothing_from_a_cache_of_the_user(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text(f"[cache]\n    dir = {project / '.dvc' / 'cache'}\n")
    # Where DVC looks for the user's own settings.
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(tmp_path))
    done = reproduce(project, monkeypatch, "--from-scratch", VOLATILE="something else")
    assert done.returncode == 1, done.stdout
    assert [line.split()[-1] for line in done.stdout.splitlines()[-2:]] == ["DIFFERENT", "DIFFERENT"]


def test_a_commit_without_archives(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="run dvc repro and commit"):
        recorded(tmp_path)


def test_an_archive_that_is_missing_or_new_is_different() -> None:
    lines = table({"a": "1", "b": "2", STORE: "3"}, {"a": "1", "c": "4", STORE: "3"}).splitlines()[1:]
    assert [line.split()[-1] for line in lines] == ["same", "DIFFERENT", "DIFFERENT", "same"]


def test_recorded_reads_both_files(project: Path) -> None:
    hashes = recorded(project)
    assert set(hashes) == {"newsgroups", STORE}
    assert len(hashes["newsgroups"]) == 64 and hashes[STORE].endswith(".dir")
