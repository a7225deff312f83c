"""What the seconds from `torchserve --start` to the first right answer are spent on, read from the server's own log.

    python -m tests.bench.coldstart --output coldstart.json

Each archive is started --runs times, in turn; the median of each step is reported.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

from stages.paths import MODEL_STORE
from stages.stage import StageError
from stages.torchserve import serving
from tests.bench.traffic import report

# What the log says at the end of each step; the last step ends with the answer.
ENDS = {
    "front end": "Loading initial models",
    "archive unpacked, ports open": "Metrics API bind to",
    "Python and PyTorch in the worker": "Torch worker started",
    "model imported, loaded, warmed up": "Backend received inference",
}
LAST = "first answer"


def steps(log: Iterable[str], started: float, ended: float) -> dict[str, float]:
    """Seconds of each step. log: lines of TorchServe's JSON log. started, ended: seconds since the epoch.

    Raises StageError where the log does not say when a step ended.
    """
    found: dict[str, float] = {}
    for line in log:
        if not line.startswith("{"):
            continue
        record = json.loads(line)
        for step, message in ENDS.items():
            if record["message"].startswith(message):
                found.setdefault(step, datetime.fromisoformat(record["time"]).timestamp())
    if missing := ENDS.keys() - found.keys():
        raise StageError(f"the log does not say when these ended: {', '.join(sorted(missing))}")
    times = [started, *(found[step] for step in ENDS), ended]
    return {step: times[i + 1] - times[i] for i, step in enumerate([*ENDS, LAST])}


def start(archive: Path) -> dict[str, float]:
    """Seconds of each step of one start."""
    with serving(archive, archive.stem) as server:
        ended = time.time()
        lines = server.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return steps(lines, ended - server.cold_start_s, ended) | {"total": server.cold_start_s}


def medians(runs: list[Mapping[str, float]]) -> dict[str, float]:
    """Of each step, over the runs."""
    return {step: round(statistics.median(run[step] for run in runs), 2) for step in runs[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archives", nargs="*", type=Path, help="default: all of the model store")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--output", type=Path, help="JSON file for the figures, which are printed as well")
    options = parser.parse_args()
    archives = options.archives or sorted(MODEL_STORE.glob("*.mar"))
    runs: dict[str, list[Mapping[str, float]]] = {archive.stem: [] for archive in archives}
    try:
        for _ in range(options.runs):
            for archive in archives:
                runs[archive.stem].append(start(archive))
    except StageError as error:
        sys.exit(f"coldstart: {error}")
    report({variant: medians(each) for variant, each in runs.items()}, options.output)


if __name__ == "__main__":
    main()
