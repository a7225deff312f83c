"""Archives for benchmarks: of a bundle without the package stage, and with another number of workers."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import yaml

from stages.archive import build_archive
from stages.package import BUNDLE, HANDLERS, MODEL_CONFIG, TORCH


def torch_archive(bundle: Path, target: Path) -> Path:
    """The PyTorch variant of a bundle, without model card and provenance; returns `target`."""
    modules = {f"handlers/{path.name}": path for path in sorted(HANDLERS.glob("*.py"))}
    files = {name: bundle / name for name in (*BUNDLE, TORCH.weights)}
    build_archive(target, "1.0", HANDLERS / TORCH.entry, MODEL_CONFIG, modules | files)
    return target


def with_workers(archive: Path, workers: int, folder: Path) -> Path:
    """A copy of the archive in `folder` that asks for so many workers; they share the cores."""
    target = folder / archive.name
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(target, "w") as copy:
        for entry in source.infolist():
            with source.open(entry) as reader, copy.open(entry, "w") as writer:
                if entry.filename == MODEL_CONFIG.name:
                    config = yaml.safe_load(reader) | {"minWorkers": workers, "maxWorkers": workers}
                    writer.write(yaml.safe_dump(config).encode())
                else:
                    shutil.copyfileobj(reader, writer)
    return target
