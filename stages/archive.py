"""A reproducible TorchServe archive: the archiver's result with everything removed that changes from run to run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from stages.files import replacing
from stages.stage import StageError

MANIFEST = "MAR-INF/MANIFEST.json"
# The zip format knows no earlier day; a constant, so that no environment variable can change the bytes.
EPOCH = (1980, 1, 1, 0, 0, 0)
# Written down as such wherever the archive is built.
UNIX = 3
READABLE_FILE = 0o100644


def build_archive(target: Path, version: str, handler: Path, config: Path, files: Mapping[str, Path]) -> None:
    """Write `target`, whole. The model is called like its stem.

    handler: the entry module. config: the model's YAML. files: whatever else goes in, by its path inside the archive.
    The same contents give the same bytes. Raises StageError where the archiver refuses.
    """
    with tempfile.TemporaryDirectory() as folder, replacing(target) as temporary:
        work = Path(folder)
        for name, source in {**files, handler.name: handler, config.name: config}.items():
            link = work / "content" / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(source.resolve(strict=True))
        _run_archiver(work, target.stem, version, handler.name, config.name)
        _zip(work / target.stem, temporary)


def _run_archiver(work: Path, name: str, version: str, handler: str, config: str) -> None:
    """Make the folder `<name>` in `work` from its folder `content`."""
    # The archiver stages its files in the temporary folder under the model's name: without one of its own, two builds
    # at once would break each other. Relative paths, because it reads commas and brackets in a path as syntax.
    staging = work / "staging"
    staging.mkdir()
    command = [sys.executable, "-P", "-m", "model_archiver.model_packaging", "--archive-format", "no-archive"]
    command += ["--model-name", name, "--version", version, "--export-path", "."]
    command += ["--handler", f"content/{handler}", "--config-file", f"content/{config}", "--extra-files", "content"]
    environment = os.environ | {"TMPDIR": str(staging)}
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise StageError(f"torch-model-archiver refused {name}: {lines[-1] if lines else 'it said nothing'}")


def _zip(source: Path, target: Path) -> None:
    """Zip what the archiver made: sorted names, one time, one permission, and no time of creation in the manifest.

    Stored, not deflated: weights hardly shrink, a worker starts sooner, and zlib's output differs between versions.
    """
    manifest = source / MANIFEST
    fields = json.loads(manifest.read_text())
    del fields["createdOn"]
    manifest.write_text(json.dumps(fields, indent=1, sort_keys=True) + "\n")
    files = {path.relative_to(source).as_posix(): path for path in source.rglob("*") if path.is_file()}
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, path in sorted(files.items()):
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.create_system = UNIX
            entry.external_attr = READABLE_FILE << 16
            # Known beforehand, so that a member of any size gets the header that it needs.
            entry.file_size = path.stat().st_size
            with path.open("rb") as reader, archive.open(entry, "w") as writer:
                shutil.copyfileobj(reader, writer, 1 << 20)
