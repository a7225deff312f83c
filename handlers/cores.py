"""The cores that a process may use, and how many of them each of several gets."""

from __future__ import annotations

import os
from pathlib import Path

# Of a container on Linux: microseconds of processor time a period, or "max", and the period
# (https://docs.kernel.org/admin-guide/cgroup-v2.html).
QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cores() -> int:
    """Cores this process may use, which in a container can be fewer than the machine has."""
    # Not every system can say which.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = QUOTA.read_text().split()
        return min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        return cores


def threads_each(workers: int) -> int:
    """Threads of each of so many workers: together as many as there are cores, less a remainder that they cannot share
    equally, but at least one."""
    return max(1, usable_cores() // workers)
