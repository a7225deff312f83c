"""Training checkpoints: everything that resumes a run to the same bits, written whole, read as data only."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from stages.files import replacing
from stages.stage import StageError

log = logging.getLogger(__name__)


def save(path: Path, fingerprint: str, state: dict[str, Any]) -> None:
    """Write `state` and the generators' states. `fingerprint` names the data and settings that it belongs to.

    Raises StageError where the disk is full; the checkpoint before this one stays.
    """
    content = {"fingerprint": fingerprint, "random": torch.get_rng_state(), **state}
    if torch.cuda.is_available():
        content["random_cuda"] = torch.cuda.get_rng_state_all()
    try:
        with replacing(path) as temporary:
            torch.save(content, temporary)
    except (OSError, RuntimeError) as error:
        raise StageError(f"{path} cannot be written ({error}): free some disk space and run again") from error


def load(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """What `save` wrote, with the generators put back; None where there is nothing that belongs to this run."""
    if not path.is_file():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise StageError(f"{path} cannot be read ({error}): delete it, and training starts anew") from error
    if content["fingerprint"] != fingerprint:
        log.info("the checkpoint %s belongs to other data or settings: starting from the beginning", path)
        return None
    torch.set_rng_state(content["random"])
    if "random_cuda" in content and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(content["random_cuda"])
    return content
