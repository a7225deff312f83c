"""The cores that a process may use, and how many of them each of several gets."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Cores this process may use, which in a container can be fewer than the machine has."""
    # Not every system can say which.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_each(workers: int) -> int:
    """Threads of each of so many workers: together as many as there are cores, but at least one."""
    return max(1, usable_cores() // workers)
