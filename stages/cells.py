"""What an ablation has measured, kept as soon as it is, so that a run can be interrupted."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from stages.files import read_json, write_json

log = logging.getLogger(__name__)


class Cells:
    """Measured cells by name, kept on disk; those of another fingerprint are forgotten."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        self._path = path
        kept = read_json(path) if path.is_file() else {}
        self._values = kept["cells"] if kept.get("fingerprint") == fingerprint else {}
        self._fingerprint = fingerprint

    def measure(self, name: str, call: Callable[[], dict[str, float]]) -> dict[str, float]:
        """The cell's value, from the last run or from `call`."""
        if name not in self._values:
            self._values[name] = call()
            write_json(self._path, {"fingerprint": self._fingerprint, "cells": self._values})
            log.info("%s: %s", name, self._values[name])
        return self._values[name]
