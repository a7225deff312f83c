"""Archives for benchmarks: of a bundle without the package stage, and with other settings."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from stages.archive import build_archive
from stages.package import BUNDLE, HANDLERS, MODEL_CONFIG
from stages.stage import StageError
from stages.variants import TORCH, VARIANTS


def shipped_config() -> dict[str, Any]:
    """How TorchServe is told to run the model."""
    return yaml.safe_load(MODEL_CONFIG.read_text(encoding="utf-8"))


def torch_archive(bundle: Path, target: Path) -> Path:
    """The PyTorch variant of a bundle, without model card and provenance; returns `target`."""
    variant = VARIANTS[TORCH]
    modules = {f"handlers/{path.name}": path for path in sorted(HANDLERS.glob("*.py"))}
    files = {name: bundle / name for name in (*BUNDLE, variant.weights)}
    build_archive(target, "1.0", HANDLERS / variant.entry, MODEL_CONFIG, modules | files)
    return target


def with_config(
    archive: Path,
    folder: Path,
    workers: int | None = None,
    precision: str | None = None,
    queue: int | None = None,
    batch: int | None = None,
) -> Path:
    """A copy of the archive in `folder`, which is made, that asks for so many workers, which share the cores, for that
    precision of its PyTorch engine, for a queue of so many requests, or for batches of so many; the archive itself
    where none is given. Raises StageError where it is missing."""
    if not archive.is_file():
        raise StageError(f"{archive} is missing: run the package stage")
    if (workers, precision, queue, batch) == (None, None, None, None):
        return archive
    folder.mkdir(exist_ok=True)

    def change(config: dict[str, Any]) -> None:
        if workers is not None:
            config |= {"minWorkers": workers, "maxWorkers": workers}
        if precision is not None:
            config["handler"]["precision"] = precision
        if queue is not None:
            config["jobQueueSize"] = queue
        if batch is not None:
            config["batchSize"] = batch

    return reconfigured(archive, folder / archive.name, change)


def reconfigured(archive: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of the archive, its YAML changed in place by `change`; returns `target`."""
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(target, "w") as copy:
        for entry in source.infolist():
            with source.open(entry) as reader, copy.open(entry, "w") as writer:
                if entry.filename == MODEL_CONFIG.name:
                    config = yaml.safe_load(reader)
                    change(config)
                    writer.write(yaml.safe_dump(config).encode())
                else:
                    shutil.copyfileobj(reader, writer)
    return target
