"""Training checkpoints: everything that resumes a run to the same bits, written whole, read as data only."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from stages.files import replacing
from stages.stage import StageError

# What a checkpoint belongs to: settings, data, encoder and so on, by name. Two runs with the same one are the same run.
Identity = dict[str, str]


def fingerprint(value: Any) -> str:
    """A short hash of anything that JSON can say, the same for the same value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def save(path: Path, identity: Identity, state: dict[str, Any]) -> None:
    """Write `state` and every process's generators; all processes call it, the first one writes.

    Raises StageError where the disk is full; the checkpoint before this one stays.
    """
    generators = gather_object([_generators()])
    if not PartialState().is_main_process:
        return
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            torch.save({"identity": identity, "generators": generators, **state}, file)
    except (OSError, RuntimeError) as error:
        raise StageError(
            f"{path} cannot be written ({error}): free some disk space and run again; it goes on from the checkpoint "
            "before this one"
        ) from error


def load(path: Path, identity: Identity) -> dict[str, Any] | None:
    """What `save` wrote, with this process's generators put back; None where there is no checkpoint.

    Raises StageError where it cannot be read, or belongs to another run: hours of work are neither taken for something
    else nor overwritten.
    """
    if not path.is_file():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        found, generators = content["identity"], content["generators"]
    except Exception as error:
        raise StageError(f"{path} cannot be read ({error}): delete it, and training starts anew") from error
    if found != identity:
        names = sorted(name for name in found.keys() | identity.keys() if found.get(name) != identity.get(name))
        changes = ", ".join(f"{name} was {found.get(name)} and is {identity.get(name)}" for name in names)
        raise StageError(
            f"{path} belongs to another run ({changes}): put that back to go on with it, or delete it to start anew"
        )
    own = generators[PartialState().process_index]
    torch.set_rng_state(own["cpu"])
    if "cuda" in own:
        torch.cuda.set_rng_state(own["cuda"])
    return content


def _generators() -> dict[str, torch.Tensor]:
    """States of this process's generators. No other than torch's are drawn from in the loop."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states
