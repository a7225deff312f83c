"""How much memory a process and all that it starts hold together."""

from __future__ import annotations

import contextlib
import resource
import threading
from pathlib import Path

import psutil

PAUSE_S = 0.5


class MemoryWatch:
    """Samples the resident memory of this process and all its descendants, summed, while the block runs.

    A page that several processes share counts once for each of them, so a sample is an upper bound of what they hold at
    that moment; what comes and goes between two samples, every PAUSE_S seconds, is not seen.
    """

    def __init__(self) -> None:
        self._most = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory-watch", daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def peak_bytes(self) -> int:
        """The largest sample; at least the peak of the largest single process, which the kernel knows between samples
        too: of this one, and of those of its children that have ended."""
        children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        # What getrusage says of this process is at least what the one that started it held.
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        own = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
        return max(self._most, 1024 * max(own, children))

    def _watch(self) -> None:
        process = psutil.Process()
        while True:
            self._most = max(self._most, resident_bytes([process, *process.children(recursive=True)]))
            if self._over.wait(PAUSE_S):
                return


def resident_bytes(processes: list[psutil.Process]) -> int:
    """Resident memory of the processes, summed; those that have ended meanwhile hold none."""
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total
