"""What every stage does around its work: log, time, measure memory, and turn an expected failure into one line."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from stages.files import read_json, write_json
from stages.memory_watch import MemoryWatch
from stages.paths import METRICS

TIMES = METRICS / "stages"


class StageError(Exception):
    """A failure that the user can mend; its message says how. Printed as one line, without a traceback."""


@contextlib.contextmanager
def stage(name: str, timed: bool = True) -> Iterator[None]:
    """Run a stage's work; afterwards write `outputs/metrics/stages/<name>.json` and print the times so far.

    timed: not of what is no stage of the pipeline. Exits with status 1 on StageError.
    """
    # Our own modules speak; libraries only warn.
    logging.basicConfig(level=logging.WARNING, format=f"{name}: %(message)s")
    for ours in ("__main__", "stages"):
        logging.getLogger(ours).setLevel(logging.INFO)
    started = time.monotonic()
    try:
        with MemoryWatch() as memory:
            yield
    except StageError as error:
        sys.exit(f"{name}: {error}")
    if not timed:
        return
    write_json(
        TIMES / f"{name}.json",
        {"seconds": round(time.monotonic() - started, 1), "peak_memory_mib": round(memory.peak_bytes() / 2**20)},
    )
    print_times()


def print_times() -> None:
    """Print seconds and peak memory of every stage of this run, in the order in which they ran."""
    begun = run_began()
    written = sorted((path.stat().st_mtime, path) for path in TIMES.glob("*.json"))
    # Those of other runs came with the commit, or are of stages that had nothing to do.
    rows = [(path.stem, read_json(path)) for when, path in written if when >= begun]
    print(f"{'stage':<20}{'seconds':>9}{'MiB':>7}")
    for name, row in rows:
        print(f"{name:<20}{row['seconds']:>9.1f}{row['peak_memory_mib']:>7}")
    print(f"{'total':<20}{sum(row['seconds'] for _, row in rows):>9.1f}", flush=True)


def run_began() -> float:
    """When the `dvc` that runs this stage was started, seconds since the epoch; without one, when this process was."""
    process = psutil.Process()
    for parent in process.parents():
        with contextlib.suppress(psutil.AccessDenied, psutil.NoSuchProcess):
            # `dvc`, a script that some Python runs, or `python -m dvc`.
            if "dvc" in (Path(word).name for word in parent.cmdline()[:3]):
                return parent.create_time()
    return process.create_time()
