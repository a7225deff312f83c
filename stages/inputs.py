"""What earlier stages wrote, and what the command line names: where it is missing, one line says what to run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from stages.files import read_json
from stages.paths import SELECTED_FILE
from stages.stage import StageError


def require(path: Path, mend: str = "run the stage that writes it") -> Path:
    """The path itself, of a file or a folder. Raises StageError where it is missing; mend: what to do then."""
    if not path.exists():
        raise StageError(f"{path} is missing: {mend}, or simply dvc repro")
    return path


def read_earlier(path: Path, mend: str = "run the stage that writes it") -> Any:
    """A JSON file of an earlier stage. Raises StageError where it is missing."""
    return read_json(require(path, mend))


def selected_name(bundle: Path) -> str:
    """The candidate behind the selected bundle. Raises StageError where nothing has been selected."""
    return read_earlier(bundle / SELECTED_FILE, "run the select stage")["name"]


def candidate_argument() -> str:
    """The candidate that the command line names. Exits with one line where it names none."""
    if len(sys.argv) < 2:
        module = Path(sys.argv[0]).stem
        sys.exit(f"{module}: name a candidate: python -m stages.{module} minilm")
    return sys.argv[1]
