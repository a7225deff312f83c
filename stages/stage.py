"""What every stage does around its work: log, time, measure memory, and turn an expected failure into one line."""

from __future__ import annotations

import contextlib
import logging
import resource
import sys
import time
from collections.abc import Iterator

from stages.files import read_json, write_json
from stages.paths import METRICS

TIMES = METRICS / "stages"


class StageError(Exception):
    """A failure that the user can mend; its message says how. Printed as one line, without a traceback."""


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Run a stage's work; afterwards write `outputs/metrics/stages/<name>.json` and print the times so far.

    Exits with status 1 on StageError.
    """
    # Our own modules speak; libraries only warn.
    logging.basicConfig(level=logging.WARNING, format=f"{name}: %(message)s")
    for ours in ("__main__", "stages"):
        logging.getLogger(ours).setLevel(logging.INFO)
    started = time.monotonic()
    try:
        yield
    except StageError as error:
        sys.exit(f"{name}: {error}")
    peak_kib = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    write_json(
        TIMES / f"{name}.json",
        {"seconds": round(time.monotonic() - started, 1), "peak_memory_mib": round(peak_kib / 1024)},
    )
    print_times()


def print_times() -> None:
    """Print seconds and peak memory of every stage that has run, in the order in which they ran."""
    rows = [
        (path.stem, read_json(path)) for path in sorted(TIMES.glob("*.json"), key=lambda path: path.stat().st_mtime)
    ]
    print(f"{'stage':<20}{'seconds':>9}{'MiB':>7}")
    for name, row in rows:
        print(f"{name:<20}{row['seconds']:>9.1f}{row['peak_memory_mib']:>7}")
    print(f"{'total':<20}{sum(row['seconds'] for _, row in rows):>9.1f}", flush=True)
